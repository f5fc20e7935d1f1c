"""Writes a checkpoint as GGUF (llama architecture, F16 or Q8_0) and reads such a file back.

    python gguf.py run.pt dogear-memo.gguf --type q8_0
    python gguf.py dogear-memo.gguf            prints the header
"""
import argparse
import os
import struct

import numpy as np

import bpe

HERE = os.path.dirname(os.path.abspath(__file__))
ALIGN, MAGIC, VERSION = 32, 0x46554747, 3
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
FILE_TYPE = {"f16": 1, "q8_0": 7}
NAME, LICENCE = "Dogear Memo", "MIT"
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
            "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def text(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    if kind == STRING:
        return text(v)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], v)


def entry(key, kind, v):
    if isinstance(v, list):
        return text(key) + struct.pack("<IIQ", ARRAY, kind, len(v)) + b"".join(value(kind, x) for x in v)
    return text(key) + struct.pack("<I", kind) + value(kind, v)


def q8_0(w):
    """Blocks of 32: scale (f16) = largest magnitude / 127, then 32 signed bytes."""
    x = w.astype(np.float32).reshape(-1, 32)
    scale = np.abs(x).max(1, keepdims=True) / 127
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    q = x * inverse
    q = (np.sign(q) * np.floor(np.abs(q) + .5)).astype(np.int8)      # halves away from zero
    return np.concatenate([scale.astype("<f2").view(np.uint8), q.view(np.uint8)], 1).tobytes()


def from_q8_0(data, shape):
    b = np.frombuffer(data, np.uint8).reshape(-1, 34)
    return (b[:, 2:].copy().view(np.int8).astype(np.float32) * b[:, :2].copy().view("<f2").astype(np.float32)).reshape(shape)


def interleave(w, n_head, back=False):
    """Rows of q or k between half-split rotary pairs (i, i + 32) and llama's neighbours (2i, 2i + 1)."""
    rows, cols = w.shape
    shape = (n_head, rows // n_head // 2, 2, cols) if back else (n_head, 2, rows // n_head // 2, cols)
    return np.ascontiguousarray(w.reshape(shape).swapaxes(1, 2).reshape(rows, cols))


def split_weights(state, c):
    """Checkpoint tensors -> [(GGUF name, float32 array)] in llama's names and row order."""
    get = {k: v.float().numpy() for k, v in state.items()}
    nq, nk = c["heads"] * 64, c["kv"] * 64
    out = [("token_embd.weight", get["embed"]), ("output_norm.weight", get["norm.w"])]
    for i in range(c["layers"]):
        a, b = "blocks.%d." % i, "blk.%d." % i
        qkv, gate_up = get[a + "qkv.w"], get[a + "gate_up.w"]
        out += [(b + "attn_norm.weight", get[a + "norm1.w"]),
                (b + "attn_q.weight", interleave(qkv[:nq], c["heads"])),
                (b + "attn_k.weight", interleave(qkv[nq:nq + nk], c["kv"])),
                (b + "attn_v.weight", qkv[nq + nk:]),
                (b + "attn_output.weight", get[a + "out.w"]),
                (b + "ffn_norm.weight", get[a + "norm2.w"]),
                (b + "ffn_gate.weight", gate_up[:c["ff"]]),
                (b + "ffn_up.weight", gate_up[c["ff"]:]),
                (b + "ffn_down.weight", get[a + "down.w"])]
    return out


def header(c, tok, kind, context):
    tokens, types, merges = tok.gguf_tokens()
    return [
        ("general.architecture", STRING, "llama"), ("general.name", STRING, NAME), ("general.type", STRING, "model"),
        ("general.license", STRING, LICENCE),
        ("general.description", STRING, "Small demonstration model with multi-turn memory. Not a general assistant."),
        ("general.file_type", U32, FILE_TYPE[kind]), ("general.quantization_version", U32, 2),
        ("llama.block_count", U32, c["layers"]), ("llama.context_length", U32, context),
        ("llama.embedding_length", U32, c["d"]), ("llama.feed_forward_length", U32, c["ff"]),
        ("llama.attention.head_count", U32, c["heads"]), ("llama.attention.head_count_kv", U32, c["kv"]),
        ("llama.attention.key_length", U32, 64), ("llama.attention.value_length", U32, 64),
        ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5), ("llama.rope.freq_base", F32, c["base"]),
        ("llama.rope.dimension_count", U32, 64), ("llama.vocab_size", U32, len(tokens)),
        ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.pre", STRING, "qwen2"),
        ("tokenizer.ggml.tokens", STRING, tokens), ("tokenizer.ggml.token_type", I32, types),
        ("tokenizer.ggml.merges", STRING, merges),
        ("tokenizer.ggml.bos_token_id", U32, tok.eot), ("tokenizer.ggml.eos_token_id", U32, tok.end),
        ("tokenizer.ggml.padding_token_id", U32, tok.eot), ("tokenizer.ggml.add_bos_token", BOOL, False),
        ("tokenizer.chat_template", STRING, TEMPLATE)]


