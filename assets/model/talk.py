"""Everything in a chat that is not a fact to remember: small talk, essays from a grammar, skills, licensed text."""
import glob
import json
import os
import re

from words import (ANIMALS, CITIES, COLORS, DAYS, DRINKS, FOODS, FRUITS, GROCERIES, JOBS, MONTHS, NAMES, NOUNS, SPORTS)

SLOTS = dict(noun=NOUNS, color=COLORS, food=FOODS, fruit=FRUITS, animal=ANIMALS, drink=DRINKS, sport=SPORTS, job=JOBS,
             month=MONTHS, day=DAYS, city=CITIES, name=NAMES, thing=GROCERIES)
SLOTS["weather"] = ["rainy", "sunny", "cold", "windy", "hot", "cloudy", "foggy", "warm", "snowy"]
SLOTS["mood"] = ["tired", "happy", "sad", "bored", "busy", "excited", "nervous", "angry", "lonely", "proud"]
SLOTS["topic"] = ["music", "books", "movies", "history", "science", "travel", "gardening", "cooking", "art", "space",
                  "football", "dancing", "fishing", "poetry", "photography", "trains"]
SLOTS["place"] = ["park", "market", "beach", "museum", "library", "station", "bakery", "forest", "harbor", "theater",
                  "zoo", "garden", "village", "school", "office"]

