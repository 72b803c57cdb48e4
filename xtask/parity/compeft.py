#!/usr/bin/env python3
"""Writes what the tests of compressed task vectors compare with.

    python xtask/parity/compeft.py fixtures/compeft

ComPEFT (arXiv 2311.13171) in a few lines of numpy: keep the largest entries of the concatenated vector, of equal ones the first, and
replace each by its sign times alpha times the standard deviation (n - 1) of all entries; for `stc` times the mean magnitude of the kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CASES = [
    {"density": density, "alpha": alpha, "mode": mode, "scope": scope}
    for density, alpha in [(0.05, 5.0), (0.2, 2.0), (0.37, 1.0), (1.0, 0.5)]
    for mode in ["compeft", "stc"]
    for scope in ["global", "per_tensor"]
]


def compress(tau: np.ndarray, density: float, alpha: float, mode: str) -> np.ndarray:
    magnitude = np.abs(tau)
    keep = np.argsort(-magnitude, kind="stable")[: int(density * len(tau) + 1e-6)]
    scale = np.std(tau, ddof=1) if mode == "compeft" else np.mean(magnitude[keep][magnitude[keep] > 0])
    out = np.zeros_like(tau)
    out[keep] = np.sign(tau[keep]) * alpha * scale
    return out


def compress_all(tensors: dict[str, np.ndarray], case: dict) -> dict[str, np.ndarray]:
    settings = {key: case[key] for key in ["density", "alpha", "mode"]}
    names = sorted(tensors)
    flat = [tensors[name].astype(np.float64).ravel() for name in names]
    if case["scope"] == "per_tensor":
        parts = [compress(tau, **settings) for tau in flat]
    else:
        parts = np.split(compress(np.concatenate(flat), **settings), np.cumsum([len(tau) for tau in flat])[:-1])
    return {name: part.reshape(tensors[name].shape).astype(np.float32) for name, part in zip(names, parts)}


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    tensors = {}
    for module, (rows, columns) in {"q_proj": (24, 40), "v_proj": (17, 40)}.items():
        path = f"base_model.model.model.layers.0.self_attn.{module}"
        tensors[f"{path}.lora_A.weight"] = rng.normal(0, 0.1, (4, columns)).astype(np.float32)
        # Few different values, many of them zero: ties wherever it is cut.
        tensors[f"{path}.lora_B.weight"] = (np.round(rng.normal(0, 0.05, (rows, 4)) * 32) / 32).astype(np.float32)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": True}
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, out / "adapter_model.safetensors", {"format": "pt"})
    (out / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")
    expected = {f"{i}/{name}": t for i, case in enumerate(CASES) for name, t in compress_all(tensors, case).items()}
    save_file(expected, out / "expected.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
