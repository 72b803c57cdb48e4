#!/usr/bin/env python3
"""Merges small checkpoints with mergekit itself, for the tests of `peft merge` to compare with.

    pip install -r xtask/parity/requirements.txt mergekit==0.1.5
    python xtask/parity/merge.py make fixtures/merge      writes models, recipes and what mergekit makes of them
    python xtask/parity/merge.py check fixtures/merge PEFT   merges all recipes with the program PEFT and mergekit, and compares

Models are random; no tensor is copied from a published one. For methods that drop numbers at random the masks that mergekit drew are
written beside its result, so that the same masks give the same result."""

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
os.environ.setdefault("TQDM_DISABLE", "1")

import torch  # noqa: E402
import yaml  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import AddedToken, Tokenizer, models  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

LAYERS = 3
SIZE = dict(hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,:;!?-"


def weighted(**models):
    return [{"model": name, "parameters": parameters} for name, parameters in models.items()]


def three(**shared):
    return weighted(a={"weight": 0.5, **shared}, b={"weight": 0.3, **shared}, c={"weight": -0.2, **shared})


MLP = [{"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.4}]
RECIPES = {
    "linear": dict(merge_method="linear", models=weighted(a={"weight": 1.0}, b={"weight": 0.3}, c={"weight": 0.5})),
    "linear_plain": dict(merge_method="linear", models=three(), parameters={"normalize": False}),
    "linear_gradient": dict(
        merge_method="linear", models=weighted(a={"weight": [0, 0.5, 1, 0.25]}, b={"weight": MLP}, c={"weight": 0.5})
    ),
    "slerp": dict(
        merge_method="slerp",
        base_model="a",
        slices=[{"sources": [{"model": "a", "layer_range": [0, LAYERS]}, {"model": "far", "layer_range": [0, LAYERS]}]}],
        parameters={
            "t": [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]}, {"filter": "mlp", "value": [1, 0.5, 0]}, {"value": 0.5}]
        },
    ),
    "slerp_near": dict(merge_method="slerp", base_model="base", models=[{"model": "b"}], parameters={"t": 0.3}),
    "nuslerp": dict(merge_method="nuslerp", models=weighted(a={"weight": 0.7}, far={"weight": 0.2})),
    "nuslerp_base": dict(merge_method="nuslerp", base_model="base", models=weighted(a={"weight": 0.7}, far={"weight": 0.2})),
    "nuslerp_last_axis": dict(
        merge_method="nuslerp",
        models=weighted(a={"weight": 0.7}, far={"weight": 0.2}),
        parameters={"nuslerp_flatten": False},
    ),
    "nuslerp_first_axis": dict(
        merge_method="nuslerp",
        models=weighted(a={"weight": 0.7}, far={"weight": 0.2}),
        parameters={"nuslerp_flatten": False, "nuslerp_row_wise": True},
    ),
    "multislerp": dict(merge_method="multislerp", models=weighted(a={"weight": 0.5}, far={"weight": 0.3}, c={"weight": 0.4})),
    "multislerp_base": dict(
        merge_method="multislerp", base_model="base", models=weighted(a={"weight": 0.5}, b={"weight": 0.3}, c={"weight": 0.4})
    ),
    "karcher": dict(merge_method="karcher", models=[{"model": "a"}, {"model": "far"}, {"model": "c"}]),
    "task_arithmetic": dict(
        merge_method="task_arithmetic", base_model="base", models=three(), parameters={"lambda": 0.7}
    ),
    "task_arithmetic_normalized": dict(
        merge_method="task_arithmetic", base_model="base", models=three(), parameters={"normalize": True}
    ),
    "ties": dict(
        merge_method="ties",
        base_model="base",
        models=weighted(
            a={"density": [1, 0.7, 0.1], "weight": 1.0},
            b={"density": 0.5, "weight": [0, 0.3, 0.7, 1]},
            c={"density": 0.33, "weight": [{"filter": "mlp", "value": 0.5}, {"value": 0}]},
        ),
        parameters={"normalize": True, "int8_mask": True},
    ),
    "ties_rescaled": dict(
        merge_method="ties",
        base_model="base",
        models=three(density=0.4),
        parameters={"normalize": False, "rescale": True, "lambda": 1.5},
    ),
    "breadcrumbs": dict(merge_method="breadcrumbs", base_model="base", models=three(density=0.6, gamma=0.05)),
    "breadcrumbs_ties": dict(
        merge_method="breadcrumbs_ties", base_model="base", models=three(density=0.97, gamma=0.1), parameters={"rescale": True}
    ),
    "model_stock": dict(merge_method="model_stock", base_model="base", models=[{"model": m} for m in "abc"]),
    "model_stock_rows": dict(
        merge_method="model_stock", base_model="base", models=[{"model": m} for m in "abc"], parameters={"filter_wise": True}
    ),
    "sce": dict(merge_method="sce", base_model="base", models=[{"model": m} for m in "abc"]),
    "sce_selected": dict(
        merge_method="sce", base_model="base", models=[{"model": m} for m in "abc"], parameters={"select_topk": 0.3}
    ),
    "ram": dict(merge_method="ram", base_model="base", models=[{"model": m} for m in "abc"], parameters={"epsilon": 0.02}),
    "ramplus_tl": dict(
        merge_method="ramplus_tl", base_model="base", models=[{"model": m} for m in "abc"], parameters={"epsilon": 0.02, "r": 0.3}
    ),
    "with_adapters": dict(
        merge_method="ties",
        base_model="base",
        models=weighted(
            **{"base+lora": {"weight": 0.7, "density": 0.6}, "b+lora_whole": {"weight": 0.5, "density": 0.8}, "c": {"weight": 0.3}}
        ),
        parameters={"normalize": False},
    ),
    "adapter_alone": dict(merge_method="passthrough", models=[{"model": "a+lora"}]),
    "nearswap": dict(merge_method="nearswap", base_model="base", models=[{"model": "a"}], parameters={"t": 0.002}),
    "passthrough": dict(
        merge_method="passthrough",
        slices=[
            {"sources": [{"model": "a", "layer_range": [0, 2]}]},
            {
                "sources": [
                    {
                        "model": "b",
                        "layer_range": [1, 3],
                        "parameters": {"scale": [{"filter": "o_proj", "value": 0.5}, {"filter": "down_proj", "value": [0, 1]}]},
                    }
                ]
            },
        ],
    ),
    "stacked_ties": dict(
        merge_method="ties",
        base_model="base",
        slices=[
            {"sources": [{"model": m, "layer_range": r, "parameters": {"weight": 0.5}} for m, r in [("a", [0, 2]), ("base", [0, 2])]]},
            {
                "sources": [{"model": m, "layer_range": r} for m, r in [("base", [1, 3]), ("b", [0, 2])]],
                "parameters": {"weight": [0.2, 0.8]},
            },
        ],
        parameters={"density": 0.5},
    ),
    "dare_linear": dict(merge_method="dare_linear", base_model="base", models=three(density=0.5)),
    "dare_ties": dict(
        merge_method="dare_ties", base_model="base", models=three(density=0.5), parameters={"normalize": True, "rescale": False}
    ),
    "della": dict(merge_method="della", base_model="base", models=three(density=0.5, epsilon=0.2)),
    "della_linear": dict(merge_method="della_linear", base_model="base", models=three(density=0.5), parameters={"lambda": 0.8}),
    "tokens_union": dict(
        merge_method="linear",
        models=weighted(a={"weight": 0.6}, wide={"weight": 0.4}),
        tokenizer={
            "source": "union",
            "tokens": {"<y>": {"source": "wide", "force": True}, "<z>": {"source": {"kind": "zero"}}},
        },
    ),
    # mergekit cannot add a token to the base's vocabulary, only to a union.
    "tokens_base": dict(
        merge_method="linear",
        base_model="a",
        models=weighted(a={"weight": 0.6}, wide={"weight": 0.4}),
        tokenizer={
            "source": "base",
            "tokens": {"b": {"source": {"kind": "model_token", "model": "wide", "token": "c"}, "force": True}},
            "pad_to_multiple_of": 8,
        },
    ),
}


def tokenizer(characters: str, added: list[str]) -> PreTrainedTokenizerFast:
    vocab = {c: i for i, c in enumerate(characters)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in added])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=added[0])


