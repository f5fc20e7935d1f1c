"""Facts: how users tell them, ask for them, and how the model states them.

A fact has a key {k} and a value {v}. `state` is the one sentence in which the model confirms the fact when it is told
and gives it when it is asked: one fixed wording with the value last, so that a later answer can copy an earlier
confirmation: a network of this size finds what follows a place, not what stood before it. Templates that start with
"~" are held out: only the evaluation uses them.
"""
import re

from words import (ANIMALS, CHORES, COLORS, DRINKS, EVENTS, FOODS, FRUITS, JOBS, MONTHS, NOUNS, PLACES,
                   RELATIVES, SAYINGS, SPORTS)


class Kind:
    """One kind of fact. `unknown` completes "You have not told me ..." (None: such questions are not asked), `topics`
    complete "Do you remember ..." in the user's words; `unknown` in the user's words is one of them."""

    def __init__(self, value, tell, ask, state, unknown=None, keys=None, topics=()):
        self.value, self.tell, self.ask, self.state = value, tell, ask, state
        self.unknown, self.keys = unknown, keys
        self.topics = list(topics)
        if unknown:
            self.topics.append(re.sub(r"\byou\b", "I", re.sub(r"\byour\b", "my", unknown)))


# Ways of asking that fit every kind: {t} is one of its topics. The last ones do for things only, not for "where I live".
ASK_TOPIC = ["Tell me {t}.", "Please tell me {t}.", "Can you tell me {t}?", "Could you tell me {t}?", "Do you know {t}?",
             "Do you remember {t}?", "Do you still know {t}?", "I forgot {t}.", "I want to know {t}.", "I need to know {t}.",
             "I do not remember {t}.", "Help me remember {t}.", "I would like to know {t}.", "Have I told you {t}?",
             "Did I tell you {t}?", "I no longer know {t}.", "I wonder {t}.", "Would you tell me {t}?", "Let me know {t}.",
             "I cannot remember {t}.", "Do you have any idea {t}?", "Do you recall {t}?", "Can you remember {t}?",
             "I have forgotten {t}.", "You know {t}, right?", "I should know {t}, but I forgot.", "Say {t}.",
             "I keep forgetting {t}.", "I am trying to remember {t}.", "I am not sure {t}.", "Please repeat {t}.",
             "Did I mention {t}?", "Have I mentioned {t}?", "Somebody asked me {t}.", "My friend wants to know {t}.",
             "Please help me, I forgot {t}.", "You should know {t}.", "Try to remember {t}.", "Now tell me {t} again.",
             "Do you happen to know {t}?", "I would love to hear {t}.", "Can you say {t}?", "Will you tell me {t}?"]
ASK_THING = ["What is {t}?", "What was {t}?", "{t}, please.", "And {t}?", "What about {t}?", "What did I say about {t}?",
             "I am looking for {t}.", "Give me {t}.", "What do you have for {t}?", "{t}?", "What is {t} again?", "Read me {t}.",
             "What did you note for {t}?", "Look up {t}.", "Find {t} for me.", "What could {t} be?", "I need {t}.",
             "Show me {t}.", "What did I tell you about {t}?", "Which one was {t}?"]
CLAUSE = re.compile(r"(where|when|what|who|whom|how|which|(from|by|with|in|on) wh\w+) ")


def ask_template(kind, rng, heldout=False):
    """A question with {k} in it."""
    if heldout or rng.random() < .5:
        return rng.choice(wordings(kind.ask, heldout))
    topic = rng.choice(kind.topics)
    template = rng.choice(ASK_TOPIC if CLAUSE.match(topic) or rng.random() < .5 else ASK_THING).replace("{t}", topic)
    return template[0].upper() + template[1:] if not template.startswith("{k}") else template


