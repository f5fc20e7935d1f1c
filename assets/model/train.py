"""Trains the model: on the CPU with several one-thread processes that share weights, or on one CUDA device.

The schedule runs by tokens; a wall-clock deadline, if given, only makes it end earlier (learning rate included).
Progress p = max(tokens / budget, elapsed / allowed). Stages are (share of p, sequence length, mix). A checkpoint holds
weights, optimiser state and counters; started again with the same --out the run goes on from it.

    python train.py --out run --tokens 14e6 --world 2 --data ../../../shared/data          # CPU
    python train.py --out run --device cuda --bf16 --compile --feeders 12 --size gpu --stages gpu --tokens 700e6 --batch 131072 --save-every 120
"""
import argparse
import contextlib
import os
import time

import torch
import torch.multiprocessing as mp

import bpe
import samples
import talk
from net import CIRCUITS, HEAD, Block, Net, grow, repeat_accuracy, wire
from words import Values

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = {"cpu": dict(d=256, layers=5, heads=4, kv=2, ff=640, base=1e9),
         "gpu": dict(d=512, layers=8, heads=8, kv=2, ff=1408, base=1e9),
         "tiny": dict(d=224, layers=2, heads=4, kv=2, ff=256, base=1e9)}
STAGES = {"cpu": [(.02, 128, "first"), (.08, 256, "short"), (.10, 512, "short"), (.45, 1024, "long"), (.15, 2048, "long"),
                  (.10, 4096, "long"), (.04, 8192, "long"), (.06, 2048, "long")],
          "gpu": [(.05, 256, "first"), (.15, 512, "short"), (.30, 1024, "long"), (.25, 2048, "long"), (.25, 8192, "long")],
          "rehearse": [(.25, 64, "first"), (.25, 128, "short"), (.25, 256, "long"), (.25, 512, "long")]}


def stages_of(text):
    if text in STAGES:
        return STAGES[text]
    stages = []
    for part in text.split(","):
        share, length, mix = part.split(":")
        if mix not in samples.MIXES:
            raise argparse.ArgumentTypeError("mix %r: want one of %s" % (mix, ", ".join(samples.MIXES)))
        stages.append((float(share), int(length), mix))
    return stages


def holds_circuit(name):
    """Whether the wired circuit lives in this parameter, or reads what it writes: the embedding, all of block 0, the
    attention of block 1. Muon moves every direction of a matrix alike and drowns such structure at ordinary rates."""
    return name == "embed" or name.startswith("blocks.0.") or name in ("blocks.1.norm1.w", "blocks.1.qkv.w", "blocks.1.out.w")


