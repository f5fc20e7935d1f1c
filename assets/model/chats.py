"""Writes chats: scenes (tell, change, ask, lists, two steps, notes, small talk ...) one after another until a length.

A message is a list of spans (text, weight); the weight is that of the loss on the tokens of the span. Told values
cannot be predicted and weigh 0; the value in an answer weighs most.
"""
import re

import bpe
import facts
import talk
from words import CHORES, GROCERIES, NOUNS, PEOPLE

W_USER, W_TEXT, W_REPLY, W_ECHO, W_VALUE = 0.0, 0.04, 0.3, 2.0, 2.5
W_NEXT = 1.95                                                   # the words of a summary that say which fact comes next
W_STATE = 1.9                                                   # the words of an answer that say what was asked for

ACKS = ["Got it.", "Okay.", "Noted.", "Thanks, noted.", "Understood.", "All right."]
PLAIN_ACKS = ACKS + ["I will remember that.", "Good to know.", "Thank you for telling me."]
LEADS = ["", "", "", "", "", "By the way, ", "Also, ", "Just so you know, ", "Listen, ", "Oh, and ", "One more thing. ",
         "Please remember this. ", "Please note: ", "Hi! ", "Hi, ", "Hello. ", "So, ", "Well, ", "For later: ", "You should know that ",
         "Remember that ", "I want to tell you something. ", "Let me tell you, ", "Don't forget: ", "For your information, "]
ASK_LEADS = ["", "", "", "", "", "", "Hey, ", "Quick question. ", "Okay. ", "Let me test you. ", "I have a question. ",
             "Sorry, ", "Well, ", "So, "]
CHANGES = ["Actually, that changed.", "Correction.", "Update:", "Sorry, I was wrong before.", "Things changed.",
           "Please forget the old one.", "No, wait.", "I made a mistake."]
ABOUT_ME = ["What do you know about me?", "What have I told you about me?", "Tell me what you know about me.",
            "Summarize what I told you.", "What did I tell you so far?", "List the facts you know about me.",
            "What do you remember about me?", "Tell me everything you know about me.", "What do you know so far?",
            "Tell me all you remember.", "Who am I and what do you know about me?", "What have I told you so far?",
            "What do you remember?", "What do you know?", "Summarize our chat.", "Give me a list of what I told you.",
            "Sum up what you know about me.", "What did you learn about me?", "Which facts do you know about me?",
            "Tell me a summary of my facts.", "Repeat everything I told you.", "What did I say about myself?",
            "~Give me a summary of what you learned about me.", "~Which things about me do you remember?"]
DO_NOT_KNOW = ["I do not know that. I am a very small model.", "That is too hard for me. I am only a small model."]
SMALL_STARTS = ("My ", "The ", "Use ", "On ", "We ", "This ", "Please ", "Keep ", "Call ", "You ", "Remember ", "In ", "There ",
                "At ", "Everyone ", "These ", "They ", "Type ", "Of ", "For ", "What ", "Write ", "Meet ")
ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth"]
ITEM_ASK = ["What is the {n} thing on my {k}?", "Which thing is {n} on my {k}?", "Tell me the {n} thing on my {k}.",
            "What comes {n} on my {k}?", "~Name the {n} thing on my {k}."]
LISTS = {"shopping list": GROCERIES, "packing list": NOUNS, "to-do list": CHORES, "wish list": NOUNS,
         "guest list": "name", "word list": NOUNS}
LIST_TELL = ["My {k}: {v}.", "Here is my {k}: {v}.", "Remember my {k}: {v}.", "On my {k} are {v}.", "~This goes on my {k}: {v}."]
LIST_ASK = ["What is on my {k}?", "Read me my {k}.", "What was my {k}?", "Repeat my {k}.", "Do you remember my {k}?",
            "What did I put on my {k}?", "What do I have on my {k}?", "Tell me my {k}.", "Show me my {k}.", "My {k}, please.",
            "Which things are on my {k}?", "I need my {k}.", "I forgot what is on my {k}.", "What belongs on my {k}?",
            "Tell me what is on my {k}.", "Can you read my {k} to me?", "Do you still have my {k}?", "And my {k}?",
            "Give me everything on my {k}.", "What did I want on my {k}?", "Could you repeat my {k}?", "I lost my {k}. What was on it?",
            "~Which things did I put on my {k}?"]
