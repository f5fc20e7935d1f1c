"""Training samples of exact length: whole chats in several densities, drills, plain text."""
import chats
import talk
from words import NOUNS, PLACES

DENSITIES = [(4, 6, .4), (3, 5, 2), (2, 4, 4), (1, 2, 5)]      # tell : ask : other talk
# shares of drill, chats of the four densities, books, dialogues, tables
MIXES = {"first": (30, 40, 25, 0, 0, 3, 2, 0), "short": (6, 40, 28, 14, 4, 4, 4, 0), "long": (6, 28, 28, 22, 9, 1, 1, 5)}


FIRST = 2.0                                                     # weight of the first token of a value, relative to the rest


def long_chat(values, texts, tok, length, density):
    """One conversation of at least `length` tokens."""
    r, casual = values.rng, values.rng.random() < .12
    c = chats.Chat(values, texts, casual=casual, bare=.6 if casual else .15, short=r.random() < .35,
                   again=.06)
    tell, ask, other = density
    most = r.choice([2, 4, 8, 16]) if length <= 512 else r.choice([4, 8, 16, 32])
    if r.random() < .2:
        c.messages.append(("system", [(r.choice([
            "You are a helpful assistant.", "You are a friendly chat partner with a good memory.", "Be brief."]), 0.0)]))
    while c.length(tok) < length + 8:
        x, late = r.random() * (tell + ask + other), c.length(tok) > .9 * length
        if x < .15 * tell and not late and len(c.facts) >= most:
            c.change()
        elif x < tell and not late and len(c.facts) < most or not c.facts and x < tell + ask:
            y = r.random()
            if y < .18 and c.facts:
                c.change()
            elif y < .25:
                c.list_new()
            elif y < .29 and c.lists:
                c.list_add()
            else:
                c.tell()
        elif x < tell + ask:
            y = r.random()
            if y < .1 and c.lists:
                c.list_ask()
            elif y < .16:
                c.ask_unknown()
            elif y < .28 and (not c.summed or r.random() < .25):     # a second summary is a copy of the first
                c.about_me()
            elif y < .47 and c.linked:
                c.ask_two_steps()
            elif y < .5 and len(c.facts) > 1:
                c.ask_two()
            elif y < .53 and not c.casual:
                c.plain(*talk.skill(values), 1.5)
            elif y < .59:
                c.notes()
            elif y < .64:                                       # several values under a key: hard, so also in small tables
                c.notes(r.choice([2, 3, 5, 8]), form=0, several=1)
            elif y < .67:
                question, answer, _ = c.trace()
                c.say(c.question(question), answer)
            elif c.facts:
                c.ask()
        else:
            c.filler()
    return c.tokens(tok)