KINDS = {
    "relative": Kind(
        "name",
        ["My {k}'s name is {v}.", "My {k} is called {v}.", "I have a {k} named {v}.", "{v} is my {k}.",
         "My {k} is named {v}.", "The name of my {k} is {v}.", "I call my {k} {v}.", "We named our {k} {v}.",
         "This is my {k} {v}.", "My {k} has the name {v}.", "{v} is the name of my {k}.", "My {k}, {v}, is here.",
         "At home I have a {k}, {v}.", "Everyone calls my {k} {v}.", "My {k} goes by {v}.", "Meet my {k}: {v}.",
         "The {k} I have is called {v}.", "My {k} is {v}.", "~I own a {k} that goes by the name {v}.",
         "~You should know that my {k} is called {v}."],
        ["What is my {k}'s name?", "What's my {k} called?", "Do you remember my {k}'s name?",
         "What is the name of my {k}?", "Can you tell me my {k}'s name?", "What is my {k} called?",
         "Tell me the name of my {k}.", "Who is my {k}?", "How is my {k} called?", "I forgot the name of my {k}.",
         "And my {k}?", "My {k} is called what?", "What is the name my {k} has?", "Which name does my {k} have?",
         "How do I call my {k}?", "What do I call my {k}?", "Could you say the name of my {k}?",
         "Do you know what my {k} is called?", "Say my {k}'s name.", "I want to know the name of my {k}.",
         "Remember my {k}? What is the name?", "What name did I give for my {k}?", "Do you still know my {k}'s name?",
         "My {k}'s name, please.", "Who is the {k} I told you about?", "Please tell me how my {k} is called.",
         "~What did I say my {k} is called?", "~Remind me, what name does my {k} have?", "~Name my {k}."],
        "Your {k} is called {v}.", "the name of your {k}", RELATIVES,
        topics=["my {k}'s name", "what my {k} is called", "how my {k} is called", "who my {k} is",
                "the name that my {k} has", "what I call my {k}", "which name my {k} has",
                "the name I gave for my {k}", "what name my {k} goes by"]),
    "code": Kind(
        "code",
        ["The code for the {k} is {v}.", "The {k} code is {v}.", "Use {v} for the {k}.",
         "Please remember the {k} code: {v}.", "The {k} opens with {v}.", "{v} is the {k} code.",
         "My {k} code is {v}.", "Keep in mind that the {k} code is {v}.", "I set the {k} code to {v}.",
         "The code of the {k} is {v}.", "For the {k}, the code is {v}.", "The {k} uses {v}.", "{v} opens the {k}.",
         "Type {v} at the {k}.", "The {k} needs the code {v}.", "They gave me {v} for the {k}.",
         "Write down the {k} code: {v}.", "For the {k} I use {v}.", "The new code for the {k} is {v}.",
         "~Note this: {k} = {v}.", "~To open the {k}, type {v}."],
        ["What is the code for the {k}?", "What is the {k} code?", "Which code opens the {k}?", "What's the {k} code?",
         "Do you remember the {k} code?", "Give me the code for the {k}.", "I forgot the {k} code. What is it?",
         "Tell me the {k} code.", "How do I open the {k}?", "I need the {k} code.", "And the {k} code?",
         "What opens the {k}?", "Which code is for the {k}?", "Do you know the code for the {k}?",
         "Can you tell me the {k} code?", "Could you give me the {k} code?", "What code do I use for the {k}?",
         "I am looking for the {k} code.", "Say the code for the {k}.", "What was the {k} code?",
         "What code did I give you for the {k}?", "The {k} code, please.", "Which code did I set for the {k}?",
         "The {k} is locked. What is the code?", "Do you still have the code for the {k}?",
         "~I am standing at the {k}. Which code do I need?", "~Remind me of the code of the {k}.",
         "~What do I type to open the {k}?"],
        "The {k} code is {v}.", "the {k} code", PLACES,
        topics=["the code for the {k}", "the code of the {k}", "which code opens the {k}", "what opens the {k}",
                "how to open the {k}", "what I type at the {k}", "my {k} code", "which code the {k} needs",
                "what the {k} code is", "the code that opens the {k}", "what I have to type for the {k}"]),
    "event": Kind(
        "moment",
        ["My {k} is on {v}.", "I have a {k} on {v}.", "The {k} is on {v}.", "On {v} I have a {k}.",
         "There is a {k} on {v}.", "The date of my {k} is {v}.", "My {k} takes place on {v}.",
         "They set my {k} for {v}.", "Do not let me miss my {k} on {v}.", "My {k} will be on {v}.",
         "{v} is the day of my {k}.", "~Put my {k} down for {v}."],
        ["When is my {k}?", "When do I have the {k}?", "What day is my {k}?", "Do you remember when my {k} is?",
         "When is the {k}?", "Which day is my {k}?", "Tell me when my {k} is.", "When does my {k} take place?",
         "What is the date of my {k}?", "On which day do I have my {k}?", "Can you tell me when the {k} is?",
         "I forgot when my {k} is.", "When was my {k} again?", "What did I say about the day of my {k}?",
         "~For when did I plan my {k}?", "~At what time is my {k}?"],
        "Your {k} is on {v}.", "when your {k} is", EVENTS,
        topics=["the date of my {k}", "the day of my {k}", "on which day my {k} is", "when I have my {k}",
                "what day my {k} is on", "when the {k} takes place", "the day and time of my {k}",
                "what time my {k} is", "when I planned the {k}"]),
    # people with invented names as keys
    "lives": Kind("city",
        ["{k} lives in {v}.", "{k} moved to {v}.", "The home of {k} is in {v}.", "{k} is from {v}.",
         "{k} has a house in {v}.", "{k} has lived in {v} for years.", "{v} is where {k} lives.",
         "These days {k} lives in {v}.", "{k} has a flat in {v}.", "{k} comes from {v}.", "~You can find {k} in {v}."],
        ["Where does {k} live?", "In which city does {k} live?", "Where is the home of {k}?", "Where is {k} from?",
         "What city does {k} live in?", "Tell me where {k} lives.", "Do you know where {k} lives?",
         "What is the home city of {k}?", "In what city is {k}?", "Where did {k} move to?",
         "Where does {k} come from?", "The city of {k}, please.", "~Which city is {k} in?"],
        "{k} lives in {v}.",
        topics=["where {k} lives", "the home of {k}", "the city of {k}", "where {k} is from",
                "which city {k} lives in", "what city is the home of {k}", "where to find {k}",
                "where {k} has a house"]),
    "likes": Kind(FOODS,
        ["{k} likes {v}.", "{k} loves to eat {v}.", "{k} eats {v} every day.", "What {k} likes best is {v}.",
         "{k} enjoys {v}.", "The food {k} likes is {v}.", "{k} asks for {v} all the time.",
         "~The favorite dish of {k} is {v}."],
        ["What does {k} like?", "What does {k} love to eat?", "What food does {k} like?", "What does {k} like to eat?",
         "Tell me what {k} likes.", "Which food does {k} like best?", "What does {k} enjoy?",
         "What is the favorite food of {k}?", "What does {k} eat every day?", "Do you remember what {k} likes?",
         "~What should I cook for {k}?"],
        "{k} likes {v}.",
        topics=["what {k} likes", "the favorite food of {k}", "what {k} likes to eat", "which food {k} likes",
                "what {k} eats", "what to cook for {k}", "{k}'s favorite food", "the dish that {k} likes"]),
    "badge": Kind("number",
        ["{k}'s badge number is {v}.", "{k} has badge number {v}.", "The badge number of {k} is {v}.",
         "{v} is {k}'s badge number.", "Badge number {v} belongs to {k}.", "{k} wears badge {v}.",
         "~The badge of {k} says {v}."],
        ["What is {k}'s badge number?", "Which badge number does {k} have?", "Tell me the badge number of {k}.",
         "What is the badge number of {k}?", "Which badge does {k} wear?", "Do you know {k}'s badge number?",
         "Give me {k}'s badge number.", "What number does {k} have?", "I need the badge number of {k}.",
         "~What number is on the badge of {k}?"],
        "{k} has badge number {v}.",
        topics=["the badge number of {k}", "{k}'s badge number", "which badge number {k} has", "the number of {k}",
                "what number {k} wears", "the number on {k}'s badge", "which badge {k} has"]),
    "friend": Kind("name",
        ["{k}'s friend is {v}.", "{k} is a friend of {v}.", "The best friend of {k} is {v}.", "{v} is {k}'s friend.",
         "{k} has a friend called {v}.", "{k} and {v} are friends.", "{k} has a good friend, {v}."],
        ["Who is {k}'s friend?", "Who is the friend of {k}?", "What is the name of {k}'s friend?",
         "Which friend does {k} have?", "Tell me who {k}'s friend is.", "Do you know {k}'s friend?",
         "Who is the best friend of {k}?", "What is {k}'s friend called?", "~Who is friends with {k}?"],
        "The friend of {k} is {v}.",
        topics=["the friend of {k}", "{k}'s friend", "who the friend of {k} is", "the name of {k}'s friend",
                "who is a friend of {k}", "who likes to be with {k} as a friend", "which friend {k} has"]),
    "work": Kind(JOBS,
        ["{k} is a {v}.", "{k} works as a {v}.", "{k} has a job as a {v}.", "The job of {k} is {v}.",
         "{k} became a {v}.", "At work {k} is a {v}.", "~{k} earns money as a {v}."],
        ["What is {k}'s job?", "What does {k} do for work?", "What does {k} work as?", "What is the job of {k}?",
         "Which job does {k} have?", "Tell me what {k} does for work.", "Do you know {k}'s job?",
         "What did {k} become?", "What kind of work does {k} do?", "~What is the profession of {k}?"],
        "{k} works as a {v}.",
        topics=["the job of {k}", "{k}'s job", "what {k} does for work", "what {k} works as", "which job {k} has",
                "the work of {k}", "what the profession of {k} may be", "how {k} earns money"]),
    "keeps": Kind(NOUNS,
        ["{k} keeps a {v} in the bag.", "{k} has a {v}.", "{k} bought a {v}.", "{k} carries a {v}.", "{k} got a {v}.",
         "{k} owns a {v}.", "In the bag of {k} is a {v}.", "{k} found a {v}."],
        ["What does {k} keep in the bag?", "What does {k} have?", "What did {k} buy?", "What does {k} own?",
         "What does {k} carry?", "Which thing does {k} have?", "What is in the bag of {k}?", "Tell me what {k} has.",
         "What did {k} get?"],
        "{k} has a {v}.",
        topics=["what {k} has", "what {k} keeps in the bag", "the thing that {k} has", "what is in the bag of {k}",
                "what {k} carries", "which thing {k} owns", "what {k} bought"]),
    "password": Kind("code",
        ["{k}'s password is {v}.", "The password of {k} is {v}.", "{k} uses the password {v}.",
         "{v} is the password of {k}.", "{k} set the password to {v}.", "The account of {k} has the password {v}.",
         "~{k} logs in with the password {v}."],
        ["What is {k}'s password?", "Tell me the password of {k}.", "Which password does {k} have?",
         "What is the password of {k}?", "Which password does {k} use?", "Do you know {k}'s password?",
         "Give me the password of {k}.", "I need {k}'s password.", "{k} forgot the password. What is it?",
         "~How does {k} log in?"],
        "The password of {k} is {v}.",
        topics=["the password of {k}", "{k}'s password", "which password {k} uses", "what the password of {k} is",
                "the password that {k} has", "the password for the account of {k}",
                "with which password {k} can log in"]),
    "said": Kind(SAYINGS,
        ["{k} said that {v}.", "{k} told me that {v}.", "{k} says that {v}.", "{k} thinks that {v}.",
         "{k} wrote that {v}.", "~According to {k}, {v}."],
        ["What did {k} say?", "What did {k} tell me?", "What does {k} say?", "What did {k} write?",
         "Tell me what {k} said.", "What does {k} think?", "~What do you know from {k}?"],
        "{k} said that {v}.",
        topics=["what {k} said", "the words of {k}", "what {k} told me", "what I know from {k}", "what {k} thinks",
                "what I heard from {k}"]),
    # asked by the value: who ...
    "who said": Kind("name",
        ["It was {v} who said that {k}.", "I heard from {v} that {k}.", "The one who said that {k} is {v}.",
         "That {k} I know from {v}.", "I know from {v} that {k}.", "The person who told me that {k} is {v}.",
         "That {k} was said by {v}.", "~It was {v} who told me that {k}."],
        ["Who said that {k}?", "Who told me that {k}?", "Who says that {k}?", "Which person said that {k}?",
         "Who wrote that {k}?", "Tell me who said that {k}.", "Who was it that said that {k}?",
         "From whom did I hear that {k}?", "~From whom do I know that {k}?"],
        "The one who said that {k} is {v}.", None, SAYINGS,
        topics=["who said that {k}", "who told me that {k}", "from whom I heard that {k}",
                "from whom I have it that {k}", "the person who said that {k}", "the one who told me that {k}",
                "by whom it was said that {k}", "which person said that {k}",
                "the name of the person who said that {k}"]),
    "who lives": Kind("name",
        ["In {k} lives {v}.", "The one who lives in {k} is {v}.", "The person I know in {k} is {v}.",
         "In {k} I know {v}.", "I have a friend in {k}, {v}.", "My friend in {k} is {v}.", "I visit {v} in {k}."],
        ["Who lives in {k}?", "Which person lives in {k}?", "Whom do I know in {k}?", "Who has a house in {k}?",
         "Who moved to {k}?", "Who comes from {k}?", "Tell me who lives in {k}.", "Do you know who lives in {k}?",
         "What is the name of the one who lives in {k}?"],
        "The one who lives in {k} is {v}.",
        topics=["who lives in {k}", "who has a house in {k}", "the person who lives in {k}",
                "the name of my friend in {k}", "whom I know in {k}", "who is from {k}", "the one who lives in {k}"]),
}