# (record, question, answer): facts without a person behind them, as documents and tables hold them
NOTES = [
    ("The code filed under {k} is {v}.", "Which code is filed under {k}?", "The code filed under {k} is {v}."),
    ("Entry: the number of {k} is {v}.", "What is the number of {k}?", "The number of {k} is {v}."),
    ("\"{k}\": \"{v}\",", "What is the value of \"{k}\"?", "\"{k}\": \"{v}\""),
    ("{k}: {v};", "Look up {k}.", "{k}: {v}"),
    ("{k} = {v}.", "What is {k}?", "{k} = {v}."),
]


SHORT = [(re.compile(a), b) for a, b in (
    (r"\b([Ww]hat|[Ww]ho|[Ww]here|[Ww]hen|[Hh]ow|[Tt]hat|[Ii]t|[Tt]here|name) is\b", r"\1's"), (r"\bI am\b", "I'm"), (r"\bdo not\b", "don't"),
    (r"\bcannot\b", "can't"), (r"\bI have (?=forgotten|lived|told)", "I've "), (r"\bI would\b", "I'd"), (r"\bis not\b", "isn't"),
    (r"\bdid not\b", "didn't"), (r"\bI will\b", "I'll"))]


def shorten(text):
    """Do not -> don't, as people type."""
    for pattern, short in SHORT:
        text = pattern.sub(short, text)
    return text


class Spans:
    """Text with weights; add() puts a space between parts."""

    def __init__(self):
        self.parts = []

    def add(self, text, weight, at=0, end=0, value_weight=0.0):
        if text:
            if self.parts:
                text, at, end = " " + text, at + 1, end + 1
            if end > at:
                self.parts += [(text[:at], weight), (text[at:end], value_weight), (text[end:], weight)]
            else:
                self.parts.append((text, weight))
        return self

    def text(self):
        return "".join(t for t, _ in self.parts)