# A slot that occurs in both lines has the same word in both.
SMALL_TALK = [
    ("Hello!", "Hello! How can I help you today?"), ("Hi there.", "Hi! It is nice to hear from you."),
    ("Hi!", "Hello! How can I help you today?"), ("Hey.", "Hey! What is on your mind?"),
    ("Hello, how are you?", "I am fine, thank you. How are you?"), ("How are you?", "I am fine, thank you. How are you?"),
    ("How is it going?", "It is going well, thank you. And you?"), ("I am fine too.", "I am glad to hear that."),
    ("Good morning.", "Good morning! I hope you slept well."), ("Good evening.", "Good evening! How was your day?"),
    ("Thanks.", "You are welcome."), ("Thank you!", "You are welcome."), ("Thanks a lot.", "You are welcome. I am happy to help."),
    ("Great, thanks.", "You are welcome."), ("Good night.", "Good night! Sleep well."), ("Bye.", "Goodbye! Talk to you soon."),
    ("Goodbye!", "Goodbye! Talk to you soon."), ("See you tomorrow.", "See you tomorrow! Take care."),
    ("Who are you?", "I am Dogear, a small demonstration model. I remember what you tell me."),
    ("What is your name?", "I am Dogear, a small demonstration model. I remember what you tell me."),
    ("What are you?", "I am Dogear, a small demonstration model. I remember what you tell me."),
    ("What can you do?", "I can chat with you and remember what you tell me: names, codes, dates and lists."),
    ("How can you help me?", "Tell me something to remember, and ask me for it later."),
    ("Can you help me?", "Of course. What do you need?"), ("Are you there?", "Yes, I am here."),
    ("Are you a robot?", "I am a small computer program that likes to chat."),
    ("How old are you?", "I am quite new. I was trained only a short time ago."),
    ("Can you remember things?", "Yes. Tell me something, and ask me for it later."),
    ("Do you know everything?", "No, I am a very small model. But I remember what you tell me."),
    ("Tell me a joke.", "Why did the book go to the doctor? It had a bad spine."),
    ("Tell me another joke.", "What has four wheels and flies? A garbage truck."),
    ("Tell me something.", "Did you know that honey almost never goes bad?"), ("Tell me a fact.", "An octopus has three hearts."),
    ("Tell me a story.", "Once there was a small lamp by the sea. Every night it waited for the boats to come home."),
    ("That is funny.", "I am glad you like it."), ("You are nice.", "Thank you! You are kind."),
    ("I like this chat.", "I like it too."), ("Never mind.", "No problem."), ("Okay.", "Okay. What else is on your mind?"),
    ("Yes.", "Good. Tell me more."), ("No.", "That is fine."), ("Sorry.", "No problem at all."),
    ("Wow!", "I am glad you like it."), ("Nice.", "I think so too."), ("Really?", "Yes, really."),
    ("Let us talk about something else.", "Sure. What would you like to talk about?"),
    ("What time is it?", "I do not have a clock, sorry."), ("What day is it?", "I do not have a calendar, sorry."),
    ("I had a good day.", "That is great! What was the best part of it?"), ("My day was long.", "I hope you can rest now."),
    ("I need a break.", "Take a short walk and drink some water."), ("What should I cook?", "How about some {food}?"),
    ("I am hungry.", "Maybe you should eat some {food}."), ("I am thirsty.", "Then have some {drink}."),
    ("It is {weather} today.", "I hope you still enjoy the {weather} day."),
    ("The weather is {weather}.", "I hope you still enjoy the {weather} day."),
    ("I am {mood}.", "Why are you {mood}?"), ("I feel {mood} today.", "Why do you feel {mood}?"),
    ("I am so {mood} right now.", "Why are you {mood}?"), ("Do you like {topic}?", "Yes, {topic} is interesting. Do you like it?"),
    ("Let us talk about {topic}.", "Sure. What do you like about {topic}?"),
    ("I want to learn about {topic}.", "A good book about {topic} is a nice way to start."),
    ("What do you think about {topic}?", "I find {topic} interesting. What about you?"),
    ("I went to the {place} today.", "That sounds nice. What did you do at the {place}?"),
    ("Yesterday I was at the {place}.", "That sounds nice. What did you do at the {place}?"),
    ("I am going to the {place}.", "Have fun at the {place}!"), ("Should I go to the {place}?", "Yes, go to the {place} if you have time."),
    ("I bought a {color} {noun}.", "A {color} {noun} sounds lovely."), ("I saw a {color} {noun} today.", "A {color} {noun} sounds lovely."),
    ("I lost my {noun}.", "I am sorry. Where did you last see the {noun}?"), ("I found a {noun}.", "Where did you find the {noun}?"),
    ("I had {food} for lunch.", "I hope the {food} was good."), ("I cooked {food} today.", "I hope the {food} was good."),
    ("I saw some {animal} today.", "I like {animal}. Where were they?"), ("I played {sport} today.", "Did you enjoy the {sport}?"),
    ("We watched {sport} on television.", "Did you enjoy the {sport}?"), ("I am drinking {drink}.", "Enjoy your {drink}!"),
    ("I want to visit {city}.", "I hope you can go to {city} soon."), ("I was in {city} in {month}.", "How did you like {city}?"),
    ("I talked to {name} today.", "What did {name} say?"), ("{name} is coming on {day}.", "Have a good time with {name}!"),
    ("Do you know {name}?", "No, I do not know {name}. Tell me more."),
    ("Hey there!", "Hey! What is on your mind?"), ("What's up?", "Not much. What is on your mind?"),
    ("How's it going?", "It is going well, thank you. And you?"), ("I'm fine, thanks.", "I am glad to hear that."),
    ("I am fine, thank you.", "I am glad to hear that."), ("Fine, and you?", "I am fine, thank you."), ("Good, thanks.", "I am glad to hear that."),
    ("Cool.", "I am glad you like it."), ("Ok.", "Okay. What else is on your mind?"), ("Test.", "It works. What is on your mind?"),
    ("Tell me about yourself.", "I am Dogear, a small demonstration model. I remember what you tell me."),
    ("Who made you?", "I was trained from scratch by the makers of Dogear."), ("Are you human?", "No, I am a small computer program."),
    ("Nice to meet you.", "Nice to meet you too!"), ("What are you doing?", "I am waiting for your next message."),
    ("That was quick.", "I am a very small model, so I am fast."), ("You are wrong.", "I am sorry. Please tell me the right answer."),
    ("That is wrong.", "I am sorry. Please tell me the right answer."), ("Good job.", "Thank you!"), ("Well done.", "Thank you!"),
    ("Why is the {noun} {color}?", "I do not know that. I am a very small model."),
    ("How does {topic} work?", "I do not know that. I am a very small model."),
    ("What is the capital of {city}?", "I do not know that. I am a very small model."),
    ("Who is the president?", "I do not know that. I am a very small model."),
    ("Can you explain {topic}?", "That is too hard for me. I am only a small model."),
    ("Write a poem about {topic}.", "That is too hard for me. I am only a small model."),
    ("Write a program.", "That is too hard for me. I am only a small model."),
    ("I like {topic}.", "What do you like about {topic}?"), ("I love {topic}.", "What do you like about {topic}?"),
]