OWN = {
    "name": Kind("name",
        ["My name is {v}.", "I am {v}.", "Call me {v}.", "You can call me {v}.", "I'm {v}, nice to meet you.",
         "The name is {v}.", "Hello, I am {v}.", "They call me {v}.", "{v} is my name.", "My friends call me {v}.",
         "I go by {v}.", "~People know me as {v}."],
        ["What is my name?", "Do you remember my name?", "Who am I?", "What's my name?", "Can you tell me my name?",
         "Do you know my name?", "What name do I have?", "Tell me my name.", "What do my friends call me?",
         "Which name did I give you?", "Have I told you my name? What is it?", "Please tell me who I am.",
         "My name is what?", "What am I called?", "By what name do you know me?", "~How am I called?", "~Say my name."],
        "Your name is {v}.", "your name",
        topics=["who I am", "what I am called", "what my name is", "the name I have", "how people call me",
                "what people call me", "the name that I told you"]),
    "city": Kind("city",
        ["I live in {v}.", "My home is in {v}.", "I moved to {v} last year.", "My city is {v}.",
         "I have a house in {v}.", "{v} is where I live.", "These days I live in {v}.", "I am from {v}.",
         "I have lived in {v} for years.", "~My house stands in {v}."],
        ["Where do I live?", "Which city do I live in?", "What city do I live in?", "Where is my home?",
         "Do you remember where I live?", "What is my city?", "Tell me where I live.", "In which city is my home?",
         "Where is my house?", "What is the city I live in?", "Where am I from?", "Do you know where I live?",
         "~In what place is my house?"],
        "You live in {v}.", "where you live",
        topics=["my city", "my home", "the city I live in", "which city I live in", "where my house is",
                "where my home is", "the place where I live", "in what place I live"]),
    "color": Kind(COLORS,
        ["My favorite color is {v}.", "The color I like most is {v}.", "I love the color {v}.",
         "{v} is my favorite color.", "My color is {v}.", "The best color for me is {v}.",
         "I like {v} more than any other color.", "~No color is nicer than {v} to me."],
        ["What is my favorite color?", "Which color do I like most?", "Do you remember my favorite color?",
         "What color do I like?", "What is my color?", "Which color is my favorite?", "Tell me my favorite color.",
         "What is the color I like best?", "Do you know the color I love?", "What color do I like best?",
         "~Which color would I choose?"],
        "Your favorite color is {v}.", "your favorite color",
        topics=["the color I like best", "which color I like", "what color I love", "the color that I like most",
                "which color I would choose for a wall"]),
    "food": Kind(FOODS,
        ["My favorite food is {v}.", "I could eat {v} every day.", "The food I like best is {v}.",
         "{v} is my favorite food.", "I love to eat {v}.", "What I like to eat is {v}.", "My favorite dish is {v}.",
         "~Nothing tastes better to me than {v}."],
        ["What is my favorite food?", "Which food do I like best?", "What do I like to eat?", "What do I love to eat?",
         "Which food is my favorite?", "Tell me my favorite food.", "What could I eat every day?",
         "Do you remember what I like to eat?", "What is my favorite dish?", "~Which dish do I love?"],
        "Your favorite food is {v}.", "your favorite food",
        topics=["what I like to eat", "the food I like best", "which food I love", "my favorite dish",
                "the dish I like best", "what to cook for me"]),
    "fruit": Kind(FRUITS,
        ["The fruit I like best is {v}.", "My favorite fruit is {v}.", "{v} is my favorite fruit.",
         "I love to eat {v} as fruit.", "Of all fruit I like {v}."],
        ["What is my favorite fruit?", "Which fruit do I like best?", "Which fruit is my favorite?",
         "Tell me my favorite fruit.", "What fruit do I like?", "Do you remember my favorite fruit?"],
        "Your favorite fruit is {v}.", "your favorite fruit",
        topics=["the fruit I like best", "which fruit I like", "what fruit I love"]),
    "animal": Kind(ANIMALS,
        ["My favorite animals are {v}.", "The animals I love most are {v}.", "I love {v}.",
         "{v} are my favorite animals.", "Of all animals I like {v} most."],
        ["What are my favorite animals?", "Which animals do I love most?", "Which animals are my favorite?",
         "Tell me my favorite animals.", "What animals do I like?", "Do you remember which animals I love?"],
        "Your favorite animals are {v}.", "your favorite animals",
        topics=["the animals I like best", "which animals I love", "what animals I like"]),
    "drink": Kind(DRINKS,
        ["I always drink {v}.", "My favorite drink is {v}.", "{v} is my favorite drink.", "I like to drink {v}.",
         "For me it is always {v} to drink.", "~What I drink most is {v}."],
        ["What is my favorite drink?", "What do I always drink?", "Which drink is my favorite?",
         "Tell me my favorite drink.", "What do I like to drink?", "What drink do I like?",
         "~What should you pour me?"],
        "Your favorite drink is {v}.", "your favorite drink",
        topics=["what I like to drink", "the drink I like best", "which drink I like", "what to pour into my glass",
                "what I drink"]),
    "sport": Kind(SPORTS,
        ["My favorite sport is {v}.", "On weekends I do {v}.", "My sport is {v}.", "{v} is my favorite sport.",
         "The sport I like is {v}.", "I am good at {v}."],
        ["What is my favorite sport?", "What sport do I do?", "Which sport do I like?", "Which sport is my favorite?",
         "Tell me my favorite sport.", "What sport do I like?", "What am I good at?", "Which sport do I do?"],
        "Your favorite sport is {v}.", "your favorite sport",
        topics=["the sport I like", "which sport I do", "what sport I play", "what sport I am good at"]),
    "job": Kind(JOBS,
        ["I work as a {v}.", "I am a {v}.", "My job is {v}.", "I have a job as a {v}.", "For work I am a {v}.",
         "I became a {v}.", "~I make my living as a {v}."],
        ["What is my job?", "What do I do for work?", "Do you remember my job?", "What do I work as?",
         "Which job do I have?", "Tell me my job.", "What is the job I have?", "What kind of work do I do?",
         "What did I become?", "~What is my profession?"],
        "You work as a {v}.", "your job",
        topics=["what I do for work", "what I work as", "which job I have", "my profession", "how I earn money",
                "the work I do"]),
    "age": Kind("age",
        ["I am {v} years old.", "My age is {v}.", "I turned {v} this year.", "I am {v}.", "{v} years is my age.",
         "I have just turned {v}."],
        ["How old am I?", "What is my age?", "Do you remember how old I am?", "Tell me my age.", "Do you know my age?",
         "What age am I?", "How old did I say I am?", "~How many years old am I?"],
        "You are {v} years old.", "your age",
        topics=["how old I am", "how many years I have lived", "what age I am"]),
    "month": Kind(MONTHS,
        ["I was born in {v}.", "My birthday is in {v}.", "My birthday is some day in {v}.",
         "{v} is the month of my birthday.", "I have my birthday in {v}."],
        ["When is my birthday?", "In which month was I born?", "When was I born?", "What is the month of my birthday?",
         "Which month is my birthday?", "Tell me when my birthday is.", "Do you remember my birthday?"],
        "Your birthday is in {v}.", "when your birthday is",
        topics=["when I was born", "the month of my birthday", "in which month I was born",
                "which month my birthday is in"]),
    "number": Kind("number",
        ["My lucky number is {v}.", "Remember my number {v}.", "My number is {v}.", "My favorite number is {v}.",
         "{v} is my number.", "The number I like is {v}.", "~The number that brings me luck is {v}."],
        ["What is my lucky number?", "What is my number?", "Which number did I tell you?", "Which number is mine?",
         "Tell me my number.", "What is my favorite number?", "Do you remember my number?",
         "~What number should I bet on?"],
        "Your number is {v}.", "your number",
        topics=["my lucky number", "my favorite number", "which number I like", "the number that I told you",
                "what number to bet on for me"]),
    "street": Kind("name",
        ["I live on {v} Street.", "My street is {v} Street.", "My house is on {v} Street.",
         "{v} Street is where I live.", "My address is {v} Street."],
        ["Which street do I live on?", "What is my street?", "What is my street called?",
         "What is the street I live on?", "Tell me my street.", "What is my address?", "On which street is my house?",
         "What street do I live on?"],
        "You live on {v} Street.", "your street",
        topics=["my address", "which street I live on", "the street I live on", "what street my house is on"]),
    "hobby": Kind(CHORES,
        ["My hobby is {v}.", "I enjoy {v}.", "In my free time I do some {v}.", "{v} is my hobby.",
         "I like {v} in my free time.", "What I enjoy is {v}."],
        ["What is my hobby?", "What do I enjoy?", "What do I do in my free time?", "Which hobby do I have?",
         "Tell me my hobby.", "What do I like in my free time?", "What do I enjoy most?"],
        "Your hobby is {v}.", "your hobby",
        topics=["what I enjoy", "what I do in my free time", "which hobby I have", "the hobby that I have"]),
}

