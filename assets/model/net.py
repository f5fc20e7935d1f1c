"""The network: plain llama (RMSNorm, rotary positions, SwiGLU, grouped-query attention, tied embedding, no biases),
and the hand-wired induction circuit that it starts from."""
import math

import torch
import torch.nn.functional as F
from torch import nn

HEAD = 64                                                       # head_dim: the shape that production models have
EPS = 1e-5


class Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.w = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.w, EPS)


class Linear(nn.Module):
    def __init__(self, n_in, n_out, std):
        super().__init__()
        self.w = nn.Parameter(torch.randn(n_out, n_in) * std)

    def forward(self, x):
        return F.linear(x, self.w)


def rotate(x, cos, sin):
    """Rotary positions on half-split pairs (i, i + HEAD/2); the GGUF writer permutes rows to llama's order."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Attention(torch.autograd.Function):
    """Causal attention in bf16, block of queries by block: on CPUs with bf16 matrix units about 1.6 times as fast as
    torch's own, whose backward pass does not use them. q [b, heads, t, HEAD], k and v [b, kv, t, HEAD]."""
    ROWS = 128

    @staticmethod
    def blocks(t):
        return [(s, min(t, s + Attention.ROWS)) for s in range(0, t, Attention.ROWS)]

    @staticmethod
    def forward(ctx, q, k, v):
        b, h, t, d = q.shape
        kv = k.shape[1]
        q, k, v = (q * d ** -.5).bfloat16(), k.bfloat16(), v.bfloat16()
        out, probs = torch.empty_like(q), []
        mask = torch.full((Attention.ROWS, Attention.ROWS), -math.inf).triu(1)
        for s, e in Attention.blocks(t):
            rows = q[:, :, s:e].reshape(b * kv, -1, d)
            a = torch.bmm(rows, k[:, :, :e].reshape(b * kv, e, d).transpose(1, 2))
            a.view(b * h, e - s, e)[:, :, s:].add_(mask[:e - s, :e - s])
            probs.append(torch.softmax(a, -1))
            out[:, :, s:e] = torch.bmm(probs[-1], v[:, :, :e].reshape(b * kv, e, d)).view(b, h, e - s, d)
        ctx.save_for_backward(q, k, v, out, *probs)
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, out, *probs = ctx.saved_tensors
        b, h, t, d = q.shape
        kv = k.shape[1]
        grad = grad.bfloat16()
        dq, dk, dv = torch.empty(b, h, t, d), torch.zeros(b * kv, t, d), torch.zeros(b * kv, t, d)
        delta = (grad.float() * out.float()).sum(-1, keepdim=True).bfloat16()
        for p, (s, e) in zip(probs, Attention.blocks(t)):
            g = grad[:, :, s:e].reshape(b * kv, -1, d)
            dv[:, :e] += torch.bmm(p.transpose(1, 2), g)
            da = torch.bmm(g, v[:, :, :e].reshape(b * kv, e, d).transpose(1, 2))
            da.sub_(delta[:, :, s:e].reshape(b * kv, -1, 1)).mul_(p)
            dq[:, :, s:e] = torch.bmm(da, k[:, :, :e].reshape(b * kv, e, d)).view(b, h, e - s, d)
            dk[:, :e] += torch.bmm(da.transpose(1, 2), q[:, :, s:e].reshape(b * kv, -1, d))
        return dq.mul_(d ** -.5), dk.view(b, kv, t, d), dv.view(b, kv, t, d)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, deep = c["d"], math.sqrt(2 * c["layers"])
        self.heads, self.kv = c["heads"], c["kv"]
        self.norm1, self.norm2 = Norm(d), Norm(d)
        self.qkv = Linear(d, (self.heads + 2 * self.kv) * HEAD, d ** -.5)
        self.out = Linear(self.heads * HEAD, d, d ** -.5 / deep)
        self.gate_up = Linear(d, 2 * c["ff"], d ** -.5)
        self.down = Linear(c["ff"], d, c["ff"] ** -.5 / deep)

    def project(self, x, cos, sin):
        """The block up to attention: q [b, heads, t, HEAD], k and v [b, kv, t, HEAD]."""
        b, t, _ = x.shape
        y = self.qkv(self.norm1(x)).view(b, t, self.heads + 2 * self.kv, HEAD).transpose(1, 2)
        q, k, v = y.split((self.heads, self.kv, self.kv), 1)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(self, x, cos, sin, past=None):
        """past: None, or a list [k, v] of earlier positions that is extended in place (decoding)."""
        t = x.shape[1]
        q, k, v = self.project(x, cos, sin)
        if self.training and past is None and not x.is_cuda and torch.is_autocast_enabled("cpu"):
            return self.mix(x, Attention.apply(q, k, v))
        causal = True
        if past is not None:
            if past:
                k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
                causal = False
            past[:] = [k, v]
        mask = None
        if not causal and t > 1:
            n = k.shape[2]
            mask = torch.ones(t, n, dtype=torch.bool, device=x.device).tril(n - t)
        k, v = (z.repeat_interleave(self.heads // self.kv, 1) for z in (k, v))
        return self.mix(x, F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal))

    def mix(self, x, o):
        """The rest of the block, o [b, heads, t, HEAD] being what attention gave."""
        b, t, _ = x.shape
        x = x + self.out(o.transpose(1, 2).reshape(b, t, self.heads * HEAD))
        g, u = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(g) * u)


