"""Scores a checkpoint or GGUF on the recall suite, free-running and greedy, and measures perplexity on held-out text.

    python evaluate.py dogear-memo.gguf                         the committed suite
    python evaluate.py run.pt --suite other.jsonl --lengths 1024 2048 --show
    python evaluate.py dogear-memo.gguf --perplexity --data ../../../shared/data
    python evaluate.py dogear-memo.gguf --chat                  a chat on the terminal
"""
import argparse
import collections
import json
import math
import os
import time

import torch

import bpe
import gguf
import samples
import suite
import talk
from net import repeat_accuracy
from words import Values

HERE = os.path.dirname(os.path.abspath(__file__))


class Session:
    """One chat with its KV cache; the model's answers stay in the context as it gave them."""

    def __init__(self, net, tok):
        self.net, self.tok = net, tok
        self.past = [[] for _ in net.blocks]
        self.pending, self.count = [], 0

    def add(self, role, content):
        self.pending += self.tok.message(role, content)

    @torch.no_grad()
    def feed(self, ids):
        h = self.net.hidden(torch.tensor([ids], device=self.net.embed.device), self.past)
        self.count += len(ids)
        return int(self.net.logits(h[0, -1]).argmax())

    def answer(self, limit=96):
        """Greedy answer to what has been added."""
        tok, out = self.tok, []
        best = self.feed(self.pending + [tok.start] + tok.encode("assistant\n"))
        while best not in (tok.end, tok.eot) and len(out) < limit:
            out.append(best)
            best = self.feed([best])
        self.pending = [tok.end] + tok.encode("\n")
        return tok.decode(out)


def recall(net, tok, items, show=False):
    """[(item, turn index, turn, answer, right)] over all items."""
    rows = []
    for item in items:
        s = Session(net, tok)
        for m in item["context"]:
            s.add(m["role"], m["content"])
        for i, turn in enumerate(item["turns"]):
            s.add("user", turn["user"])
            got = s.answer()
            right = suite.correct(got, turn)
            rows.append((item, i, turn, got, right))
            if show and not right:
                print("%s turn %d: %s\n   got    %s\n   wanted %s" % (item["id"], i + 1, turn["user"], got, turn["gold"]), flush=True)
    return rows


def table(rows, title, key, lengths):
    """Share right by `key` and length, as a Markdown table."""
    cells = collections.defaultdict(lambda: [0, 0])
    for item, i, turn, got, right in rows:
        for k in (str(key(item, i, turn)), "all"):
            for n in (item["n_tok"], "all"):
                cells[k, n][0] += right
                cells[k, n][1] += 1
    names = sorted({k for k, _ in cells if k != "all"}) + ["all"]
    print("\n| %s | %s | all |\n|%s" % (title, " | ".join(map(str, lengths)), "---|" * (len(lengths) + 2)))
    for name in names:
        shown = []
        for n in list(lengths) + ["all"]:
            a, b = cells[name, n]
            shown.append("%.1f (%d)" % (100 * a / b, b) if b else "--")
        print("| %s | %s |" % (name, " | ".join(shown)))


@torch.no_grad()
def perplexity(net, tok, texts, window=1024, limit=60):
    """Mean NLL per token, and bits per character, on held-out books, dialogues and generated chats."""
    sets = {"books": ["\n\n".join(b[:40]) for b in texts.held_books], "dialogues": ["\n".join(d) for d in texts.held_dialogues]}
    for name, documents in sets.items():
        nll = n_tok = n_char = 0
        for doc in documents[:limit]:
            ids = [tok.eot] + tok.encode(doc)[:window]
            x = torch.tensor([ids])
            nll += torch.nn.functional.cross_entropy(net.logits(net.hidden(x[:, :-1]))[0], x[0, 1:], reduction="sum").item()
            n_tok, n_char = n_tok + len(ids) - 1, n_char + len(tok.decode(ids[1:]))
        if n_tok:
            print("%s: %d tokens, nll %.3f, ppl %.1f, %.2f bits/char" % (name, n_tok, nll / n_tok, math.exp(nll / n_tok), nll / math.log(2) / n_char))
    values, nll, n = Values(4321, True), 0.0, 0
    for _ in range(20):
        ids, w = samples.long_chat(values, texts, tok, window, samples.DENSITIES[1])
        _, token_nll, at = net.loss(torch.tensor([ids[:window]]), torch.tensor([w[:window]]))
        nll, n = nll + float(token_nll[at >= 2.0].sum()), n + int((at >= 2.0).sum())
    print("generated chats, value tokens: %d tokens, nll %.3f" % (n, nll / n))


def chat(net, tok):
    s = Session(net, tok)
    while True:
        try:
            line = input("> ")
        except EOFError:
            return
        s.add("user", line)
        print(s.answer(), "[%d]" % s.count, flush=True)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("model")
    a.add_argument("--suite", default=os.path.join(HERE, "recall.jsonl"))
    a.add_argument("--lengths", type=int, nargs="*")
    a.add_argument("--limit", type=int, default=0, help="items per length, 0: all")
    a.add_argument("--show", action="store_true", help="print wrong answers")
    a.add_argument("--perplexity", action="store_true")
    a.add_argument("--data", default="")
    a.add_argument("--chat", action="store_true")
    a.add_argument("--threads", type=int, default=1)
    args = a.parse_args()
    torch.set_num_threads(args.threads)
    net, tok = gguf.load(args.model), bpe.Tokenizer(os.path.join(HERE, "tokenizer.json"))
    if args.chat:
        return chat(net, tok)
    print("repeat-40 accuracy: gap 0 %.3f, gap 1000 %.3f, gap 4000 %.3f" % tuple(repeat_accuracy(net, 40, 8, g) for g in (0, 1000, 4000)))
    if args.perplexity:
        return perplexity(net, tok, talk.Texts(args.data))
    with open(args.suite) as f:
        items = [json.loads(line) for line in f]
    lengths = sorted({x["n_tok"] for x in items if not args.lengths or x["n_tok"] in args.lengths})
    chosen = []
    for n in lengths:
        same = [x for x in items if x["n_tok"] == n]
        chosen += same[:args.limit] if args.limit else same
    start = time.time()
    rows = recall(net, tok, chosen, args.show)
    table(rows, "task", lambda x, i, t: x["task"], lengths)
    table(rows, "question about", lambda x, i, t: t["kind"], lengths)
    table(rows, "turn", lambda x, i, t: i + 1, lengths)
    table(rows, "question position", lambda x, i, t: x["position"], lengths)
    table(rows, "wording", lambda x, i, t: x["wording"], lengths)
    table(rows, "facts confirmed when told", lambda x, i, t: x["echo"], lengths)
    print("\n%d items, %d answers, %.0f s" % (len(chosen), len(rows), time.time() - start))


if __name__ == "__main__":
    main()
