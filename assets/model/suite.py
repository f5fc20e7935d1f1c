"""Makes recall.jsonl, the held-out recall suite: one JSON object a line (format and scoring: README.md).

Values come from the held-out side of the split, half of the items use wordings never seen in training, and other talk
comes from our own grammar and from held-out pages of public-domain books. The same seed gives the same file.

    python suite.py --data ../../../shared/data --out recall.jsonl
"""
import argparse
import json
import os
import random
import re

import bpe
import chats
import facts
import talk
from words import PEOPLE, Values

HERE = os.path.dirname(os.path.abspath(__file__))
COUNTS = {1024: 60, 2048: 60, 4096: 30, 8192: 12}
POSITIONS = ["alone", "begin", "middle", "end"]
TASKS = ["recall", "recall", "changed", "list", "two_step", "unknown", "who_said", "about_me", "lookup", "multi_value",
         "trace", "shared"]


def normal(s):
    """Lower case; everything but letters and digits becomes one space."""
    return re.sub(r"[^a-z0-9]+", " ", s.lower()).strip()


def contains(answer, wanted):
    return " " + normal(wanted) + " " in " " + normal(answer) + " "


def correct(answer, turn):
    """The scoring rule of the suite."""
    return all(contains(answer, e) for e in turn["expect"]) and not any(contains(answer, r) for r in turn["reject"])