def orthogonalise(g, bf16, steps=5):
    """Newton-Schulz iteration of Muon: the nearest orthogonal matrix, roughly."""
    x = g / (g.norm() + 1e-7)
    if bf16:
        x = x.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = (x.t() if tall else x).contiguous()
    for _ in range(steps):
        a = x @ x.t()
        x = torch.addmm(x, torch.addmm(a, a, a, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.t() if tall else x).float()


class Optimiser:
    """Muon on the matrices of the blocks, Adam on embedding and norms. State lives in shared memory on the CPU."""

    def __init__(self, net, muon_rate, adam_rate, gentle, bf16, decay=.05):
        self.net, self.bf16, self.muon_rate, self.adam_rate, self.decay = net, bf16, muon_rate, adam_rate, decay
        self.gentle = gentle
        self.state = {}
        for name, p in net.named_parameters():
            n = 1 if self.is_matrix(name, p) else 2
            self.state[name] = [torch.zeros_like(p.data) for _ in range(n)]

    @staticmethod
    def is_matrix(name, p):
        return p.dim() == 2 and name != "embed"

    def parts(self, name, u):
        """Fused matrices are orthogonalised part by part."""
        if name.endswith("qkv.w"):
            kv = self.net.config["kv"] * HEAD
            return u.split([u.shape[0] - 2 * kv, kv, kv])
        return u.chunk(2) if name.endswith("gate_up.w") else [u]

    @torch.no_grad()
    def step(self, grads, factor, t):
        """Updates the parameters named in `grads`; t counts from 1."""
        params = dict(self.net.named_parameters())
        for name, g in grads.items():
            p, s = params[name], self.state[name]
            share = factor * (self.gentle if holds_circuit(name) else 1.0)
            if self.is_matrix(name, p):
                rate = self.muon_rate * share
                s[0].lerp_(g, .05)
                u = torch.cat([orthogonalise(x, self.bf16) * (.2 * max(x.shape) ** .5) for x in self.parts(name, g.lerp(s[0], .95))])
                p.mul_(1 - rate * self.decay).add_(u, alpha=-rate)
            else:
                s[0].lerp_(g, .1)
                s[1].mul_(.95).addcmul_(g, g, value=.05)
                scale = (s[1] / (1 - .95 ** t)).sqrt_().add_(1e-8)
                p.addcdiv_(s[0] / (1 - .9 ** t), scale, value=-self.adam_rate * share)


def make_batch(values, texts, tok, rows, length, mix):
    pairs = [samples.sample(values, texts, tok, length, mix) for _ in range(rows)]
    return torch.tensor([a for a, _ in pairs]), torch.tensor([b for _, b in pairs], dtype=torch.float32)


def feed(queue, wish, args, seed):
    """Generator process for GPU runs: keeps the queue full of batches of the wished stage."""
    tok, texts = bpe.Tokenizer(args.tokenizer), talk.Texts(args.data)
    values = Values(seed)
    torch.set_num_threads(1)
    while True:
        stage = int(wish.value)
        _, length, mix = args.stages[stage]
        queue.put((stage, *make_batch(values, texts, tok, max(1, args.batch // length), length, mix)))


def stage_at(stages, p):
    total = 0.0
    for i, stage in enumerate(stages):
        total += stage[0]
        if p < total:
            return i
    return len(stages) - 1


class Run:
    """What the processes of one run share."""

    def __init__(self, args, context):
        tok = bpe.Tokenizer(args.tokenizer)
        torch.manual_seed(args.seed)
        self.net = Net(dict(SIZES[args.size], vocab=tok.size)).to(args.device)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        if args.init:
            self.net.load_state_dict(grow(torch.load(args.init, map_location=args.device)["net"], self.net.config["layers"]))
        else:
            template = {tok.start, tok.end, tok.eot, *tok.encode("assistant\n"), *tok.encode("user\n")}
            wire(self.net.cpu(), silent=sorted(template), **CIRCUITS[args.circuit])
            self.net.to(args.device)
        self.opt = Optimiser(self.net, args.muon, args.adam, args.gentle, args.bf16)
        if os.path.exists(args.out + ".pt"):
            saved = torch.load(args.out + ".pt", map_location=args.device)
            self.net.load_state_dict(saved["net"])
            for name, tensors in saved["opt"].items():
                for mine, theirs in zip(self.opt.state[name], tensors):
                    mine.copy_(theirs)
            self.step, self.tokens, self.seconds = saved["step"], saved["tokens"], saved["seconds"]
            print("resumed at step %d, %.2fM tokens" % (self.step, self.tokens / 1e6), flush=True)
        if args.device == "cpu":
            self.net.share_memory()
            for tensors in self.opt.state.values():
                for x in tensors:
                    x.share_memory_()
            self.grads = [{n: torch.zeros_like(p.data).share_memory_() for n, p in self.net.named_parameters()}
                          for _ in range(args.world)]
            self.norms = torch.zeros(args.world).share_memory_()
            self.clock = torch.zeros(1, dtype=torch.float64).share_memory_()
            self.barrier = context.Barrier(args.world)

    def save(self, path):
        torch.save(dict(net=self.net.state_dict(), config=self.net.config, opt=self.opt.state, step=self.step,
                        tokens=self.tokens, seconds=self.seconds), path + ".tmp")
        os.replace(path + ".tmp", path)


def owned(net, rank, world):
    """The parameters whose update this process computes: balanced by size, matrices cost more (Muon)."""
    load, mine = [0] * world, []
    sized = [(p.numel() * (8 if Optimiser.is_matrix(n, p) else 1), n) for n, p in net.named_parameters()]
    for cost, name in sorted(sized, reverse=True):
        r = load.index(min(load))
        load[r] += cost
        if r == rank:
            mine.append(name)
    return mine


def train(rank, args, run):
    """The loop of one process. On the CPU each process has its rows of the batch and its parameters to update."""
    cuda, world = args.device == "cuda", args.world
    if not cuda:
        torch.set_num_threads(max(1, args.threads // world))
    net, opt, stages = run.net, run.opt, args.stages
    tok, texts = bpe.Tokenizer(args.tokenizer), talk.Texts(args.data)
    values = Values(args.seed * 1000 + rank + 17 * run.step + 1)
    queue = wish = None
    if args.feeders:
        context = mp.get_context("spawn")
        queue, wish = context.Queue(2 * args.feeders), context.Value("i", 0)
        for i in range(args.feeders):
            context.Process(target=feed, args=(queue, wish, args, args.seed * 7919 + 31 * run.step + i), daemon=True).start()
    mine = owned(net, rank, world)
    params = dict(net.named_parameters())
    if args.compile and cuda:                                   # not loss(): its shapes differ from step to step
        net.hidden = torch.compile(net.hidden, dynamic=False)
    elif args.compile:                                          # our attention stays as it is; what is around it is fused
        Block.project, Block.mix = (torch.compile(part, dynamic=False) for part in (Block.project, Block.mix))
    autocast = torch.autocast(args.device, torch.bfloat16) if args.bf16 else contextlib.nullcontext()
    start, base, saved, stage = time.time(), run.seconds, time.time(), -1
    nll_sum = weight_sum = value_sum = value_n = 0.0
    first_tokens = run.tokens
    while True:
        elapsed = base + time.time() - start
        if not cuda:
            if rank == 0:
                run.clock[0] = elapsed
            run.barrier.wait()
            elapsed = float(run.clock[0])
        p = max(run.tokens / args.tokens, elapsed / args.seconds if args.seconds else 0)
        if p >= 1:
            break
        if stage_at(stages, p) != stage:
            stage = stage_at(stages, p)
            if wish is not None:
                wish.value = stage
            if rank == 0:
                print("stage %d: length %d, mix %s, repeat-40 %.3f" % (stage, stages[stage][1], stages[stage][2],
                                                                     repeat_accuracy(net)), flush=True)
        _, length, mix = stages[stage]
        rows = max(1, args.batch // length // world)
        if queue is not None:
            while True:
                made_for, ids, weights = queue.get()
                if made_for == stage:
                    break
            ids, weights = ids.to(args.device, non_blocking=True), weights.to(args.device, non_blocking=True)
        else:
            ids, weights = make_batch(values, texts, tok, rows, length, mix)
            ids, weights = ids.to(args.device), weights.to(args.device)
        with autocast:
            loss, nll, w = net.loss(ids, weights)
        loss.backward()
        if cuda:
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            grads = {n: q.grad for n, q in params.items()}
        else:
            grads = share_gradients(rank, run, params, mine)
        warm = min(1.0, (run.step + 1) / args.warm)
        factor = warm * min(1.0, max(.02, (1 - p) / args.tail))
        opt.step(grads, factor, run.step + 1)
        for q in params.values():
            q.grad = None
        run.step += 1
        run.tokens += ids.numel() * (1 if cuda else world)
        run.seconds = elapsed
        if run.step % 10 == 0 or not cuda:
            is_value = w >= 2.0
            nll_sum, weight_sum = nll_sum + float((nll * w).sum()), weight_sum + float(w.sum())
            value_sum, value_n = value_sum + float(nll[is_value].sum()), value_n + float(is_value.sum())
        if rank == 0 and run.step % args.log == 0:
            rate = (run.tokens - first_tokens) / (time.time() - start)
            print("step %d length %d tokens %.2fM loss %.3f value %.3f factor %.2f %.0f s %.0f tok/s" % (
                run.step, length, run.tokens / 1e6, nll_sum / max(1e-9, weight_sum), value_sum / max(1, value_n), factor,
                elapsed, rate), flush=True)
            nll_sum = weight_sum = value_sum = value_n = 0.0
        if rank == 0 and time.time() - saved > args.save_every:
            saved = time.time()
            run.save(args.out + ".pt")
    if rank == 0:
        run.save(args.out + ".pt")
        print("finished: %d steps, %.2fM tokens, %.0f s, repeat-40 %.3f" % (run.step, run.tokens / 1e6, run.seconds,
                                                                         repeat_accuracy(net)), flush=True)


def share_gradients(rank, run, params, mine):
    """Mean over the processes of the gradients of `mine`, clipped to a global norm of 1."""
    world = len(run.grads)
    for name, p in params.items():
        if p.grad is not None:
            run.grads[rank][name].copy_(p.grad)
    run.barrier.wait()
    grads = {n: sum(g[n] for g in run.grads) / world for n in mine}
    run.norms[rank] = sum(float((g * g).sum()) for g in grads.values())
    run.barrier.wait()
    norm = float(run.norms.sum()) ** .5
    if norm > 1:
        for g in grads.values():
            g.mul_(1 / norm)
    return grads


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--out", default="run")
    a.add_argument("--init", help="weights to start from instead of the wired ones; of fewer layers: grown")
    a.add_argument("--size", default="cpu", choices=SIZES)
    a.add_argument("--circuit", default="one", choices=CIRCUITS, help="what the start is wired with")
    a.add_argument("--stages", default="cpu", type=stages_of, help="%s, or SHARE:LENGTH:MIX,..." % ", ".join(STAGES))
    a.add_argument("--data", default="", help="folder of licensed text (optional)")
    a.add_argument("--tokenizer", default=os.path.join(HERE, "tokenizer.json"))
    a.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    a.add_argument("--tokens", type=float, default=14e6)
    a.add_argument("--seconds", type=float, default=0, help="wall-clock limit, 0: none")
    a.add_argument("--batch", type=int, default=4096, help="tokens per step")
    a.add_argument("--world", type=int, default=1, help="CPU processes that share the batch")
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--feeders", type=int, default=0, help="generator processes (GPU)")
    a.add_argument("--compile", action="store_true")
    a.add_argument("--bf16", action="store_true", help="mixed precision")
    a.add_argument("--muon", type=float, default=.008)
    a.add_argument("--adam", type=float, default=2.5e-3)
    a.add_argument("--warm", type=int, default=40)
    a.add_argument("--tail", type=float, default=.4, help="share of the run in which the rate falls to 2 percent")
    a.add_argument("--gentle", type=float, default=1.0, help="share of the rates for the parameters that hold the circuit")
    a.add_argument("--log", type=int, default=25)
    a.add_argument("--save-every", type=float, default=120)
    a.add_argument("--seed", type=int, default=0)
    args = a.parse_args()
    context = mp.get_context("spawn")
    run = Run(args, context)
    n = sum(p.numel() for p in run.net.parameters())
    print("%.2fM parameters, %.2fM without the embedding, %s" % (n / 1e6, (n - run.net.embed.numel()) / 1e6, vars(args)),
          flush=True)
    if args.device == "cpu" and args.world > 1:
        mp.spawn(train, args=(args, run), nprocs=args.world, join=True)
    else:
        train(0, args, run)


if __name__ == "__main__":
    main()
