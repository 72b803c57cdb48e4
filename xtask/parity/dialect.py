#!/usr/bin/env python3
"""Adapters with every setting of HF PEFT's dialect that says which tensors count, and what HF PEFT makes of them, for the test that all
commands of `peft` say the same.

    pip install -r xtask/parity/requirements.txt
    python xtask/parity/dialect.py fixtures

Writes fixtures/dialect/ on top of the models in fixtures/models. A case is an adapter as HF PEFT saves it, some settings that are
changed in its configuration afterwards, and the logits that HF PEFT gives then (none where it fails)."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import common  # noqa: E402  (sets the offline switches before anything is imported)
import torch  # noqa: E402
from peft import IA3Config, LoraConfig, PeftModel, VeraConfig, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

TOKENS = [4, 40, 41, 42, 31, 5]
TWO = ["q_proj", "o_proj"]
GROWN = 99


def lora(**settings):
    return LoraConfig(**{"r": 2, "lora_alpha": 4, "target_modules": TWO, "task_type": "CAUSAL_LM", **settings})


def trained(model):
    model.model.embed_tokens.weight.data[5] += 1.0
    return model


def grown(model):
    torch.manual_seed(3)
    model.resize_token_embeddings(GROWN)
    return model


def named(tensors):
    """Keys as they are in the model."""
    key = lambda k: k.replace(".weight", ".default.weight").replace("_vector", "_vector.default.weight")  # noqa: E731
    return {key(k): v for k, v in tensors.items()}


# name -> (base, configuration, what is done to the base, to the tensors, extra arguments of save_pretrained)
ADAPTERS = {
    "two": ("llama", lora(), None, None, {}),
    "four": ("llama", lora(target_modules=[*TWO, "k_proj", "v_proj"]), None, None, {}),
    "bias": ("llama-bias", lora(bias="all"), None, None, {}),
    "bias-and-modules": ("llama-bias", lora(bias="all", modules_to_save=["layers.0.mlp"]), None, None, {}),
    "names": ("llama", lora(use_dora=True), None, named, {}),
    "embedding": ("llama", lora(target_modules=["q_proj", "embed_tokens"]), None, None, {}),
    "trained": ("llama", lora(target_modules=["q_proj"]), trained, None, {"save_embedding_layers": True}),
    "trained-tied": ("qwen2", lora(target_modules=["q_proj"]), trained, None, {"save_embedding_layers": True}),
    "head-tied": ("qwen2", lora(target_modules=["q_proj", "lm_head"]), None, None, {"save_embedding_layers": False}),
    "head-whole-tied": ("qwen2", lora(target_modules=["q_proj"], modules_to_save=["lm_head"]), None, None, {}),
    "grown": ("llama", lora(target_modules=["q_proj"]), grown, None, {"save_embedding_layers": True}),
    "grown-tied": ("qwen2", lora(target_modules=["q_proj", "embed_tokens"]), grown, None, {}),
    "ia3": ("llama", IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]), None, None, {}),
    "vera": ("llama", VeraConfig(r=4, task_type="CAUSAL_LM", target_modules=TWO), None, None, {}),
}

# name -> (adapter, settings that are changed)
FIRST = r"layers\.0\.self_attn\.q_proj"
CASES = {
    "plain": ("two", {}),
    "nulls": ("two", {k: None for k in ("use_rslora", "use_dora", "inference_mode", "fan_in_fan_out", "init_lora_weights", "lora_bias")}),
    "null-targets": ("four", {"target_modules": None}),
    "narrowed": ("two", {"target_modules": ["o_proj", "nothing"]}),
    "excluded": ("two", {"exclude_modules": ["q_proj"]}),
    "excluded-expression": ("two", {"exclude_modules": r".*\.0\..*"}),
    "look-ahead": ("two", {"target_modules": r"^(?!.*lm_head).*\.q_proj"}),
    "all-linear": ("four", {"target_modules": "all-linear", "exclude_modules": r".*(mlp|v_proj).*"}),
    "layer": ("two", {"layers_to_transform": 1}),
    "layers-pattern": ("two", {"layers_to_transform": [0], "layers_pattern": ["h", "layers"]}),
    "layers-named-otherwise": ("two", {"layers_to_transform": [0], "layers_pattern": "h"}),
    "full-path-beside-layers": ("two", {"layers_to_transform": [0], "target_modules": ["model.layers.1.self_attn.q_proj", "o_proj"]}),
    "order": ("two", {"alpha_pattern": {"q_proj": 16, FIRST: 64}}),
    "other-order": ("two", {"alpha_pattern": {FIRST: 64, "q_proj": 16, "nothing": 3}}),
    "rslora": ("two", {"use_rslora": True, "alpha_pattern": {"o_proj": 9}}),
    "inputs-first": ("two", {"fan_in_fan_out": True}),
    "olora": ("two", {"init_lora_weights": "olora"}),
    "pissa": ("two", {"init_lora_weights": "pissa"}),
    "mica": ("two", {"init_lora_weights": "mica"}),
    "saved-module-is-missing": ("two", {"modules_to_save": ["lm_head"]}),
    "saved-module-is-nowhere": ("two", {"modules_to_save": ["score"]}),
    "bias": ("bias", {}),
    "bias-in-the-file-alone": ("bias", {"bias": "none"}),
    "bias-and-modules": ("bias-and-modules", {}),
    "names": ("names", {}),
    "embedding": ("embedding", {}),
    "embedding-excluded": ("embedding", {"exclude_modules": ["embed_tokens"]}),
    "trained": ("trained", {}),
    "trained-tied": ("trained-tied", {}),
    "head-tied": ("head-tied", {}),
    "head-tied-excluded": ("head-tied", {"target_modules": ["q_proj"]}),
    "head-whole-tied": ("head-whole-tied", {}),
    "grown": ("grown", {}),
    "grown-tied": ("grown-tied", {}),
    "ia3": ("ia3", {}),
    "ia3-excluded": ("ia3", {"exclude_modules": ["k_proj"]}),
    "ia3-no-feedforward": ("ia3", {"feedforward_modules": None}),
    "vera": ("vera", {}),
    "vera-narrowed": ("vera", {"target_modules": ["q_proj"]}),
}


@torch.no_grad()
def randomise(model, seed: int) -> None:
    gen = common.generator(seed)
    for name, p in model.named_parameters():
        if any(part in name for part in ("lora_", "ia3_", "vera_lambda", "modules_to_save")) and "vera_A" not in name and "vera_B" not in name:
            p.add_(common.normal(p.shape, 0.3, gen))
        elif name.endswith(".bias"):
            p.add_(common.normal(p.shape, 0.3, gen))


def make_adapter(out: Path, models: Path, name: str, seed: int) -> None:
    base, config, to_base, to_tensors, arguments = ADAPTERS[name]
    model = common.load_model(str(models / base))
    torch.manual_seed(seed)
    model = get_peft_model(to_base(model) if to_base else model, config)
    model.peft_config["default"].base_model_name_or_path = base
    randomise(model, seed)
    model.save_pretrained(str(out / name), **arguments)
    (out / name / "README.md").unlink()
    if to_tensors:
        file = out / name / "adapter_model.safetensors"
        save_file(to_tensors(load_file(file)), file)


def expected(models: Path, adapter: Path, base: str, settings: dict, grow: bool):
    """The logits, or nothing where HF PEFT does not load the adapter."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        shutil.copy(adapter / "adapter_model.safetensors", scratch)
        config = json.loads((adapter / "adapter_config.json").read_text())
        (scratch / "adapter_config.json").write_text(json.dumps({**config, **settings}))
        model = common.load_model(str(models / base))
        if grow:
            model.resize_token_embeddings(GROWN)
        try:
            model = PeftModel.from_pretrained(model, str(scratch)).eval()
        except Exception:  # noqa: BLE001  (whatever it is, it is a refusal)
            return None
        return common.logits(model, torch.tensor([TOKENS]))[0]


def main() -> None:
    fixtures = Path(sys.argv[1])
    out, models = fixtures / "dialect", fixtures / "models"
    shutil.rmtree(out, ignore_errors=True)
    for seed, name in enumerate(ADAPTERS, start=900):
        make_adapter(out, models, name, seed)
    cases, tensors = [], {}
    for name, (adapter, settings) in CASES.items():
        base = ADAPTERS[adapter][0]
        logits = expected(models, out / adapter, base, settings, ADAPTERS[adapter][2] is grown)
        cases.append({"name": name, "base": base, "adapter": adapter, "settings": settings, "refused": logits is None})
        if logits is not None:
            tensors[name] = logits
    for name, other in [("order", "other-order"), ("plain", "narrowed"), ("plain", "olora"), ("layer", "layers-pattern"), ("trained", "plain")]:
        assert (tensors[name] - tensors[other]).abs().max() > 0.02, f"{name} and {other} are the same"
    save_file(tensors, out / "expected.safetensors")
    (out / "cases.json").write_text(json.dumps({"tokens": TOKENS, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
