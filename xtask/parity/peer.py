#!/usr/bin/env python3
"""Reference side of the live parity checks: transformers and peft behind a small command line.

    peer.py logits --model DIR [--adapter DIR] [--merged] --tokens 1,2,3 --out FILE.safetensors
    peer.py make-adapter --model DIR --kind KIND --out DIR [--seed N] [--r N] [--alpha N] [--targets a,b]
    peer.py make-model --arch ARCH --out DIR [--preset tiny|small|135m] [--hidden N ...] [--seed N] [--dtype D]
    peer.py compare --a FILE --b FILE
    peer.py check-checkpoint --model DIR
    peer.py batch

One JSON object goes to stdout; messages go to stderr. On failure the object is {"ok": false, "error": ...} and the
exit status is 1.

`batch` saves the start-up time of many calls: it reads one JSON array of arguments per line from stdin (for instance
["compare", "--a", "x.safetensors", "--b", "y.safetensors"]) and answers each with one line on stdout. A failed line
does not end it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
from pathlib import Path

if os.environ.get("PYTHONHASHSEED") != "0":  # peft writes target_modules (a set) in hash order
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})

sys.dont_write_bytecode = True
import common  # noqa: E402
import torch  # noqa: E402
from peft import get_peft_model  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

KINDS = ["lora", "rslora", "dora", "pissa", "ia3", "vera", "modules-to-save", "rank-pattern"]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

# std: large enough that random logits are far from uniform; 135m keeps the usual 0.02 times two.
PRESETS = {
    "tiny": dict(hidden=64, ffn=128, layers=2, heads=4, kv_heads=2, vocab=512, max_position=256, std=0.15),
    "small": dict(hidden=256, ffn=704, layers=4, heads=8, kv_heads=4, vocab=1024, max_position=512, std=0.08),
    "135m": dict(hidden=576, ffn=1536, layers=30, heads=9, kv_heads=3, vocab=49152, max_position=2048, std=0.04),
}

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def logits(args) -> dict:
    model = common.load_model(args.model)
    if args.adapter:
        model = common.load_adapter(model, args.adapter)
        if args.merged:
            model = model.merge_and_unload().eval()
    tokens = torch.tensor([[int(t) for t in args.tokens.split(",")]], dtype=torch.int64)
    result = common.logits(model, tokens)[0].contiguous()
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    save_file({"logits": result}, args.out)
    return {"shape": list(result.shape), "max_abs": float(result.abs().max())}


def make_adapter(args) -> dict:
    torch.manual_seed(args.seed)
    model = common.load_model(args.model)
    config = common.adapter_config(
        args.kind, model, args.targets.split(",") if args.targets else None, args.r, args.alpha, args.seed
    )
    model = get_peft_model(model, config).eval()
    common.randomise_adapter(model, args.seed, keep_ab=args.kind == "pissa")
    model.save_pretrained(args.out)
    file = os.path.join(args.out, "adapter_model.safetensors")
    with safe_open(file, "pt") as weights:
        keys = sorted(weights.keys())
    return {"kind": args.kind, "out": args.out, "tensors": len(keys), "keys": keys}


def training_text() -> list[str]:
    subjects = ["the adapter", "a model", "the frozen weight", "one layer", "the optimizer", "a token", "the gradient"]
    verbs = ["updates", "reads", "writes", "merges with", "rotates", "scales", "compares", "forgets"]
    objects = ["the matrix", "its magnitude", "a low rank", "the loss", "every bias", "the checkpoint", "24 heads"]
    lines = [f"{s.capitalize()} {v} {o}." for s in subjects for v in verbs for o in objects]
    lines += [f"def f_{i}(x: float) -> float:\n    return x * {i} + {i % 7}.5\n" for i in range(60)]
    lines += ["Déjà vu, naïve café — ça va? Größe, ελληνικά, 日本語, 😀!", "user: Hello!\nassistant: Hi, how are you?\n"]
    return lines * 2


def make_tokenizer(out: str, vocab: int) -> tuple[int, dict[str, int]]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab, 2048),
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(out, save_jinja_files=False)  # keeps the template inside tokenizer_config.json
    config = json.loads((Path(out) / "tokenizer_config.json").read_text())
    assert config["chat_template"] == CHAT_TEMPLATE
    ids = {name: tokenizer.token_to_id(token) for name, token in zip(["unk", "bos", "eos", "pad"], special)}
    return tokenizer.get_vocab_size(), ids


def make_model(args) -> dict:
    size = dict(PRESETS[args.preset])
    for name in size:
        if getattr(args, name, None) is not None:
            size[name] = getattr(args, name)
    os.makedirs(args.out, exist_ok=True)
    words, ids = make_tokenizer(args.out, size["vocab"])
    if words > size["vocab"]:
        raise ValueError(f"the tokenizer needs a vocabulary of {words}, more than {size['vocab']}")
    config = dict(
        vocab_size=size["vocab"],
        hidden_size=size["hidden"],
        intermediate_size=size["ffn"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"],
        max_position_embeddings=size["max_position"],
        tie_word_embeddings=args.tie if args.tie is not None else args.preset == "135m",
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
        pad_token_id=None,
        rms_norm_eps=1e-5,
    )
    if args.head_dim is not None:
        config["head_dim"] = args.head_dim
    elif args.arch == "qwen3":
        config["head_dim"] = size["hidden"] // size["heads"]
    if args.arch == "mistral":
        config["sliding_window"] = args.sliding_window
    elif args.sliding_window is not None:
        raise ValueError("--sliding-window is for mistral")
    model = common.build_model(args.arch, args.seed, size["std"], **config).to(DTYPES[args.dtype])
    model.save_pretrained(args.out, **({"max_shard_size": args.shard_size} if args.shard_size else {}))
    return {
        "arch": args.arch,
        "out": args.out,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocab": size["vocab"],
        "tokenizer_vocab": words,
        "tied": config["tie_word_embeddings"],
    }


def compare(args) -> dict:
    a, b = (load_file(path)["logits"].to(torch.float64) for path in (args.a, args.b))
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {list(a.shape)} and {list(b.shape)}")
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("not all logits are finite")
    difference, scale = float((a - b).abs().max()), float(a.abs().max())
    ratio = difference / scale if scale else (0.0 if difference == 0 else 1e308)
    return {
        "max_abs_diff": difference,
        "scale": scale,
        "ratio": ratio,
        "same_argmax": float((a.argmax(-1) == b.argmax(-1)).float().mean()),
    }


def checkpoint_keys(directory: str) -> set[str]:
    index = Path(directory) / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.exists():
        weight_map = json.loads(index.read_text())["weight_map"]
        files = sorted(set(weight_map.values()))
    keys: set[str] = set()
    for file in files:
        with safe_open(str(Path(directory) / file), "pt") as weights:
            if weights.metadata() is None or weights.metadata().get("format") != "pt":
                raise ValueError(f'{file}: no "format": "pt" in the metadata')
            keys |= set(weights.keys())
    if index.exists() and keys != set(weight_map):
        raise ValueError(f"index and shards disagree about {sorted(keys ^ set(weight_map))}")
    return keys


def check_checkpoint(args) -> dict:
    keys = checkpoint_keys(args.model)
    model, info = common.AutoModelForCausalLM.from_pretrained(
        args.model, dtype="auto", attn_implementation="eager", output_loading_info=True
    )
    problems = {k: sorted(map(str, v)) for k, v in info.items() if v}
    if problems:
        raise ValueError(f"loading reported {problems}")
    # from_pretrained forgives a few names on purpose; insist on exactly the model's own tensors.
    own = set(model.state_dict())
    tied = set(getattr(model, "all_tied_weights_keys", None) or {}) if model.config.tie_word_embeddings else set()
    unexpected, missing = sorted(keys - own), sorted(own - keys - tied)
    if unexpected or missing:
        raise ValueError(f"unexpected tensors {unexpected}, missing tensors {missing}")
    return {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()}),
        "tied": bool(model.config.tie_word_embeddings),
        "tensors": len(keys),
    }


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True)

    p = commands.add_parser("logits")
    p.set_defaults(run=logits)
    p.add_argument("--model", required=True)
    p.add_argument("--adapter")
    p.add_argument("--merged", action="store_true", help="merge the adapter into the base first")
    p.add_argument("--tokens", required=True, help="token ids, separated by commas")
    p.add_argument("--out", required=True)

    p = commands.add_parser("make-adapter")
    p.set_defaults(run=make_adapter)
    p.add_argument("--model", required=True)
    p.add_argument("--kind", required=True, choices=KINDS)
    p.add_argument("--out", required=True)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--r", type=int, default=4)
    p.add_argument("--alpha", type=int, default=8)
    p.add_argument("--targets", help="module names, separated by commas")

    p = commands.add_parser("make-model")
    p.set_defaults(run=make_model)
    p.add_argument("--arch", required=True, choices=sorted(common.CONFIGS))
    p.add_argument("--out", required=True)
    p.add_argument("--preset", choices=sorted(PRESETS), default="tiny")
    for name in ("hidden", "ffn", "layers", "heads", "kv-heads", "vocab", "max-position", "head-dim", "sliding-window"):
        p.add_argument(f"--{name}", type=int)
    p.add_argument("--std", type=float, help="standard deviation of the random matrices")
    p.add_argument("--tie", action=argparse.BooleanOptionalAction, default=None)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--dtype", choices=sorted(DTYPES), default="f32")
    p.add_argument("--shard-size", help="for instance 100KB")

    p = commands.add_parser("compare")
    p.set_defaults(run=compare)
    p.add_argument("--a", required=True)
    p.add_argument("--b", required=True)

    p = commands.add_parser("check-checkpoint")
    p.set_defaults(run=check_checkpoint)
    p.add_argument("--model", required=True)

    commands.add_parser("batch").set_defaults(run=None)
    return top


def answer(argv) -> dict:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # nothing but the result on stdout
            args = parser().parse_args(argv)
            if args.run is None:
                raise ValueError("batch inside batch")
            return {"ok": True, **args.run(args)}
    except SystemExit as end:
        return {"ok": False, "error": f"bad arguments {argv} (status {end.code})"}
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


def main() -> int:
    args = parser().parse_args()  # exits with a usage message if they make no sense
    torch.set_num_threads(max(1, min(8, os.cpu_count() or 1)))
    if args.run is None:
        for line in sys.stdin:
            if line.strip():
                print(json.dumps(answer(json.loads(line))), flush=True)
        return 0
    result = answer(sys.argv[1:])
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
