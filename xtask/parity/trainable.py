#!/usr/bin/env python3
"""Writes what the tests of trained merges compare with: steps of AdaMerging, aTLAS and Concrete in PyTorch, with autograd through the
explicitly composed model.

    python xtask/parity/trainable.py fixtures/trainable

Random numbers are those of peft: ChaCha with 8 rounds, keyed by a seed and a path."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.func import functional_call

TASKS, ROUNDS, BATCH, INPUT, HIDDEN, OUTPUT, CLASSES = 3, 14, 6, 5, 7, 6, 4
NAMES = ["a.weight", "a.bias", "b.weight", "b.bias"]


def words(seed: int, path: str, count: int) -> np.ndarray:
    """The first `count` words of 32 bits of the generator that belongs to `path` under `seed`."""
    mask = (1 << 64) - 1
    digest = 0xCBF29CE484222325 ^ (seed * 0x9E3779B97F4A7C15 & mask)
    for byte in path.encode():
        digest = (digest ^ byte) * 0x100000001B3 & mask
    key = np.frombuffer(seed.to_bytes(8, "little") + digest.to_bytes(8, "little") + bytes(16), dtype="<u4")
    constants = np.frombuffer(b"expand 32-byte k", dtype="<u4")
    blocks = -(-count // 16)
    state = np.zeros((16, blocks), dtype=np.uint32)
    state[:4], state[4:12], state[12] = constants[:, None], key[:, None], np.arange(blocks, dtype=np.uint32)
    x = state.copy()

    def quarter(a, b, c, d):
        for first, second, third, turn in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)]:
            x[first] += x[second]
            y = x[third] ^ x[first]
            x[third] = (y << np.uint32(turn)) | (y >> np.uint32(32 - turn))

    for _ in range(4):
        for column in [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]:
            quarter(*column)
        for diagonal in [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]:
            quarter(*diagonal)
    return (x + state).T.reshape(-1)[:count]


class Net(torch.nn.Module):
    """Two layers, their weights [in, out] as Burn has them."""

    def __init__(self):
        super().__init__()
        for name, shape in {"a.weight": (INPUT, HIDDEN), "a.bias": (HIDDEN,), "b.weight": (HIDDEN, OUTPUT), "b.bias": (OUTPUT,)}.items():
            module, field = name.split(".")
            if not hasattr(self, module):
                self.add_module(module, torch.nn.Module())
            getattr(self, module).register_parameter(field, torch.nn.Parameter(torch.zeros(shape)))

    def forward(self, x):
        x = torch.tanh(x @ self.a.weight + self.a.bias)
        return torch.tanh(x @ self.b.weight + self.b.bias)


class Problem:
    def __init__(self):
        generator = torch.Generator().manual_seed(0)

        def normal(*shape, std=1.0):
            return torch.randn(*shape, generator=generator) * std

        self.net = Net()
        shapes = {name: p.shape for name, p in self.net.named_parameters()}
        self.base = {name: normal(*shapes[name], std=0.5) for name in NAMES}
        self.tuned = [{name: self.base[name] + normal(*shapes[name], std=0.3) for name in NAMES} for _ in range(TASKS)]
        self.heads = [(normal(OUTPUT, CLASSES), normal(CLASSES, std=0.1)) for _ in range(TASKS)]
        self.x = normal(TASKS, ROUNDS, BATCH, INPUT)
        self.y = torch.randint(0, CLASSES, (TASKS, ROUNDS, BATCH), generator=generator)
        self.tau = [{name: tuned[name] - self.base[name] for name in NAMES} for tuned in self.tuned]

    def loss(self, weights, task, round_, objective):
        logits = functional_call(self.net, weights, (self.x[task, round_],)) @ self.heads[task][0] + self.heads[task][1]
        if objective == "ce":
            return torch.nn.functional.cross_entropy(logits, self.y[task, round_])
        return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()

    def tensors(self):
        found = {f"base.{name}": value for name, value in self.base.items()}
        for task in range(TASKS):
            found |= {f"task{task}.{name}": value for name, value in self.tuned[task].items()}
            found |= {f"head{task}.weight": self.heads[task][0], f"head{task}.bias": self.heads[task][1]}
            found |= {f"x{task}": self.x[task], f"y{task}": self.y[task].float()}
        return {name: value.contiguous() for name, value in found.items()}


def trimmed(tau, density):
    """TIES: the largest entries of each vector as a whole, then those of the elected sign."""
    flat = torch.stack([torch.cat([vector[name].flatten() for name in NAMES]) for vector in tau])
    kept = int(density * flat.shape[1])
    least = flat.abs().sort(dim=1, descending=True).values[:, kept - 1 : kept]
    flat = torch.where(flat.abs() >= least, flat, 0.0)
    sign = torch.where(flat.sum(0) >= 0, 1.0, -1.0)
    flat = torch.where(flat * sign > 0, flat, 0.0)
    sizes = [tau[0][name].numel() for name in NAMES]
    return [{name: part.reshape(tau[0][name].shape) for name, part in zip(NAMES, row.split(sizes))} for row in flat]


def scaled(lam, tau, clamp=True):
    """The sum of the vectors, each block times its coefficient; `lam` is [tasks] or [tasks, blocks]."""
    lam = lam.clamp(0, 1) if clamp else lam
    at = (lambda i, b: lam[i, b]) if lam.dim() == 2 else (lambda i, b: lam[i])
    return {name: sum(at(i, b) * vector[name] for i, vector in enumerate(tau)) for b, name in enumerate(NAMES)}


def add(base, change):
    return {name: base[name] + change[name] for name in NAMES}


def adamerging(p, granularity, lr, steps, trim=None):
    tau = trimmed(p.tau, trim) if trim else p.tau
    lam = torch.full((TASKS, len(NAMES)) if granularity == "layer" else (TASKS,), 0.3, requires_grad=True)
    optimizer, losses = torch.optim.Adam([lam], lr=lr), []
    for step in range(steps):
        weights = add(p.base, scaled(lam, tau))
        each = [p.loss(weights, task, step, "entropy") for task in range(TASKS)]
        losses.append([float(loss.detach()) for loss in each])
        optimizer.zero_grad()
        sum(each).backward()
        optimizer.step()
    merged = add(p.base, scaled(lam.detach(), tau))
    return {"losses": torch.tensor(losses), "lambda": lam.detach().clamp(0, 1), **merged}


def relaxed(logits, seed, draw, temperature):
    masks = {}
    for name in NAMES:
        u = (words(seed, f"{name}#{draw}", logits[name].numel()).astype(np.float64) + 0.5) / 2**32
        u = torch.from_numpy(u.astype(np.float32)).clamp(1e-6, np.float32(1) - np.float32(1e-6)).reshape(logits[name].shape)
        masks[name] = torch.sigmoid((u.log() - (1 - u).log() + logits[name]) / temperature)
    return masks


def masked(change, masks):
    return {name: change[name] * masks[name] / masks[name].mean() for name in NAMES}


def concrete(p, algorithm, granularity, scaling, lr, base_lr, adamerging_lr, steps, adamerging_steps, seed, temperature=0.5):
    logits = {name: torch.zeros_like(p.base[name], requires_grad=True) for name in NAMES}
    layer = algorithm == "adamerging" and granularity == "layer"
    lam = torch.full((TASKS, len(NAMES)) if layer else (TASKS,), scaling, requires_grad=True)
    outer, inner = torch.optim.Adam(list(logits.values()), lr=lr), torch.optim.Adam([lam], lr=base_lr)
    losses, draw, round_ = [], 0, 0

    def value(change, note):
        nonlocal round_
        weights = add(p.base, change)
        each = [p.loss(weights, task, round_, "entropy") for task in range(TASKS)]
        round_ += 1
        if note:
            losses.append([float(loss.detach()) for loss in each])
        return sum(each)

    for _ in range(steps):
        if algorithm == "adamerging":
            with torch.no_grad():
                lam.fill_(scaling)
                masks = relaxed(logits, seed, draw, temperature)
            inner.zero_grad()
            value(masked(scaled(lam, p.tau), masks), False).backward()
            inner.step()
            draw += 1
        outer.zero_grad()
        value(masked(scaled(lam.detach(), p.tau), relaxed(logits, seed, draw, temperature)), True).backward()
        outer.step()
        draw += 1
    final = {name: x.detach() for name, x in logits.items()}
    if algorithm == "adamerging":
        masks = relaxed(final, seed, draw, temperature)
        lam = torch.full_like(lam.detach(), scaling, requires_grad=True)
        optimizer = torch.optim.Adam([lam], lr=adamerging_lr)
        for _ in range(adamerging_steps):
            optimizer.zero_grad()
            value(masked(scaled(lam, p.tau), masks), True).backward()
            optimizer.step()
    change = scaled(lam.detach(), p.tau)
    found = {"losses": torch.tensor(losses), "lambda": lam.detach().clamp(0, 1)}
    found |= {f"logits.{name}": x for name, x in final.items()}
    found |= {f"expected.{name}": x for name, x in add(p.base, masked(change, {n: x.sigmoid() for n, x in final.items()})).items()}
    masks = relaxed(final, seed, draw, temperature)
    found |= {f"continuous.{name}": x for name, x in add(p.base, masked(change, masks)).items()}
    hard = {name: (m > 0.5).float() for name, m in masks.items()}
    return found | {f"discrete.{name}": x for name, x in add(p.base, masked(change, hard)).items()}


def atlas(p, granularity, lr, steps, weight_decay, clip, lp_reg=None, schedule="constant", parts=None, part_seed=0, negation=False):
    tau = p.tau[:1] if negation else p.tau
    n, blocks = len(tau), len(NAMES)
    shape = (n,) if granularity == "global" else (n, blocks) if parts is None else (n, 2, parts)
    coef = torch.zeros(shape, requires_grad=True)
    of = {}
    if parts is not None:
        for name in ["a.weight", "b.weight"]:
            drawn = words(part_seed, f"parts of {name}", p.base[name].numel()).astype(np.uint64) * np.uint64(parts) >> np.uint64(32)
            of[name] = torch.from_numpy(drawn.astype(np.int64)).reshape(p.base[name].shape)

    def weights():
        if parts is None:
            return add(p.base, scaled(coef, tau, clamp=False))
        found = dict(p.base)
        for b, name in enumerate(["a.weight", "b.weight"]):
            found[name] = p.base[name] + sum(coef[i, b][of[name]] * tau[i][name] for i in range(n))
        return found

    optimizer, losses = torch.optim.AdamW([coef], lr=lr, weight_decay=weight_decay), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (0.5 * (1 + math.cos(math.pi * step / steps)) if schedule == "cosine" else 1.0)
        current = weights()
        each = [p.loss(current, task, step, "ce") for task in range(2 if negation else TASKS)]
        losses.append([float(loss.detach()) for loss in each])
        loss = each[1] - each[0] if negation else sum(each)
        if lp_reg:
            loss = loss + 0.5 * torch.linalg.vector_norm(coef.reshape(n, -1), ord=lp_reg, dim=0).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([coef], clip)
        optimizer.step()
    return {"losses": torch.tensor(losses), "coef": coef.detach(), **{name: x.detach() for name, x in weights().items()}}


CASES = {
    "adamerging": {
        "layer": {"granularity": "layer", "lr": 0.05, "steps": 8},
        "task": {"granularity": "task", "lr": 0.2, "steps": 8},
        "trimmed": {"granularity": "layer", "lr": 0.05, "steps": 6, "trim": 0.3},
    },
    "concrete": {
        "task_arithmetic": {"algorithm": "task_arithmetic", "granularity": "task", "scaling": 0.4, "lr": 0.05, "base_lr": 1.0,
                            "adamerging_lr": 1e-3, "steps": 8, "adamerging_steps": 0, "seed": 7},
        "layer": {"algorithm": "adamerging", "granularity": "layer", "scaling": 0.3, "lr": 0.05, "base_lr": 0.05, "adamerging_lr": 0.05,
                  "steps": 4, "adamerging_steps": 5, "seed": 3},
        "task": {"algorithm": "adamerging", "granularity": "task", "scaling": 0.3, "lr": 0.05, "base_lr": 1.0, "adamerging_lr": 0.05,
                 "steps": 4, "adamerging_steps": 5, "seed": 4},
    },
    "atlas": {
        "block": {"granularity": "block", "lr": 0.05, "steps": 8, "weight_decay": 0.1, "clip": 0.05, "lp_reg": 2, "schedule": "cosine"},
        "global": {"granularity": "global", "lr": 0.05, "steps": 8, "weight_decay": 0.1, "clip": 1.0, "lp_reg": 1},
        "parts": {"granularity": "block", "lr": 0.05, "steps": 8, "weight_decay": 0.0, "clip": 1.0, "parts": 3, "part_seed": 5},
        "negation": {"granularity": "block", "lr": 0.05, "steps": 8, "weight_decay": 0.1, "clip": 1.0, "negation": True},
    },
}


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    problem = Problem()
    save_file(problem.tensors(), out / "problem.safetensors")
    expected = {}
    for method, cases in CASES.items():
        for name, case in cases.items():
            found = {"adamerging": adamerging, "concrete": concrete, "atlas": atlas}[method](problem, **case)
            expected |= {f"{method}/{name}/{key}": value.contiguous() for key, value in found.items()}
    save_file(expected, out / "expected.safetensors")
    (out / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