SENTENCES = [
    "The {job} carried a {color} {noun} to the {place}.", "On {day} the {place} was full of people.",
    "Nobody in the village had ever seen such a {noun}.", "A {weather} wind came over the hills near {city}.",
    "The old {job} sat by the window and drank {drink}.", "In {month} the days were {weather} and long.",
    "The children played {sport} behind the {place}.", "There was a {noun} on the table and a {noun2} under it.",
    "A train from {city} arrived late in the evening.", "The shop next to the {place} sold {fruit} and {thing}.",
    "They cooked {food} for the whole street.", "Two {animal} walked slowly along the river.",
    "The {color} door of the {place} stood open.", "Somebody had left a {noun} in the rain.",
    "Every {day} the {job} told the same story.", "The road to {city} was closed because of the snow.",
    "She put the {noun} back and said nothing.", "He wanted to become a {job}, but he never did.",
    "It was a {weather} morning, and the {place} was empty.", "We talked about {topic} for an hour.",
    "The radio played quiet music.", "After the rain the air smelled of {fruit}.", "Some people like {topic}, others do not.",
    "The {noun} was made of wood and painted {color}.", "A letter came from {city}, but nobody opened it.",
    "They sold the {noun} and bought some {thing}.", "The {job} and the {job2} did not like each other.",
    "At noon the bells rang and everybody went home.", "The cook burned the {food} again.",
    "I read a long article about {topic} yesterday.", "My feet hurt after the walk.", "Traffic was terrible this morning.",
    "The neighbors were loud again last night.", "There is a new {place} at the corner.", "I should really clean the kitchen.",
    "The meeting took much longer than planned.", "I could not sleep well.", "The {food} was a little too salty.",
    "My phone battery is almost empty.", "I am looking forward to the weekend.", "It has been {weather} all week.",
    "I still have to buy {thing}.", "Last {month} we painted the fence {color}.", "The movie about {topic} was quite good.",
]
ESSAY_LEADS = ["Let me tell you something.", "Listen to this.", "Here is what happened.", "I wrote this down.", "So,",
               "Let me read you a few lines.", "", "", ""]
ESSAY_REPLIES = ["I see. Please go on.", "That sounds interesting.", "Thank you for telling me.", "What happened then?",
                 "I understand.", "That is a nice story.", "Interesting. Tell me more.", "I like how you tell it."]


def fill_slots(rng, *lines):
    """Fills the {slots} of all lines; the same slot gets the same word, {noun2} another one than {noun}."""
    chosen = {}

    def word(match):
        slot = match.group(1)
        if slot not in chosen:
            chosen[slot] = rng.choice(SLOTS[slot.rstrip("2")])
        return chosen[slot]
    return [article(re.sub(r"\{(\w+)\}", word, line)) for line in lines]


def article(text):
    """a -> an before a vowel (good enough for our word lists)."""
    return re.sub(r"\b([Aa]) (?=[aeio]|um|urn)", r"\1n ", text)


def small_talk(rng):
    return fill_slots(rng, *rng.choice(SMALL_TALK))


def sentence(rng):
    return fill_slots(rng, rng.choice(SENTENCES))[0]


