"""Byte-level BPE with the Qwen2 pre-split (every digit its own token): trainer, encoder, GGUF token strings.

The encoder here and a GGUF reader with tokenizer.ggml.model=gpt2, tokenizer.ggml.pre=qwen2 give the same ids.
"""
import collections
import heapq
import json
import re

# Qwen2: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
# Python's re lacks \p{..}: [^\W\d_] is a letter; the text here holds no numerals beyond ASCII digits.
SPLIT = re.compile(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:[^\r\n\w]|_)?[^\W\d_]+|\d| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+"
                   r"|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def gpt2_alphabet():
    """byte -> printable character, the convention of GPT-2 vocabularies in GGUF files."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {b: chr(b) for b in plain}, 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + extra)
            extra += 1
    return table


def train(texts, size, path):
    """Learns merges until bytes + merges + specials = size; ties are broken by the pair, so the result is fixed."""
    counts = collections.Counter()
    for text in texts:
        counts.update(SPLIT.findall(text))
    words = [(list(w.encode()), c) for w, c in sorted(counts.items()) if c >= 2]
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for i, (w, c) in enumerate(words):
        for p in zip(w, w[1:]):
            pairs[p] += c
            where[p].add(i)
    heap = [(-c, p) for p, c in pairs.items()]
    heapq.heapify(heap)
    merges = []
    while len(merges) < size - 256 - len(SPECIAL) and heap:
        count, best = heapq.heappop(heap)
        if -count != pairs[best]:                               # stale entry: put back with the present count
            if pairs[best] > 0:
                heapq.heappush(heap, (-pairs[best], best))
            continue
        new, touched = 256 + len(merges), set()
        merges.append(best)
        for i in where.pop(best):
            w, c = words[i]
            for p in zip(w, w[1:]):
                pairs[p] -= c
                touched.add(p)
            w = merge(w, best, new)
            words[i] = (w, c)
            for p in zip(w, w[1:]):
                pairs[p] += c
                where[p].add(i)
                touched.add(p)
        for p in touched:
            if pairs[p] > 0:
                heapq.heappush(heap, (-pairs[p], p))
    with open(path, "w") as f:
        json.dump({"merges": merges}, f, separators=(",", ":"))


def merge(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and ids[i] == pair[0] and ids[i + 1] == pair[1]:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


class Tokenizer:
    def __init__(self, path):
        with open(path) as f:
            self.merges = [tuple(m) for m in json.load(f)["merges"]]
        self.rank = {m: 256 + i for i, m in enumerate(self.merges)}
        self.bytes = [bytes([i]) for i in range(256)]
        for a, b in self.merges:
            self.bytes.append(self.bytes[a] + self.bytes[b])
        self.n_text = len(self.bytes)                           # ids below this are ordinary text
        self.special = {s: self.n_text + i for i, s in enumerate(SPECIAL)}
        self.bytes += [s.encode() for s in SPECIAL]
        self.eot, self.start, self.end = (self.special[s] for s in SPECIAL)
        self.size = len(self.bytes)
        self.cache = {}

    def _word(self, word):
        ids = list(word.encode())
        while len(ids) > 1:
            rank, pair = min((self.rank.get(p, 1 << 30), p) for p in zip(ids, ids[1:]))
            if rank == 1 << 30:
                break
            ids = merge(ids, pair, rank)
        if len(self.cache) > 400000:
            self.cache.clear()
        self.cache[word] = ids
        return ids

    def encode(self, text):
        """Text without special tokens -> ids."""
        out = []
        for word in SPLIT.findall(text):
            out += self.cache.get(word) or self._word(word)
        return out

    def decode(self, ids):
        return b"".join(self.bytes[int(i)] for i in ids).decode("utf-8", "replace")

    def message(self, role, text):
        """One ChatML message as the chat template renders it."""
        return [self.start] + self.encode(role + "\n" + text) + [self.end] + self.encode("\n")

    def gguf_tokens(self):
        """(token strings in the GPT-2 alphabet, token types, merge strings) for the GGUF header."""
        table = gpt2_alphabet()
        text = ["".join(table[b] for b in t) for t in self.bytes[:self.n_text]]
        merges = [text[a] + " " + text[b] for a, b in self.merges]
        return text + SPECIAL, [1] * self.n_text + [3] * len(SPECIAL), merges