def make_models(out: Path) -> None:
    plain = tokenizer(CHARACTERS, ["<s>", "<pad>"])
    # Another order, a letter less, two tokens more.
    wide = tokenizer(CHARACTERS[::-1].replace("q", ""), ["<pad>", "<s>", "<x>", "<y>"])
    config = LlamaConfig(vocab_size=len(plain), num_hidden_layers=LAYERS, tie_word_embeddings=False, max_position_embeddings=64, **SIZE)
    config.architectures = ["LlamaForCausalLM"]
    gen = torch.Generator().manual_seed(7)

    def normal(shape, std):
        return torch.randn(shape, generator=gen) * std

    model = LlamaForCausalLM(config)
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    base = {k: normal(s, 0.2) + (1.0 if "norm" in k else 0.0) for k, s in shapes.items()}
    changes = {m: {k: normal(s, 0.02) for k, s in shapes.items()} for m in "abc"}
    all_models = {"base": base}
    all_models |= {m: {k: base[k] + change[k] for k in base} for m, change in changes.items()}
    all_models["far"] = {k: normal(s, 0.3) for k, s in shapes.items()}
    all_models["wide"] = {k: v + normal(v.shape, 0.02) for k, v in base.items()}
    for key in ["model.embed_tokens.weight", "lm_head.weight"]:
        all_models["wide"][key] = normal((len(wide), SIZE["hidden_size"]), 0.2)
    for name, weights in all_models.items():
        to = out / "models" / name
        to.mkdir(parents=True)
        config.vocab_size = weights["lm_head.weight"].shape[0]
        config.save_pretrained(to)
        (wide if name == "wide" else plain).save_pretrained(to)
        save_file({k: v.contiguous() for k, v in weights.items()}, to / "model.safetensors", {"format": "pt"})