class Net(nn.Module):
    """config: vocab, d, layers, heads, kv, ff, base (rotary base)."""

    def __init__(self, config):
        super().__init__()
        self.config = dict(config)
        self.embed = nn.Parameter(torch.randn(config["vocab"], config["d"]) * config["d"] ** -.5)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config["layers"]))
        self.norm = Norm(config["d"])
        self.tables = {}

    def angles(self, start, n, device):
        key = (start, n, device)
        if key not in self.tables:
            if len(self.tables) > 64:
                self.tables.clear()
            theta = self.config["base"] ** (-torch.arange(0, HEAD, 2, dtype=torch.float64) / HEAD)
            a = torch.outer(torch.arange(start, start + n, dtype=torch.float64), theta)
            self.tables[key] = a.cos().float().to(device), a.sin().float().to(device)
        return self.tables[key]

    def hidden(self, ids, past=None):
        """ids [b, t] -> final normed states [b, t, d]; past: list of `layers` lists, see Block."""
        start = past[0][0].shape[2] if past is not None and past[0] else 0
        cos, sin = self.angles(start, ids.shape[1], ids.device)
        x = F.embedding(ids, self.embed)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, None if past is None else past[i])
        return self.norm(x)

    def logits(self, h):
        return F.linear(h, self.embed)

    def loss(self, ids, weights):
        """Weighted mean NLL; logits are computed only where the weight is not zero. Also the per-token losses."""
        h = self.hidden(ids[:, :-1]).reshape(-1, self.config["d"])
        w, target = weights[:, 1:].reshape(-1), ids[:, 1:].reshape(-1)
        at = w.nonzero().squeeze(1)
        n, rows = len(at), -(-len(at) // 256) * 256             # few shapes: each one costs compiled kernels and memory
        at = F.pad(at, (0, rows - n))
        w = torch.cat((w[at[:n]], w.new_zeros(rows - n)))
        nll = F.cross_entropy(self.logits(h[at]).float(), target[at], reduction="none")
        return (nll * w).sum() / w.sum(), nll.detach(), w


# channels: dimensions that hold the token 1, 2, .. places back; matched: how many of them a matching head compares
CIRCUITS = {"one": dict(channels=(64,), matched=(36,), position=1.0, match=2.0, copy=1.0, quiet=.3),
            "four": dict(channels=(40, 32, 24, 16), matched=(14, 8, 8, 6), position=1.2, match=3.5, copy=2.0, quiet=.15)}


def grow(state, layers):
    """The weights of a trained net as those of one with more layers that computes the same: copies of block 1, whose
    attention finds matches already, come in behind it, with outputs of zero until training gives them a use."""
    have = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    grown = {}
    for name, w in state.items():
        if not name.startswith("blocks."):
            grown[name] = w
            continue
        _, block, rest = name.split(".", 2)
        block = int(block)
        grown["blocks.%d.%s" % (block if block < 2 else block + layers - have, rest)] = w
        for copy in range(2, 2 + layers - have) if block == 1 else ():
            grown["blocks.%d.%s" % (copy, rest)] = torch.zeros_like(w) if rest in ("out.w", "down.w") else w.clone()
    return grown


@torch.no_grad()
def wire(net, channels, matched, position, match, copy, quiet, silent=(), sigma=.25, beta=.7):
    """Initialises `net` with a working induction circuit over the last tokens; the architecture stays plain llama.

    Embedding rows: sigma (z + beta sqrt(d0) u): z random, u one fixed direction that all tokens share (llama has no q/k
    bias: a purely positional head needs something constant to read). The last sum(channels) dimensions are left empty.
    Layer 0: keys and queries of one query head per channel read only u, in the eight fastest rotary pairs, and query
    head n is turned back by n + 1 positions. So it attends to the token n + 1 places back, and writes a projection of
    it to channel n.
    Layer 1, first query head of two KV heads: the key at j reads the channels (tokens j-1, j-2 ..), the query at i the
    token i itself and its channels (i-1 ..), so the score counts how much of "the last tokens before j" is "the last
    tokens up to i". Scores use only the rotary pairs whose phase hardly turns within the context, hence the large
    rotary base: then a match is worth the same at any distance. The value copies the token found at j.
    `silent` tokens (those of the chat template) have nothing in the projection and so never match: every message
    starts after the same ones, and its first word is not to be copied from the messages before.
    """
    c = net.config
    d, heads, kv = c["d"], c["heads"], c["kv"]
    if heads < len(channels) or kv < 2 or d < 2 * sum(channels):
        raise ValueError("this circuit needs %d query heads, 2 KV heads and d >= %d" % (len(channels), 2 * sum(channels)))
    d0, group, k_at = d - sum(channels), heads // kv, heads * HEAD
    v_at = k_at + kv * HEAD
    start = [d0 + sum(channels[:n]) for n in range(len(channels))]
    u = torch.zeros(d)
    u[:d0] = d0 ** -.5
    z = torch.randn(c["vocab"], d)
    z[:, d0:] = 0
    z -= (z @ u)[:, None] * u
    net.embed.copy_(sigma * (z + beta * math.sqrt(d0) * u))
    net.norm.w.fill_(.25)
    for b in net.blocks:
        b.out.w.mul_(quiet)
        b.down.w.mul_(quiet)
    m = torch.randn(d0, d0)
    m[:, 0] = u[:d0]
    basis = torch.zeros(d0 - 1, d)                              # orthonormal directions, all orthogonal to u
    basis[:, :d0] = torch.linalg.qr(m)[0].t()[1:]
    theta = c["base"] ** (-torch.arange(0, HEAD, 2).float() / HEAD)

    for token in silent:
        net.embed[token] -= basis[:HEAD].t() @ (basis[:HEAD] @ net.embed[token])

    w, o = net.blocks[0].qkv.w, net.blocks[0].out.w
    places = range(0, heads, heads // len(channels))            # spread over the KV heads
    for n, head in enumerate(places):
        q = head * HEAD
        w[q:q + HEAD] = 0
        o[:, q:q + HEAD] = 0
        for j in range(8):
            w[q + j] = position * math.cos((n + 1) * theta[j]) * u
            w[q + j + 32] = -position * math.sin((n + 1) * theta[j]) * u
        for i in range(channels[n]):
            o[start[n] + i, q + i] = sigma
    for g in sorted({head // group for head in places}):
        k, v = k_at + g * HEAD, v_at + g * HEAD
        w[k:k + HEAD] = 0
        for j in range(8):
            w[k + j] = position * u
        w[v:v + HEAD] = basis[:HEAD]

    w, o = net.blocks[1].qkv.w, net.blocks[1].out.w
    first = int((theta > 1.0 / 8192).sum())                     # pairs that turn less than one radian in 8192 tokens
    for g in range(2):
        q, k, v = g * group * HEAD, k_at + g * HEAD, v_at + g * HEAD
        w[q:q + HEAD] = 0
        w[k:k + HEAD] = 0
        dims = iter(list(range(first, 32)) + list(range(first + 32, 64)))
        for n, count in enumerate(matched):
            skip = g * (channels[n] - count)                    # the second head compares other components
            for i in range(skip, skip + count):
                dim = next(dims)
                w[k + dim, start[n] + i] = match
                if n == 0:
                    w[q + dim] = match * basis[i]
                else:
                    w[q + dim, start[n - 1] + i] = match
        low = min(g * HEAD, d0 - 1 - HEAD)
        token = basis[low:low + HEAD]
        w[v:v + HEAD] = token
        o[:, q:q + HEAD] = copy * token.t()


@torch.no_grad()
def repeat_accuracy(net, n=40, rows=24, gap=0, seed=3):
    """Share of tokens right when `n` random tokens are repeated after `gap` other random tokens."""
    g = torch.Generator().manual_seed(seed)
    top = net.config["vocab"] - 3
    part = torch.randint(0, top, (rows, n), generator=g)
    ids = torch.cat((torch.full((rows, 1), top), part, torch.randint(0, top, (rows, gap), generator=g), part), 1)
    ids = ids.to(net.embed.device)
    got = net.logits(net.hidden(ids[:, :-1])[:, -n + 1:].float()).argmax(-1)
    return (got == ids[:, -n + 1:]).float().mean().item()
