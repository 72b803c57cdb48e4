#!/usr/bin/env python3
"""Merges small adapters with HF PEFT itself, for the tests of `peft merge-adapters` to compare with.

    pip install -r xtask/parity/requirements.txt
    python xtask/parity/merge_adapters.py make fixtures/merge-adapters         writes adapters, cases and what PEFT makes of them
    python xtask/parity/merge_adapters.py check fixtures/merge-adapters PROGRAM   merges all cases with PROGRAM too, and compares

`check` compares the change of each weight after loading the program's adapter in PEFT. Models and adapters are random. For combinations
that drop numbers at random the masks that PEFT drew are written beside its result, so that the same masks give the same result."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from peft.tuners.lora import LoraLayer  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

SIZE = dict(hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
ADAPTERS = {
    "first": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "embed_tokens"]),
    "second": dict(
        r=4, lora_alpha=6, use_rslora=True, alpha_pattern={"v_proj": 10}, target_modules=["q_proj", "v_proj", "embed_tokens", "up_proj"]
    ),
    "third": dict(r=4, lora_alpha=4, target_modules=["q_proj", "up_proj"]),
    "fourth": dict(r=2, lora_alpha=4, rank_pattern={r"layers\.1.*q_proj": 5}, target_modules=["q_proj", "down_proj"]),
}
THREE = dict(adapters=["first", "second", "third"], weights=[0.7, -0.4, 0.5])
MIXED = dict(adapters=["first", "second", "fourth"], weights=[1.0, 0.3, -0.6])
CASES = {
    "linear": dict(combination="linear", **THREE),
    "cat": dict(combination="cat", **MIXED),
    "svd": dict(combination="svd", **MIXED),
    "svd_small": dict(combination="svd", svd_rank=2, **MIXED),
    "ties": dict(combination="ties", density=0.5, **THREE),
    "ties_frequency": dict(combination="ties", density=0.7, majority="frequency", **THREE),
    "ties_svd": dict(combination="ties_svd", density=0.4, **MIXED),
    "ties_svd_frequency": dict(combination="ties_svd", density=0.6, majority="frequency", svd_rank=7, **MIXED),
    "magnitude_prune": dict(combination="magnitude_prune", density=0.3, **THREE),
    "magnitude_prune_svd": dict(combination="magnitude_prune_svd", density=0.3, svd_rank=6, **MIXED),
    "dare_linear": dict(combination="dare_linear", density=0.6, **THREE),
    "dare_ties": dict(combination="dare_ties", density=0.6, **THREE),
    # The smallest side of any weight, above which PEFT itself fails.
    "dare_linear_svd": dict(combination="dare_linear_svd", density=0.6, svd_rank=8, adapters=["first", "third"], weights=[0.7, 0.5]),
    "dare_ties_svd": dict(combination="dare_ties_svd", density=0.6, svd_rank=8, **THREE),
}


def base() -> LlamaForCausalLM:
    torch.manual_seed(5)
    config = LlamaConfig(vocab_size=40, num_hidden_layers=2, tie_word_embeddings=False, max_position_embeddings=64, **SIZE)
    return LlamaForCausalLM(config)


def make_adapters(out: Path) -> None:
    generator = torch.Generator().manual_seed(11)
    for name, settings in ADAPTERS.items():
        model = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", **settings))
        model.peft_config["default"].base_model_name_or_path = "base"
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        model.save_pretrained(out / "adapters" / name, save_embedding_layers=False)
        (out / "adapters" / name / "README.md").unlink()


@contextlib.contextmanager
def recorded_masks(masks: list):
    """Notes what torch.bernoulli draws, in its order."""
    bernoulli = torch.bernoulli

    def draw(p, *args, **kwargs):
        mask = bernoulli(p, *args, **kwargs)
        masks.append(mask.to(torch.uint8).reshape(-1).contiguous())
        return mask

    torch.bernoulli = draw
    try:
        yield
    finally:
        torch.bernoulli = bernoulli


def layers(model: PeftModel, name: str) -> dict:
    """The adapted layers, by their paths in the base."""
    found = {}
    for path, layer in model.base_model.model.named_modules():
        if isinstance(layer, LoraLayer) and (name in layer.lora_A or name in layer.lora_embedding_A):
            found[path] = layer
    return found


def loaded(directory: Path, names: list[str]) -> PeftModel:
    model = PeftModel.from_pretrained(base(), directory / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(directory / name, adapter_name=name)
    return model


def merged(out: Path, case: dict, masks: dict) -> PeftModel:
    model = loaded(out / "adapters", case["adapters"])
    torch.manual_seed(3)
    drawn: list = []
    with recorded_masks(drawn):
        model.add_weighted_adapter(
            case["adapters"],
            case["weights"],
            "merged",
            combination_type=case["combination"],
            svd_rank=case.get("svd_rank"),
            density=case.get("density"),
            majority_sign_method=case.get("majority", "total"),
        )
    # Per layer in the order of the model: A of each adapter and then B, or the change of each.
    queue = iter(drawn)
    sides = ["change"] if case["combination"].endswith("svd") else ["A", "B"]
    if drawn:
        for path, layer in layers(model, "merged").items():
            inputs = [i for i, name in enumerate(case["adapters"]) if name in layer.lora_A or name in layer.lora_embedding_A]
            for side in sides:
                for i in inputs:
                    masks[f"{path}/{side}/{i}"] = next(queue)
    if next(queue, None) is not None:
        raise ValueError("more masks were drawn than there are inputs")
    return model


def changes(model: PeftModel, name: str) -> dict:
    return {path: layer.get_delta_weight(name).detach().contiguous() for path, layer in layers(model, name).items()}


def make(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    make_adapters(out)
    (out / "expected").mkdir()
    (out / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")
    for name, case in CASES.items():
        masks: dict = {}
        model = merged(out, case, masks)
        tensors = {f"{path}/change": change for path, change in changes(model, "merged").items()}
        for path, layer in layers(model, "merged").items():
            embedding = "merged" in layer.lora_embedding_A
            a = layer.lora_embedding_A["merged"] if embedding else layer.lora_A["merged"].weight
            b = layer.lora_embedding_B["merged"] if embedding else layer.lora_B["merged"].weight
            tensors |= {f"{path}/A": a.detach().contiguous(), f"{path}/B": b.detach().contiguous()}
        save_file(tensors, out / "expected" / f"{name}.safetensors")
        if masks:
            save_file(masks, out / "expected" / f"{name}.masks.safetensors")
        print(f"{name}: {len(tensors) // 3} modules", file=sys.stderr)


def check(fixtures: Path, program: str) -> dict:
    """The largest difference of any change over its largest number, for each case that draws nothing."""
    rows = {}
    for name, case in CASES.items():
        if "dare" in case["combination"]:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            command = [str(Path(program).resolve()), "merge-adapters", *(str(fixtures / "adapters" / a) for a in case["adapters"])]
            command += ["--weights", ",".join(map(str, case["weights"])), "--combination", case["combination"]]
            for key, flag in [("density", "--density"), ("svd_rank", "--svd-rank"), ("majority", "--majority-sign-method")]:
                command += [flag, str(case[key])] if key in case else []
            subprocess.run([*command, "--out", f"{temporary}/merged"], check=True, capture_output=True)
            theirs = changes(merged(fixtures, case, {}), "merged")
            ours = changes(loaded(Path(temporary), ["merged"]), "merged")
        if theirs.keys() != ours.keys():
            raise ValueError(f"{name}: {sorted(theirs.keys() ^ ours.keys())}")
        rows[name] = max(float((ours[k] - theirs[k]).abs().max() / theirs[k].abs().max()) for k in theirs)
    return rows


def main() -> None:
    action, fixtures, *rest = sys.argv[1:]
    if action == "make":
        make(Path(fixtures).resolve())
        return
    rows = check(Path(fixtures).resolve(), rest[0])
    print(json.dumps(rows, indent=2))
    if max(rows.values()) > 1e-5:
        sys.exit("HF PEFT says otherwise")


if __name__ == "__main__":
    main()
