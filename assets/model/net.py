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

    def forward(self, x, cos, sin, past=None):
        """past: None, or a list [k, v] of earlier positions that is extended in place (decoding)."""
        b, t, _ = x.shape
        y = self.qkv(self.norm1(x)).view(b, t, self.heads + 2 * self.kv, HEAD).transpose(1, 2)
        q, k, v = y.split((self.heads, self.kv, self.kv), 1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
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
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
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
        nll = F.cross_entropy(self.logits(h[at]).float(), target[at], reduction="none")
        return (nll * w[at]).sum() / w[at].sum(), nll.detach(), w[at]


@torch.no_grad()
def wire(net, sigma=.25, beta=.7, match=2.0, copy=1.0, quiet=.3, width=64):
    """Initialises `net` with a working induction circuit; the architecture stays plain llama.

    Embedding rows: sigma (z + beta sqrt(d0) u): z random, u one fixed direction that all tokens share (llama has no q/k
    bias: a purely positional head needs something constant to read). The last `width` dimensions are an empty channel.
    Layer 0, KV head 0: keys and queries read only u, in the eight fastest rotary pairs. Query head 0 is turned back one
    position, so it attends to the previous token and writes a projection of it to the channel.
    Layer 1, both KV heads: the key reads the channel, the query the same projection of the present token, in the
    slowest rotary pairs, whose phase hardly turns within the context; the value copies the token found.
    """
    c = net.config
    d, heads, kv = c["d"], c["heads"], c["kv"]
    d0, group, k_at = d - width, heads // kv, heads * HEAD
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
    key = basis[:width]
    theta = c["base"] ** (-torch.arange(0, HEAD, 2).float() / HEAD)

    w, o = net.blocks[0].qkv.w, net.blocks[0].out.w
    w[:HEAD] = 0
    w[k_at:k_at + HEAD] = 0
    for j in range(8):
        w[j] = math.cos(theta[j]) * u
        w[j + 32] = -math.sin(theta[j]) * u
        w[k_at + j] = u
    w[k_at + kv * HEAD:k_at + kv * HEAD + width] = key
    o[:, :HEAD] = 0
    o[d0:, :HEAD] = sigma * torch.eye(width)

    w, o = net.blocks[1].qkv.w, net.blocks[1].out.w
    first = int((theta > 1.0 / 8192).sum())                     # pairs that turn less than one radian in 8192 tokens
    dims = list(range(first, 32)) + list(range(first + 32, 64))
    for h in range(kv):
        channel = [(i + h * len(dims)) % width for i in range(len(dims))]
        q, k = h * group * HEAD, k_at + h * HEAD
        w[q:q + HEAD] = 0
        w[k:k + HEAD] = 0
        for dim, i in zip(dims, channel):
            w[q + dim] = match * key[i]
            w[k + dim, d0 + i] = match
        low = min(h * HEAD, d0 - 1 - HEAD)
        token = basis[low:low + HEAD]
        w[k_at + (kv + h) * HEAD:k_at + (kv + h + 1) * HEAD] = token
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