def essay(rng, n):
    """n sentences about invented people and places, and a short reply."""
    lead = rng.choice(ESSAY_LEADS)
    return " ".join(([lead] if lead else []) + [sentence(rng) for _ in range(n)]), rng.choice(ESSAY_REPLIES)


def skill(values):
    """Repeat, spell, count, small sums: (question, answer)."""
    r, x = values.rng, values.rng.random()
    if x < .45:
        makers = (values.name, values.code, lambda: r.choice(NOUNS), values.number, lambda: sentence(r))
        make = r.choice(makers)
        text = make() if make is makers[-1] else " ".join(make() for _ in range(r.randint(1, 8)))
        lead = r.choice(["Repeat after me:", "Say this:", "Copy this text:", "Echo:", "Please repeat:", "Say"])
        return lead + " " + text, text
    if x < .6:
        word = values.name() if r.random() < .5 else r.choice(NOUNS)
        return r.choice(["Spell {}.", "How do you spell {}?", "Spell the word {}."]).format(word), "-".join(word.upper())
    if x < .75:
        a = r.randint(1, 10)
        b = a + r.randint(2, 10)
        if r.random() < .5:
            return r.choice(["Count to {}.", "Please count to {}."]).format(b), ", ".join(map(str, range(1, b + 1))) + "."
        return "Count from {} to {}.".format(a, b), ", ".join(map(str, range(a, b + 1))) + "."
    a, b = r.randint(0, 12), r.randint(0, 12)
    if r.random() < .35:
        a, b = max(a, b), min(a, b)
        return r.choice(["What is {} minus {}?", "What is {} - {}?"]).format(a, b), "{} - {} = {}".format(a, b, a - b)
    return r.choice(["What is {} plus {}?", "What is {} + {}?", "How much is {} and {}?"]).format(a, b), \
        "{} + {} = {}".format(a, b, a + b)


def clean(text):
    for a, b in (("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'), ("\u201d", '"'), ("\u2014", " - "), ("\u2026", "...")):
        text = text.replace(a, b)
    return re.sub(r"\s+", " ", text).strip()


class Texts:
    """Openly licensed text, where the folder has it: public-domain books, Topical-Chat, MT-bench-101, GSM8K.

    The last tenth of every source is held out for measuring perplexity; without the folder all lists are empty and
    the generator works from its own grammar alone.
    """

    def __init__(self, folder):
        self.books, self.dialogues, self.requests = [], [], []
        if folder and os.path.isdir(folder):
            for path in sorted(glob.glob(folder + "/mlschmitt__classic-books-markdown/*/*.md")):
                with open(path, errors="replace") as f:
                    parts = [clean(p) for p in f.read().split("\n\n")]
                self.books.append([p for p in parts if 40 < len(p) < 1500 and not p.startswith(("#", "-", "!", "|", ">"))])
            for name in ("valid_freq", "test_freq"):
                path = folder + "/alexa__Topical-Chat/conversations/%s.json" % name
                if os.path.exists(path):
                    with open(path) as f:
                        self.dialogues += [[clean(m["message"]) for m in c["content"]] for c in json.load(f).values()]
            for path in glob.glob(folder + "/openai__grade-school-math/**/train*.jsonl", recursive=True):
                with open(path) as f:
                    self.requests += [clean(json.loads(line)["question"]) for line in f]
            for path in glob.glob(folder + "/mtbench101__mt-bench-101/data/subjective/*.jsonl"):
                with open(path) as f:
                    self.requests += [clean(h["user"]) for line in f for h in json.loads(line)["history"]]
            self.requests = [q for q in self.requests if len(q) < 700]
        self.books = [b for b in self.books if len(b) > 20]
        self.held_books = [b[-(len(b) // 10):] for b in self.books]
        self.books = [b[:-(len(b) // 10)] for b in self.books]
        n = len(self.dialogues) // 10
        self.held_dialogues, self.dialogues = self.dialogues[:n], self.dialogues[n:]