def tables(values, texts, tok, length):
    """A chat of little else than tables with several values to a key, none of which may come twice or be left out."""
    r = values.rng
    c = chats.Chat(values, texts, casual=r.random() < .1, bare=.1, short=r.random() < .3)
    while c.length(tok) < length + 8:
        c.notes(r.choice([1, 2, 3, 4, 6, 10, 10]), form=0, several=1, asks=r.randint(1, 4))
        if r.random() < .6:
            for _ in range(r.randint(1, max(1, length // 200))):
                c.filler()
    return c.tokens(tok)


def drill(values, texts, tok, length):
    """Repeated random tokens, sets told again in another order, dictionaries as text (one or several values to a key)."""
    r, kind = values.rng, values.rng.choices(["repeat", "set", "several", "single"], [3, 2, 3, 2])[0]
    ids, weights = [tok.eot], [0.0]
    while len(ids) < length:
        if kind == "repeat":
            low = r.choice([0, 0, 256])
            part = [r.randrange(low, tok.n_text) for _ in range(r.randint(6, max(8, min(96, length // 3))))]
            times = r.randint(2, 4)
            ids += part * times
            weights += [0.0] * len(part) + [1.0] * (len(part) * (times - 1))
            continue
        make_key = r.choice([values.name, lambda: r.choice(NOUNS), lambda: r.choice(PLACES), values.code])
        make_value = r.choice([values.name, values.code, lambda: r.choice(NOUNS), values.number])
        if kind == "set":                                       # the further the answer, the less is left to choose from
            items = list(dict.fromkeys(make_value() for _ in range(r.randint(2, 7))))
            parts = [(r.choice(["Set", "Things", "All"]) + ":", 0.0)] + [(" " + x + ",", 0.0) for x in items] + [("\nAgain:", 0.0)]
            n = len(items)
            parts += [(" " + x + ",", 2.0 * (i + 1) / n) for i, x in enumerate(r.sample(items, n))] + [(" that is all.", 1.0), ("\n", 0.0)]
        else:
            keys = list(dict.fromkeys(make_key() for _ in range(r.randint(2, max(4, min(24, length // 16))))))
            most = 3 if kind == "several" else 1
            table, sep = {k: [make_value() for _ in range(r.randint(1, most))] for k in keys}, r.choice([":", " =", " is", " ->"])
            told = [(k, v) for k in keys for v in table[k]]
            if r.random() < .5:
                r.shuffle(told)
                table = {k: [v for x, v in told if x == k] for k in keys}
            parts = [x for k, v in told for x in ((k + sep, 0.0), (" " + v, 0.0), ("\n", 0.0))]
            for k in r.choices(keys, k=r.randint(2, len(keys) + 2)):
                if kind == "several":
                    parts.append(("All of %s\n" % k, 0.0))
                for v in table[k]:
                    parts += [(k + sep, 0.0 if v is table[k][0] else 1.0), (" " + v, 2.0), ("\n", 0.0)]
                if kind == "several":
                    parts.append(("that is all.\n", 1.0))
        for text, weight in parts:
            piece = tok.encode(text)
            ids += piece
            weights += [weight] * len(piece)
        ids.append(tok.eot)
        weights.append(0.0)
    return ids, weights


def plain_text(values, texts, tok, length):
    ids, weights = [tok.eot], [0.0]
    book = values.rng.choice(texts.books)
    at = values.rng.randrange(len(book))
    while len(ids) < length:
        piece = tok.encode(book[at % len(book)] + "\n\n")
        ids += piece
        weights += [.4] * len(piece)
        at += 1
    return ids, weights


def dialogues(values, texts, tok, length):
    c = chats.Chat(values, texts)
    while c.length(tok) < length + 8:
        d = values.rng.choice(texts.dialogues)
        for a, b in zip(d[::2], d[1::2]):
            c.plain(a, b, chats.W_REPLY, chats.W_TEXT)
    return c.tokens(tok)


def sample(values, texts, tok, length, mix):
    """(ids, weights), both of `length`, from one draw of the mix."""
    kind = values.rng.choices(range(8), MIXES[mix])[0]
    if kind in (5, 6) and not (texts.books and texts.dialogues):
        kind = 3
    if kind == 0:
        ids, weights = drill(values, texts, tok, length)
    elif kind == 7:
        ids, weights = tables(values, texts, tok, length)
    elif kind == 5:
        ids, weights = plain_text(values, texts, tok, length)
    elif kind == 6:
        ids, weights = dialogues(values, texts, tok, length)
    else:
        ids, weights = long_chat(values, texts, tok, length, DENSITIES[kind - 1])
    return ids[:length], choosing(weights[:length])


def choosing(weights):
    """The first token of a value decides which fact is meant: it weighs more than the rest, which is copying."""
    return [w * FIRST if w >= chats.W_ECHO and before < chats.W_ECHO else w for before, w in zip([0.0] + weights, weights)]


def vocabulary_texts(texts, values):
    """What the vocabulary is learned from: our own chats for the most part, then the licensed text."""
    out, r = [], values.rng
    for i in range(1500):
        c = chats.Chat(values, texts)
        for _ in range(12):
            c.tell()
            c.ask()
            c.filler()
        c.notes()
        c.list_new()
        c.about_me()
        out += [role + "\n" + "".join(t for t, _ in parts) for role, parts in c.messages]
    for book in texts.books:
        out += r.sample(book, min(80, len(book)))
    for d in texts.dialogues[:700]:
        out += d
    return out


if __name__ == "__main__":
    import sys
    import bpe
    from words import Values
    source = talk.Texts(sys.argv[1] if len(sys.argv) > 1 else "")
    corpus = vocabulary_texts(source, Values(1))
    bpe.train(corpus, int(sys.argv[2]) if len(sys.argv) > 2 else 4096, "tokenizer.json")
    tokenizer = bpe.Tokenizer("tokenizer.json")
    n_char, n_tok = sum(map(len, corpus)), sum(len(tokenizer.encode(t)) for t in corpus)
    print("vocabulary %d, %d characters, %.2f characters per token" % (tokenizer.size, n_char, n_char / n_tok))