# `lora` has matrices alone; `lora_whole` also takes the place of whole weights.
ADAPTERS = {
    "lora": dict(
        r=4, lora_alpha=6, use_rslora=True, rank_pattern={"up_proj": 2}, target_modules=["q_proj", "up_proj", "down_proj", "embed_tokens"]
    ),
    "lora_whole": dict(r=3, lora_alpha=3, alpha_pattern={"1.*v_proj": 9}, target_modules=["v_proj", "o_proj"], modules_to_save=["lm_head"]),
}


def make_adapters(out: Path) -> None:
    gen = torch.Generator().manual_seed(13)
    for name, settings in ADAPTERS.items():
        model = get_peft_model(
            LlamaForCausalLM.from_pretrained(out / "models" / "base"), LoraConfig(task_type="CAUSAL_LM", **settings)
        )
        model.peft_config["default"].base_model_name_or_path = "base"
        for key, parameter in model.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                parameter.data = torch.randn(parameter.shape, generator=gen) * 0.1
        model.save_pretrained(out / "models" / name, save_embedding_layers=False)
        (out / "models" / name / "README.md").unlink()


@contextlib.contextmanager
def recorded_masks(masks: dict):
    """Notes what torch.bernoulli draws inside merge_group, per weight and model."""
    from mergekit.merge_methods.generalized_task_arithmetic import GeneralizedTaskArithmeticMerge as Merge

    bernoulli, merge_group = torch.bernoulli, Merge.merge_group
    current = []

    def group(self, group, /, **parameters):
        current[:] = [group.metadata.name, 0]
        return merge_group(self, group, **parameters)

    def draw(p, *args, **kwargs):
        mask = bernoulli(p, *args, **kwargs)
        name, index = current
        masks[f"{name}/{index}"] = mask.to(torch.uint8).reshape(-1).contiguous()
        current[1] += 1
        return mask

    torch.bernoulli, Merge.merge_group = draw, group
    try:
        yield
    finally:
        torch.bernoulli, Merge.merge_group = bernoulli, merge_group


def mergekit(recipe: dict, directory: Path, out: Path, masks: dict) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    here = os.getcwd()
    os.chdir(directory)
    try:
        with recorded_masks(masks), tempfile.TemporaryDirectory() as cache:
            options = MergeOptions(copy_tokenizer=False, quiet=True, random_seed=3, write_model_card=False, lora_merge_cache=cache)
            run_merge(MergeConfiguration.model_validate(recipe), str(out), options)
    finally:
        os.chdir(here)


def by_token(directory: Path) -> dict:
    vocab = json.loads((directory / "tokenizer.json").read_text())
    return {**vocab["model"]["vocab"], **{t["content"]: t["id"] for t in vocab["added_tokens"]}}


def make(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    make_models(out)
    make_adapters(out)
    for part in ["recipes", "expected"]:
        (out / part).mkdir()
    for name, recipe in RECIPES.items():
        (out / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        with tempfile.TemporaryDirectory() as temporary:
            masks: dict = {}
            mergekit(recipe, out / "models", Path(temporary), masks)
            expected = load_file(Path(temporary) / "model.safetensors")
            if name.startswith("tokens"):
                tokens = by_token(Path(temporary))
                (out / "expected" / f"{name}.tokens.json").write_text(json.dumps(tokens, ensure_ascii=True))
            save_file(expected, out / "expected" / f"{name}.safetensors", {"format": "pt"})
            if masks:
                save_file(masks, out / "expected" / f"{name}.masks.safetensors")
        print(f"{name}: {len(expected)} tensors", file=sys.stderr)


def check(fixtures: Path, program: str) -> dict:
    """The largest difference of any tensor over its largest number, for each recipe that draws nothing."""
    rows = {}
    for name, recipe in RECIPES.items():
        with tempfile.TemporaryDirectory() as temporary:
            ours, theirs = Path(temporary) / "ours", Path(temporary) / "theirs"
            masks: dict = {}
            mergekit(recipe, fixtures / "models", theirs, masks)
            if masks or name == "tokens_union":
                continue  # ids of a union are in no fixed order
            file = fixtures.resolve() / "recipes" / f"{name}.yaml"
            command = [str(Path(program).resolve()), "merge", str(file), "--out", str(ours)]
            subprocess.run(command, check=True, cwd=fixtures / "models", capture_output=True)
            a, b = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
            if a.keys() != b.keys():
                raise ValueError(f"{name}: {sorted(a.keys() ^ b.keys())}")
            rows[name] = max(float((a[k] - b[k]).abs().max() / b[k].abs().max()) for k in a)
            LlamaForCausalLM.from_pretrained(ours)
    return rows


def main() -> None:
    action, fixtures, *rest = sys.argv[1:]
    if action == "make":
        make(Path(fixtures).resolve())
        return
    rows = check(Path(fixtures), rest[0])
    print(json.dumps(rows, indent=2))
    if max(rows.values()) > 1e-6:
        sys.exit("mergekit says otherwise")


if __name__ == "__main__":
    main()