class Chat:
    """A growing chat with what has been told in it. `heldout` uses held-out wordings for telling and asking; in a
    `casual` chat the user writes all in lower case; `bare` is the share of messages without their last mark, `again` that of new facts
    about somebody who has one already."""

    def __init__(self, values, texts, heldout=False, echo=None, casual=False, bare=0.0, short=False,
                 again=0.0):
        self.v, self.rng, self.texts, self.heldout, self.casual, self.bare = values, values.rng, texts, heldout, casual, bare
        self.short, self.again = short, again
        self.echo = self.rng.choice([1.0, 1.0, 1.0, 1.0, .9, .5]) if echo is None else echo
        self.messages, self.facts, self.used, self.lists, self.order, self.linked = [], [], set(), {}, [], {}
        self.since_asked, self.summed = {}, False

    # -- writing ------------------------------------------------------------------------------------------------
    def say(self, user, reply):
        parts = user.parts
        if self.short:
            parts = [(shorten(t), w) for t, w in parts]
        if self.casual:
            parts = [(t.lower(), w) for t, w in parts]
        if self.bare and self.rng.random() < self.bare and parts[-1][0].endswith((".", "?", "!")):
            parts = parts[:-1] + [(parts[-1][0][:-1], parts[-1][1])]
        self.messages += [("user", parts), ("assistant", reply.parts)]

    def typed(self, value):
        """A value as this user writes it, and so as the model gives it back."""
        return value.lower() if self.casual else value

    def plain(self, user, reply, weight=W_REPLY, user_weight=W_USER):
        self.say(Spans().add(user, user_weight), Spans().add(reply, weight))

    def padding(self, chance):
        return " ".join(talk.sentence(self.rng) for _ in range(self.rng.randint(1, 3))) if self.rng.random() < chance else ""

    def question(self, text, chance=.5, position=None):
        """The question alone, or (by chance, or as asked for) at the begin, in the middle or at the end of a message."""
        lead, low = self.rng.choice(ASK_LEADS), 3
        s, before, after = Spans(), "", ""
        if position is None and self.rng.random() < chance:
            position, low = self.rng.choice(["begin", "middle", "end"]), 1
        if position is not None:
            fill = [" ".join(talk.sentence(self.rng) for _ in range(self.rng.randint(low, 5))) for _ in range(2)]
            before = fill[0] if position in ("middle", "end") else ""
            after = fill[1] if position in ("middle", "begin") else ""
        return s.add(before, W_USER).add(lead + text if not lead or lead.endswith(". ") else lead + text[0].lower() + text[1:]
                                         if text[:2] != "I " else text, W_USER).add(after, W_USER)

    # -- facts --------------------------------------------------------------------------------------------------
    def reply_to(self, told):
        """Acknowledges facts; mostly by stating them, which makes them easier to find later."""
        s = Spans()
        if self.rng.random() < self.echo:
            s.add(self.rng.choice(ACKS), W_REPLY)
            for f in told:
                text, at, end = f.state()
                s.add(text, 1.0, at, end, W_ECHO)
        else:
            s.add(self.rng.choice(PLAIN_ACKS), W_REPLY)
        return s

    def new_fact(self, family=None):
        f = None
        people = [x.key for x in self.facts if x.family in facts.PERSON_KINDS] if self.again else []
        if family is None and people and self.rng.random() < self.again:
            f = facts.Fact(self.v, "person", self.rng.choice(people))
        elif family is None and self.rng.random() < .35:       # a second step: something about a relative by name
            for known in self.facts:
                if known.family == "relative" and known.key in PEOPLE and known.value not in self.linked:
                    f = facts.Fact(self.v, "person", known.value)
                    self.linked[known.value] = (known, f)
                    break
        f = f if f and f.id not in self.used else facts.draw(self.v, self.used, family)
        self.used.add(f.id)
        self.facts.append(f)
        f.key, f.value = self.typed(f.key), self.typed(f.value)
        return f

    def tell(self, n=None, family=None, padding=.2):
        n = n or self.rng.choices([1, 2, 3, 4], [6, 3, 2, 1])[0]
        s, told = Spans(), [self.new_fact(family) for _ in range(n)]
        s.add(self.padding(padding), W_USER)
        for i, f in enumerate(told):
            if i and self.rng.random() < .3 and s.parts[-1][0].endswith("."):    # "My name is Ann and I live in Oslo."
                s.parts[-1] = (s.parts[-1][0][:-1], s.parts[-1][1])
                self.add_telling(s, f, "and ")
            else:
                self.add_telling(s, f)
        s.add(self.padding(padding), W_USER)
        self.say(s, self.reply_to(told))
        return told

    def add_telling(self, s, f, lead=None):
        text, at, end = f.tell(self.heldout)
        lead = self.rng.choice(LEADS) if lead is None else lead
        if lead.endswith((", ", "and ", "that ")) and text.startswith(SMALL_STARTS):
            text = text[0].lower() + text[1:]
        s.add(lead + text, W_USER, at + len(lead), end + len(lead), 0.0)

    def change(self, f=None):
        able = [x for x in self.facts if x.family in ("relative", "code", "own", "event", "lives")
                and x.value not in self.linked and x.key not in self.linked]
        if not able and f is None:
            return self.tell()
        f = f or self.rng.choice(able)
        f.redraw()
        f.value = self.typed(f.value)
        self.since_asked[f.id] = -2
        s = Spans()
        self.add_telling(s, f, self.rng.choice(CHANGES) + " ")
        self.say(s, self.reply_to([f]))
        return f

    def answer(self, *asked):
        s = Spans()
        for f in asked:
            text, at, end = f.state()
            s.add(text, W_STATE, at, end, W_VALUE)
        return s

    def pick_fact(self):
        few = self.rng.sample(self.facts, min(3, len(self.facts)))
        f = min(few, key=lambda x: self.since_asked.get(x.id, 0) + self.rng.random())
        self.since_asked[f.id] = self.since_asked.get(f.id, 0) + 1
        return f

    def ask(self, f=None, position=None, chance=.5):
        f = f or self.pick_fact()
        self.say(self.question(f.ask(self.heldout), chance, position), self.answer(f))

    def ask_two(self):
        a, b = self.rng.sample(self.facts, 2)
        qa, qb = a.ask(self.heldout), b.ask(self.heldout)
        text = qa + " " + qb if self.rng.random() < .5 else qa.rstrip("?.") + " and " + qb[0].lower() + qb[1:]
        self.say(self.question(text), self.answer(a, b))

    def ask_unknown(self, f=None, position=None):
        family = self.rng.choice(["relative", "code", "own", "event"])
        f = f or facts.draw(self.v, self.used, family)
        self.say(self.question(f.ask(self.heldout), .4, position), Spans().add(f.unknown(), W_STATE))

    def ask_two_steps(self, position=None):
        """Where does my sister live? -> the sister's name, then the fact under that name."""
        links = [(a, b) for a, b in self.linked.values() if a in self.facts and b in self.facts]
        if not links:
            return self.ask()
        first, second = self.rng.choice(links)
        template = facts.ask_template(second.kind, self.rng, self.heldout)
        self.say(self.question(template.replace("{k}", "my " + first.key), .4, position), self.answer(first, second))

    def about_me(self, position=None):
        """At most the first six facts about the user, in the order told."""
        mine = [f for f in self.facts if f.family in ("relative", "own", "event", "code")][:6]
        if not mine:
            return self.plain(self.rng.choice(facts.wordings(ABOUT_ME, False)), "You have not told me anything yet.", 1.0)
        self.summed = True
        s = Spans().add("You told me this:", W_STATE)
        for f in mine:
            text, at, end = f.state()
            s.add(text, W_NEXT, at, end, W_ECHO)
        self.say(self.question(self.rng.choice(facts.wordings(ABOUT_ME, self.heldout)), .3, position), s)

    # -- lists --------------------------------------------------------------------------------------------------
    def list_state(self, name):
        text = "Your %s: %s." % (name, ", ".join(self.lists[name]))
        return text, len(name) + 7, len(text) - 1

    def list_new(self, name=None):
        name = name or self.rng.choice(list(LISTS))
        n, source = self.rng.randint(2, 6), LISTS[name]
        items = [self.v.name() for _ in range(n)] if source == "name" else self.rng.sample(source, n)
        self.lists[name] = [self.typed(x) for x in items]
        template = self.rng.choice(facts.wordings(LIST_TELL, self.heldout)).replace("{k}", name)
        at, items = template.index("{v}"), ", ".join(self.lists[name])
        s = Spans().add(template.replace("{v}", items), W_USER, at, at + len(items), 0.0)
        self.say(s, self.list_reply(name))
        return name

    def list_reply(self, name):
        s = Spans().add(self.rng.choice(ACKS), W_REPLY)
        return s.add(*self.shift(self.list_state(name), W_ECHO)) if self.rng.random() < self.echo else s

    @staticmethod
    def shift(state, value_weight):
        text, at, end = state
        return text, W_STATE, at, end, value_weight

    def list_add(self):
        name = self.rng.choice(list(self.lists))
        source = LISTS[name]
        item = self.typed(self.v.name() if source == "name" else self.rng.choice(source))
        if item in self.lists[name] or len(self.lists[name]) >= 7:
            return self.list_ask()
        self.lists[name].append(item)
        text = self.rng.choice(["Add %s to my %s.", "Please put %s on my %s.", "Also put %s on my %s."]) % (item, name)
        self.say(Spans().add(text, W_USER), self.list_reply_echo(name))

    def list_reply_echo(self, name):
        return Spans().add(self.rng.choice(ACKS), W_REPLY).add(*self.shift(self.list_state(name), W_ECHO))

    def list_ask(self, name=None, position=None, form=None):
        name = name or self.rng.choice(list(self.lists))
        items, x = self.lists[name], self.rng.random() if form is None else form
        if x < .6:
            q = self.rng.choice(facts.wordings(LIST_ASK, self.heldout)).replace("{k}", name)
            a = Spans().add(*self.shift(self.list_state(name), W_VALUE * .6))
        elif x < .8:
            i = self.rng.randrange(min(4, len(items)))
            q = self.rng.choice(facts.wordings(ITEM_ASK, self.heldout)).replace("{n}", ORDINALS[i]).replace("{k}", name)
            a, text = Spans(), "The first thing on your %s is " % name      # it counts aloud up to the one asked for
            for n, item in enumerate(items[:i + 1]):
                text += item + ("." if n == i else ",")
                a.add(text, W_STATE, len(text) - 1 - len(item), len(text) - 1, W_VALUE)
                text = "the %s is " % ORDINALS[n + 1]
        else:
            q = self.rng.choice(["How many things are on my %s?", "Count the things on my %s."]) % name
            a = Spans().add(*self.shift(self.list_state(name), W_ECHO)).add("That is %d things." % len(items), 1.5)
        self.say(self.question(q, .4, position), a)

    # -- documents ----------------------------------------------------------------------------------------------
    def notes(self, n=None, form=None, asks=None, prose=None, several=.6):
        """A message full of records, with or without prose between them, then questions about them; `several` is the
        chance that some keys have several values, where the form of record can have them."""
        r = self.rng
        n = n or r.randint(3, 14)
        record, q, a = NOTES[r.choice([0, 0, 1, 2, 3, 4]) if form is None else form]
        make_key = r.choice([self.v.name, lambda: r.choice(NOUNS), self.v.code])
        make_value = r.choice([self.v.code, self.v.number, self.v.name])
        keys = list(dict.fromkeys(self.typed(make_key()) for _ in range(n)))
        table = {k: [self.typed(make_value())] for k in keys}
        if record == NOTES[0][0] and r.random() < several:       # several values under one key
            for k in r.sample(keys, min(2, len(keys))):
                table[k] += [self.typed(make_value()) for _ in range(r.randint(1, 2))]
        lines = [(k, v) for k in keys for v in table[k]]
        if r.random() < .5:
            r.shuffle(lines)
            table = {k: [v for x, v in lines if x == k] for k in keys}
        many = any(len(table[k]) > 1 for k in keys)
        prose = r.random() < .3 if prose is None else prose
        s = Spans().add(r.choice(["Please read this:", "Keep these notes:", "Here is a table:", "Remember this:"]), W_USER)
        for k, v in lines:
            if prose:
                s.add(talk.sentence(r), W_USER)
            s.add(record.replace("{k}", k).replace("{v}", v), W_USER)
        self.say(s, Spans().add(r.choice(PLAIN_ACKS), W_REPLY))
        for _ in range(asks if asks is not None else r.randint(2, 5)):
            k = r.choice([k for k in keys if len(table[k]) > 1] if many and r.random() < .65 else keys)
            question, answer = "Give every code filed under %s." % k if len(table[k]) > 1 else q.replace("{k}", k), Spans()
            for v in table[k]:
                text = a.replace("{k}", k)
                at = text.index("{v}")
                answer.add(text.replace("{v}", v), W_STATE, at, at + len(v), W_VALUE)
            self.say(self.question(question, .4), answer)
        return table

    def trace(self, hops=None, noise=None):
        """Variables that copy each other; the answer walks the chain: X2 = X1. X1 = 4711."""
        r = self.rng
        hops = hops or r.randint(1, 3)
        names = list(dict.fromkeys(self.typed("".join(r.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(r.randint(3, 4))))
                                   for _ in range(hops * 3 + 6)))
        chain, others = names[:hops + 1], names[hops + 1:hops + 3 + (noise or 1)]
        value = self.v.number(100, 99999)
        lines = ["%s = %s." % (chain[0], value)] + ["%s = %s." % (b, a) for a, b in zip(chain, chain[1:])]
        extra = ["%s = %s." % (x, self.v.number(100, 99999)) for x in others]
        for e in extra:
            lines.insert(r.randrange(len(lines) + 1), e)
        s = Spans().add("Variables:", W_USER)
        for line in lines:
            s.add(line, W_USER)
        self.say(s, Spans().add(r.choice(PLAIN_ACKS), W_REPLY))
        back = chain[::-1]
        answer = Spans()
        for a, b in zip(back, back[1:] + [value]):
            answer.add("%s = %s." % (a, b), W_STATE, len(a) + 3, len(a) + 3 + len(b), W_VALUE * .75)
        q = r.choice(["Trace %s.", "What number does %s hold?", "Follow %s to its number."]) % back[0]
        return q, answer, value

    # -- other talk ---------------------------------------------------------------------------------------------
    def filler(self, licensed=True, long=.25):
        r, x = self.rng, self.rng.random()
        if not licensed or not self.texts.books or x < .55:
            if r.random() < long:
                return self.plain(*talk.essay(r, r.randint(2, 7)))
            return self.plain(*talk.small_talk(r))
        if x < .82 and self.texts.dialogues:                    # other people's words, answered within what it can do
            said = r.choice(r.choice(self.texts.dialogues))
            return self.plain(said, r.choice(DO_NOT_KNOW if said.rstrip().endswith("?") else talk.ESSAY_REPLIES), W_REPLY, W_TEXT)
        if x < .92 or not self.texts.requests:
            p = r.choice(r.choice(self.texts.books))[:500]
            return self.plain("I am reading a book. " + p, r.choice(talk.ESSAY_REPLIES), W_REPLY, W_TEXT)
        return self.plain(r.choice(self.texts.requests), r.choice(
            ["That is too hard for me. I am only a small model.", "I cannot do that. I am only a small model.",
             "Sorry, I am only a small demonstration model."]), W_REPLY, W_TEXT)

    def tokens(self, tok):
        """Token ids of the ChatML text and the loss weight of each."""
        ids, weights = [], []
        for role, parts in self.messages:
            text, w = role + "\n", [0.0] * (len(role) + 1)
            for t, x in parts:
                text += t
                w += [x] * len(t)
            ids.append(tok.start)
            weights.append(0.0)
            at = 0
            for word in bpe.SPLIT.findall(text):
                piece = tok.encode(word)
                ids += piece
                at += len(word)
                weights += [w[at - 1]] * len(piece)
            ids.append(tok.end)
            weights.append(W_REPLY if role == "assistant" else 0.0)
            ids += tok.encode("\n")
            weights.append(0.0)
        return ids, weights

    def length(self, tok):
        """Token count so far, kept up as messages come."""
        done, total = getattr(self, "_counted", (0, 0))
        for role, parts in self.messages[done:]:
            total += len(tok.encode(role + "\n" + "".join(t for t, _ in parts))) + 3
        self._counted = (len(self.messages), total)
        return total