class Item:
    """A chat that grows to `n_tok` tokens of context with its facts at even distances, then turns that ask for them."""

    def __init__(self, seed, task, n_tok, position, heldout, texts, tok, echo):
        self.values, self.task, self.n_tok, self.tok = Values(seed, True), task, n_tok, tok
        self.rng, self.position = self.values.rng, position
        self.chat = chats.Chat(self.values, texts, heldout, echo=1.0 if echo else 0.0)
        self.old, self.turns, self.texts = [], [], texts
        self.asked = None if position == "alone" else position

    def filler(self):
        if self.texts.held_books and self.rng.random() < .15:
            p = self.rng.choice(self.rng.choice(self.texts.held_books))[:300]
            return self.chat.plain("I am reading a book. " + p.encode("ascii", "ignore").decode(), self.rng.choice(talk.ESSAY_REPLIES))
        return self.chat.filler(licensed=False, long=.5)

    def spread(self, events, reserve=70):
        """Runs the events at even distances over the context, other talk between them."""
        room = self.n_tok - reserve - (400 if self.n_tok == 8192 else 0)      # answers too must fit the model's context
        places = sorted(self.rng.uniform(.03, .85) * room for _ in events)
        for place, event in zip(places, events):
            while self.chat.length(self.tok) < place:
                self.filler()
            event()
        while self.chat.length(self.tok) < room - 40:
            self.filler()

    def turn(self, ask, expect, kind=None):
        """Lets the chat write question and gold answer, and moves them from the context to the turns."""
        ask()
        (_, user), (_, gold) = self.chat.messages[-2:]
        del self.chat.messages[-2:]
        gold = "".join(t for t, _ in gold)
        told = {f.value for f in self.chat.facts} | set(self.old)
        told -= {v for v in told if contains(gold, v) or any(contains(e, v) for e in expect)}
        self.turns.append(dict(user="".join(t for t, _ in user), expect=expect, reject=sorted(told), gold=gold,
                               kind=kind or self.task))

    def ask(self, f, kind=None):
        self.turn(lambda: self.chat.ask(f, self.asked, 0), [f.value], kind or f.family)

    def tellers(self, n, family=None):
        return [lambda: self.chat.tell(1, family, .4) for _ in range(n)]

    def change(self, f):
        self.old.append(f.value)
        self.chat.change(f)

    def plan(self):
        c, r, more = self.chat, self.rng, {1024: 0, 2048: 2, 4096: 4, 8192: 6}.get(self.n_tok, 0)
        n_turn = r.randint(1, 5)
        if self.task in ("recall", "shared"):
            events = self.tellers(5 + more)
            if self.task == "shared":
                events += [lambda: c.list_new("shopping list")]
                r.shuffle(events)
            self.spread(events)
            for f in r.sample(c.facts, min(n_turn if self.task == "recall" else 3, len(c.facts))):
                self.ask(f)
            if self.task == "shared":
                self.turn(lambda: c.list_ask("shopping list", self.asked, 0), [", ".join(c.lists["shopping list"])], "list")
                self.turn(lambda: c.ask_unknown(None, self.asked), ["have not told"], "unknown")
        elif self.task == "changed":
            events = self.tellers(2, "code") + self.tellers(2, "relative") + self.tellers(more // 2)
            self.spread(events + [lambda i=i: self.change(c.facts[i]) for i in range(3)])
            for f in r.sample(c.facts[:3], min(3, n_turn)):
                self.ask(f, "changed")
        elif self.task == "list":
            names = r.sample(list(chats.LISTS), 2)
            self.spread([lambda: c.list_new(names[0])] + self.tellers(2) + [lambda: c.list_new(names[1])] + self.tellers(1 + more // 2))
            for name in names:
                self.turn(lambda: c.list_ask(name, self.asked, 0), [", ".join(c.lists[name])], "list")
            third = len(self.turns)
            self.turn(lambda: c.list_ask(names[0], self.asked, .7), [], "list item")
            gold = self.turns[third]["gold"].rstrip(".")
            named = gold.count(", the ") + 1                      # the answer counts up to the one asked for, no further
            self.turns[third]["expect"] = [gold.split(", ")[-1]]
            self.turns[third]["reject"] = [x for x in c.lists[names[0]][named:] if not contains(gold, x)]
        elif self.task == "two_step":
            self.two_step(more)
        elif self.task == "unknown":
            self.spread(self.tellers(3, "relative") + self.tellers(3, "code") + self.tellers(more // 2))
            for family in r.sample(["relative", "code", "own", "event"], min(4, n_turn)):
                f = facts.draw(self.values, c.used, family)
                c.used.add(f.id)
                self.turn(lambda: c.ask_unknown(f, self.asked), ["have not told"])
            self.ask(r.choice(c.facts))
        elif self.task == "who_said":
            self.spread(self.tellers(3, "who said") + self.tellers(2 + more // 2))
            for f in c.facts[:min(3, n_turn)]:
                if f.family == "who said":
                    self.ask(f)
            if not self.turns:
                self.ask(c.facts[0])
        elif self.task == "about_me":
            self.spread([lambda k=k: c.tell(1, k, .4) for k in r.sample(["own", "own", "relative", "event", "code"], 4)])
            self.turn(lambda: c.about_me(self.asked), [f.value for f in c.facts[:6]])
            self.ask(r.choice(c.facts))
        else:
            self.documents(n_turn, more)

    def two_step(self, more):
        c, r = self.chat, self.rng
        pairs = []

        def second(i):
            first = pairs[i]
            f = facts.Fact(self.values, "person", first.value)
            c.used.add(f.id)
            c.linked[first.value] = (first, f)
            s = chats.Spans()
            c.facts.append(f)
            c.add_telling(s, f)
            c.say(s, c.reply_to([f]))

        def first(key):
            f = facts.Fact(self.values, "relative", key)
            c.used.add(f.id)
            c.facts.append(f)
            pairs.append(f)
            s = chats.Spans()
            c.add_telling(s, f)
            c.say(s, c.reply_to([f]))
        a, b = r.sample(PEOPLE, 2)
        self.spread([lambda: first(a), lambda: first(b), lambda: second(0)] + self.tellers(2 + more // 2) + [lambda: second(1)])
        for one, two in [c.linked[p.value] for p in pairs]:
            c.linked = {one.value: (one, two)}
            self.turn(lambda: c.ask_two_steps(self.asked), [two.value])

    def documents(self, n_turn, more):
        """Records in long messages (multi-key haystack), several values under a key, variables that copy each other."""
        c, r = self.chat, self.rng
        form = 0 if self.task == "multi_value" else r.choice([1, 2, 3, 4])
        tables, traced = [], []

        def note():
            tables.append(c.notes(10 if self.n_tok < 4096 else 14, form, 0, prose=r.random() < .5))

        def trace():
            traced.append(c.trace(2, 3))
        if self.task == "trace":
            self.spread([trace] + self.tellers(2 + more // 2))
            q, answer, value = traced[0]
            self.turn(lambda: c.say(c.question(q, 0, self.asked), answer), [value])
            return self.ask(r.choice(c.facts))
        self.spread([note] * (1 + more // 2) + self.tellers(1))
        for _ in range(n_turn):
            table = r.choice(tables)
            many = [k for k in table if len(table[k]) > 1]
            key = r.choice(many if many and self.task == "multi_value" else [k for k in table if len(table[k]) == 1])
            question = "Give every code filed under %s." % key if len(table[key]) > 1 else chats.NOTES[form][1].replace("{k}", key)
            gold = " ".join(chats.NOTES[form][2].replace("{k}", key).replace("{v}", v) for v in table[key])
            self.turn(lambda: c.say(c.question(question, 0, self.asked), chats.Spans().add(gold, 1.0)), table[key])
            others = {v for t in tables for vs in t.values() for v in vs} - set(table[key])
            self.turns[-1]["reject"] = sorted(v for v in others if not contains(gold, v))[:40]

    def record(self, name):
        return dict(id=name, task=self.task, n_tok=self.n_tok, position=self.position,
                    wording="heldout" if self.chat.heldout else "known", echo=self.chat.echo > 0,
                    context=[dict(role=role, content="".join(t for t, _ in parts)) for role, parts in self.chat.messages],
                    turns=self.turns)


def make(seed, counts, texts, tok, echo=True, tasks=TASKS):
    for n_tok, count in counts.items():
        for i in range(count):
            task = tasks[i % len(tasks)]
            position = POSITIONS[(i + i // len(tasks)) % 4]
            heldout = (i + i // (2 * len(tasks))) % 2 == 1
            item = Item(seed * 100000 + n_tok * 10 + i, task, n_tok, position, heldout, texts, tok, echo)
            item.plan()
            yield item.record("%s-%d-%02d" % (task, n_tok, i))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--data", default="")
    a.add_argument("--out", default=os.path.join(HERE, "recall.jsonl"))
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--counts", type=int, nargs=4, default=list(COUNTS.values()), help="items at 1K, 2K, 4K and 8K tokens")
    a.add_argument("--no-echo", action="store_true", help="acknowledgements that do not state the facts (not the model's way)")
    args = a.parse_args()
    tok, texts = bpe.Tokenizer(os.path.join(HERE, "tokenizer.json")), talk.Texts(args.data)
    with open(args.out, "w") as f:
        for record in make(args.seed, dict(zip(COUNTS, args.counts)), texts, tok, not args.no_echo):
            f.write(json.dumps(record, separators=(",", ":")) + "\n")
    print("%s: %d bytes" % (args.out, os.path.getsize(args.out)))


if __name__ == "__main__":
    main()