def write(path, state, config, tok, kind="q8_0", context=8192):
    """Matrices in `kind`, norms in f32."""
    meta = header(config, tok, kind, context)
    infos, blobs, at = b"", [], 0
    tensors = split_weights(state, config)
    for name, w in tensors:
        t = kind if w.ndim == 2 else "f32"
        blob = q8_0(w) if t == "q8_0" else w.astype("<f2" if t == "f16" else "<f4").tobytes()
        infos += text(name) + struct.pack("<I", w.ndim) + struct.pack("<%dQ" % w.ndim, *w.shape[::-1])
        infos += struct.pack("<IQ", TYPES[t], at)
        blobs.append(blob + b"\0" * (-len(blob) % ALIGN))
        at += len(blobs[-1])
    head = struct.pack("<IIQQ", MAGIC, VERSION, len(tensors), len(meta)) + b"".join(entry(*m) for m in meta) + infos
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % ALIGN) + b"".join(blobs))


class Reader:
    """Reads what write() writes; enough of GGUF for that, no more."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data, self.at = f.read(), 0
        magic, _, n_tensor, n_meta = self.take("<IIQQ")
        if magic != MAGIC:
            raise ValueError("%s: not a GGUF file" % path)
        self.meta = {}
        for _ in range(n_meta):
            key, (kind,) = self.text(), self.take("<I")
            self.meta[key] = self.value(kind)
        infos = []
        for _ in range(n_tensor):
            name, (n_dim,) = self.text(), self.take("<I")
            infos.append((name, self.take("<%dQ" % n_dim)[::-1], *self.take("<IQ")))
        base = -(-self.at // ALIGN) * ALIGN
        self.tensors = {}
        for name, shape, kind, offset in infos:
            n, start = int(np.prod(shape)), base + offset
            if kind == TYPES["q8_0"]:
                w = from_q8_0(self.data[start:start + n // 32 * 34], shape)
            else:
                dtype = "<f2" if kind == TYPES["f16"] else "<f4"
                w = np.frombuffer(self.data, dtype, n, start).astype(np.float32).reshape(shape)
            self.tensors[name] = w

    def take(self, form):
        out = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return out

    def text(self):
        (n,) = self.take("<Q")
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, n = self.take("<IQ")
            return [self.value(inner) for _ in range(n)]
        return self.take({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind])[0]

    def checkpoint(self):
        """(config, state) as net.Net wants them, as numpy arrays."""
        m, t = self.meta, self.tensors
        c = dict(vocab=len(m["tokenizer.ggml.tokens"]), d=m["llama.embedding_length"], layers=m["llama.block_count"],
                 heads=m["llama.attention.head_count"], kv=m["llama.attention.head_count_kv"],
                 ff=m["llama.feed_forward_length"], base=m["llama.rope.freq_base"])
        state = {"embed": t["token_embd.weight"], "norm.w": t["output_norm.weight"]}
        for i in range(c["layers"]):
            a, b = "blocks.%d." % i, "blk.%d." % i
            state[a + "norm1.w"], state[a + "norm2.w"] = t[b + "attn_norm.weight"], t[b + "ffn_norm.weight"]
            state[a + "qkv.w"] = np.concatenate([interleave(t[b + "attn_q.weight"], c["heads"], True),
                                                 interleave(t[b + "attn_k.weight"], c["kv"], True), t[b + "attn_v.weight"]])
            state[a + "out.w"], state[a + "down.w"] = t[b + "attn_output.weight"], t[b + "ffn_down.weight"]
            state[a + "gate_up.w"] = np.concatenate([t[b + "ffn_gate.weight"], t[b + "ffn_up.weight"]])
        return c, state


def load(path):
    """A Net from a checkpoint (.pt) or a GGUF file."""
    import torch
    from net import Net
    if path.endswith(".gguf"):
        config, state = Reader(path).checkpoint()
        state = {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
    else:
        saved = torch.load(path, map_location="cpu")
        config, state = saved["config"], saved["net"]
    net = Net(config)
    net.load_state_dict(state)
    return net.eval()


def main():
    a = argparse.ArgumentParser()
    a.add_argument("source")
    a.add_argument("target", nargs="?")
    a.add_argument("--type", default="q8_0", choices=FILE_TYPE)
    a.add_argument("--context", type=int, default=8192)
    args = a.parse_args()
    if args.target:
        import torch
        saved = torch.load(args.source, map_location="cpu")
        tok = bpe.Tokenizer(os.path.join(HERE, "tokenizer.json"))
        write(args.target, saved["net"], saved["config"], tok, args.type, args.context)
        print("%s: %d bytes" % (args.target, os.path.getsize(args.target)))
        return
    reader = Reader(args.source)
    for key, v in reader.meta.items():
        print(key, "=", "[%d]" % len(v) if isinstance(v, list) else repr(v))
    for name, w in reader.tensors.items():
        print(name, w.shape)


if __name__ == "__main__":
    main()