PERSON_KINDS = ["lives", "likes", "badge", "friend", "work", "keeps", "password", "said"]


def wordings(templates, heldout):
    """Training wordings, or the held-out ones where there are any."""
    chosen = [t[1:] for t in templates if t.startswith("~")] if heldout else \
             [t for t in templates if not t.startswith("~")]
    return chosen or [t.lstrip("~") for t in templates]


class Fact:
    """A kind with key and value drawn; text methods return (text, start, end) with the value at text[start:end]."""

    def __init__(self, values, family, key=None):
        self.family, self.values = family, values
        if family == "own":
            self.key = key or values.rng.choice(list(OWN))
            self.kind = OWN[self.key]
        elif family == "person":
            self.family = values.rng.choice(PERSON_KINDS)
            self.kind, self.key = KINDS[self.family], key or values.name()
        else:
            self.kind = KINDS[family]
            keys = self.kind.keys
            self.key = key or (values.rng.choice(keys) if keys else values.city() if family == "who lives"
                               else values.name())
        self.value = values.of(self.kind.value)
        self.id = self.family + ":" + self.key

    def redraw(self):
        """A new value, different from the old one."""
        old = self.value
        while self.value == old:
            self.value = self.values.of(self.kind.value)

    def fill(self, template):
        text = template.replace("{k}", self.key)
        if self.family == "who said" and text.startswith(self.key):
            text = text[0].upper() + text[1:]
        at = text.find("{v}")
        if at < 0:
            return text, 0, 0
        if text[:at].endswith(" a ") and self.value[0] in "aeio":    # a engineer -> an engineer
            text, at = text[:at - 1] + "n " + text[at:], at + 1
        return text.replace("{v}", self.value), at, at + len(self.value)

    def tell(self, heldout=False):
        return self.fill(self.values.rng.choice(wordings(self.kind.tell, heldout)))

    def ask(self, heldout=False):
        return self.fill(ask_template(self.kind, self.values.rng, heldout))[0]

    def state(self):
        return self.fill(self.kind.state)

    def unknown(self):
        return "You have not told me " + self.kind.unknown.replace("{k}", self.key) + "."


FAMILIES = (["relative", "code", "own", "person", "event", "who said", "who lives"], [24, 24, 18, 16, 6, 10, 6])


def draw(values, used=(), family=None):
    """A fact whose id is not in `used`."""
    while True:
        fact = Fact(values, family or values.rng.choices(*FAMILIES)[0])
        if fact.id not in used:
            return fact
