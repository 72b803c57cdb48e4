#!/usr/bin/env python3
"""Writes what the tests of Fisher information compare with.

    python xtask/parity/fisher.py fixtures/fisher

Diagonal Fisher information (arXiv 2111.09832) by torch autograd in f64, one example and one prediction at a time, of a classifier and of a
decoder of transformers, and merges weighted by it in numpy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
import common  # noqa: E402, F401  (sets the offline switches before anything is imported)
import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.numpy import save_file as save_numpy  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: E402

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
TEXTS = [([3, 30, 31, 4], [0, 0, 0, 0]), ([3, 40, 41, 42, 43, 4], [0, 0, 0, 1, 1, 1]), ([3, 77, 4], [0, 0, 0])]
SEQUENCES = [[1, 17, 30, 4, 90], [1, 52, 52, 7], [1, 9, 61, 33, 12, 2]]
NUMBERS = [[1, 17, 30], [1, 52]]


def squares(model: torch.nn.Module, value: torch.Tensor, weight: float, total: dict[str, torch.Tensor]) -> None:
    """Add the weighted square of the gradient of `value`."""
    names, parameters = zip(*model.named_parameters())
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    for name, gradient in zip(names, gradients):
        if gradient is not None:
            total[name] = total.get(name, 0) + weight * gradient**2


def finished(model: torch.nn.Module, total: dict[str, torch.Tensor], examples: int) -> dict[str, torch.Tensor]:
    zeros = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    return {name: (total.get(name, zero) / examples).float().contiguous() for name, zero in zeros.items()}


def exact(model: torch.nn.Module, examples: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """`examples` gives the logits `[rows, classes]` of each."""
    total: dict[str, torch.Tensor] = {}
    for logits in examples:
        logs = torch.log_softmax(logits, -1)
        for row in logs:
            for log in row:
                squares(model, log, log.exp().item(), total)
    return finished(model, total, len(examples))


def empirical(model: torch.nn.Module, examples: list[tuple[torch.Tensor, list[int]]], per_row: bool) -> dict[str, torch.Tensor]:
    total: dict[str, torch.Tensor] = {}
    for logits, labels in examples:
        chosen = torch.log_softmax(logits, -1)[torch.arange(len(labels)), torch.tensor(labels)]
        for value in chosen if per_row else [chosen.sum()]:
            squares(model, value, 1.0, total)
    return finished(model, total, len(examples))


def classifiers() -> dict[str, torch.Tensor]:
    model = AutoModelForSequenceClassification.from_pretrained(
        FIXTURES / "encoders/bert-classifier", dtype=torch.float64, attn_implementation="eager"
    ).eval()
    logits = [model(torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits for ids, types in TEXTS]
    of_numbers: dict[str, torch.Tensor] = {}
    for row in logits:
        # As if the outputs were the means of numbers with variance 1.
        for mean in row[0]:
            squares(model, mean, 1.0, of_numbers)
    found = {"exact": exact(model, logits), "numbers": finished(model, of_numbers, len(logits))}
    return {f"bert/{kind}/{name}": tensor for kind, tensors in found.items() for name, tensor in tensors.items()}


def decoders() -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(FIXTURES / "models/llama", dtype=torch.float64, attn_implementation="eager").eval()
    examples = [(model(torch.tensor([ids])).logits[0, :-1], ids[1:]) for ids in SEQUENCES]
    found = {
        "sequence": empirical(model, examples, per_row=False),
        "token": empirical(model, examples, per_row=True),
        "exact": exact(model, [model(torch.tensor([ids])).logits[0, :-1] for ids in NUMBERS]),
    }
    return {f"llama/{kind}/{name}": tensor for kind, tensors in found.items() for name, tensor in tensors.items()}


CASES = [
    {"weights": weights, "normalize": normalize, "floor": floor, "favor": favor, "relative": relative, "target": target}
    for weights in ([0.5, 0.3, 0.2], [0.0, 0.7, 0.3])
    for normalize in (True, False)
    for floor, favor, relative in ((1e-6, True, False), (1e-6, False, False), (0.0, True, False), (0.5, True, True))
    for target in (0, 2)
]


def merged(models: list[dict], fishers: list[dict], case: dict) -> dict[str, np.ndarray]:
    flat = [np.concatenate([fisher[name].ravel() for name in sorted(fisher)]).astype(np.float64) for fisher in fishers]
    out = {}
    for name in models[0]:
        num, den = 0.0, 0.0
        for i, (model, fisher) in enumerate(zip(models, fishers)):
            floor = case["floor"] * (flat[i].mean() if case["relative"] else 1.0)
            f = fisher[name].astype(np.float64)
            d = np.maximum(f, floor) if i == case["target"] or not case["favor"] else f
            c = case["weights"][i] / (np.linalg.norm(flat[i]) if case["normalize"] else 1.0)
            num, den = num + c * d * model[name].astype(np.float64), den + c * d
        with np.errstate(invalid="ignore"):
            out[name] = np.where(den > 0, num / den, models[case["target"]][name]).astype(np.float32)
    return out


def merges(out: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"model.layers.0.w.weight": (7, 5), "model.layers.1.w.weight": (40, 3), "model.norm.weight": (11,)}
    models, fishers = [], []
    for scale in (1.0, 1e-3, 30.0):
        models.append({name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()})
        # Over many orders of magnitude, as Fisher information is, and some of it zero.
        fisher = {name: (scale * 10 ** rng.uniform(-14, 0, shape) * (rng.random(shape) > 0.3)).astype(np.float32) for name, shape in shapes.items()}
        fishers.append(fisher)
    inputs = {f"model/{i}/{name}": t for i, model in enumerate(models) for name, t in model.items()}
    inputs |= {f"fisher/{i}/{name}": t for i, fisher in enumerate(fishers) for name, t in fisher.items()}
    save_numpy(inputs, out / "inputs.safetensors")
    expected = {f"{i}/{name}": t for i, case in enumerate(CASES) for name, t in merged(models, fishers, case).items()}
    save_numpy(expected, out / "merged.safetensors")
    (out / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_file(classifiers() | decoders(), out / "information.safetensors")
    merges(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
