#!/usr/bin/env python3
"""The other side of `cargo xtask bench`: transformers and PEFT do what `peft-bench` does, with the same command line.

    peer.py train    --model DIR --batch N --seq N --warmup N --steps N
    peer.py generate --model DIR --prompt N --new N
    peer.py load     --model DIR
    peer.py switch   --model DIR --adapters DIR --switches N [--mixed]
    peer.py merge    --inputs DIR --models N --method linear|ties      (mergekit)

One JSON object goes to stdout: what was measured, numbers that must agree with the other side's, versions. The
number of threads is OMP_NUM_THREADS. Only what a job needs is imported: start-up is part of some measures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402
import transformers  # noqa: E402

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
warnings.filterwarnings("ignore")

# The first of the numbers that the two sides compare.
CHECKED = 8


def token_ids(count: int, vocab: int) -> list[int]:
    """The tokens that the other side uses."""
    ids, state = [], 1
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        ids.append((state >> 33) % vocab)
    return ids


def load_model(args):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)


def inputs(model, rows: int, columns: int) -> torch.Tensor:
    return torch.tensor(token_ids(rows * columns, model.config.vocab_size)).reshape(rows, columns)


def last_logits(logits: torch.Tensor) -> list[float]:
    """The first logits of the last position of the first row."""
    return logits[0, -1, :CHECKED].tolist()


def ms(start: float) -> float:
    return (time.perf_counter() - start) * 1e3


def train(args) -> dict:
    from peft import LoraConfig, get_peft_model

    base = load_model(args)
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    ids = token_ids(args.batch * args.seq * (args.warmup + args.steps), base.config.vocab_size)
    batches = torch.tensor(ids).reshape(-1, args.batch, args.seq)
    losses, start, ready_at = [], 0.0, 0.0
    for step, batch in enumerate(batches):
        if step == args.warmup:
            start = time.perf_counter()
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step == 0:
            ready_at = time.time()
    seconds = time.perf_counter() - start
    metrics = {"tokens_per_second": args.batch * args.seq * args.steps / seconds}
    return {"metrics": metrics, "ready_at": ready_at, "check": losses[:1]}


def generate(args) -> dict:
    from transformers.generation.streamers import BaseStreamer

    class Clock(BaseStreamer):
        """When the prompt was taken and each token came."""

        def __init__(self):
            self.times = []

        def put(self, value):
            self.times.append(time.perf_counter())

        def end(self):
            pass

    model = load_model(args).eval()
    ids = inputs(model, 1, args.prompt)
    mask = torch.ones_like(ids)

    def run(new: int, clock: Clock):
        return model.generate(
            ids, attention_mask=mask, do_sample=False, min_new_tokens=new, max_new_tokens=new, use_cache=True, streamer=clock
        )

    with torch.inference_mode():
        run(8, Clock())
        clock = Clock()
        start = time.perf_counter()
        tokens = run(args.new, clock)[0, args.prompt :].tolist()
    assert len(tokens) == args.new, f"{len(tokens)} tokens in place of {args.new}"
    first, last = clock.times[1], clock.times[-1]
    metrics = {"tokens_per_second": (args.new - 1) / (last - first), "first_token_ms": (first - start) * 1e3}
    return {"metrics": metrics, "check": tokens[:CHECKED]}


def load(args) -> dict:
    model = load_model(args).eval()
    with torch.inference_mode():
        check = last_logits(model(inputs(model, 1, 8)).logits)
    return {"metrics": {}, "ready_at": time.time(), "check": check}


def switch(args) -> dict:
    from peft import PeftModel

    model = load_model(args).eval()
    ids = inputs(model, 1, 16)
    names = sorted(path.name for path in Path(args.adapters).iterdir())
    load_ms = []
    for name in names:
        path = os.path.join(args.adapters, name)
        start = time.perf_counter()
        if isinstance(model, PeftModel):
            model.load_adapter(path, adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, path, adapter_name=name)
        model.set_adapter(name)
        load_ms.append(ms(start))
    switch_ms = []
    for i in range(args.switches):
        start = time.perf_counter()
        model.set_adapter(names[i % len(names)])
        switch_ms.append(ms(start))
    check = []
    with torch.inference_mode():
        for name in names:
            model.set_adapter(name)
            check.append(last_logits(model(ids).logits)[0])
    assert len(set(check)) == len(names), "two adapters give the same output"
    metrics = {"load_ms": statistics.median(load_ms), "switch_ms": statistics.median(switch_ms)}
    if args.mixed:
        metrics |= mixed(model, names[:8], check)
    return {"metrics": metrics, "check": check}


def merge(args) -> dict:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge
    from safetensors import safe_open

    inputs, out = Path(args.inputs), Path(args.inputs) / "merged-peer"
    parameters = {"weight": 0.5} if args.method == "linear" else {"weight": 0.5, "density": 0.5}
    models = [{"model": str(inputs / str(number)), "parameters": parameters} for number in range(1, args.models + 1)]
    recipe = {"merge_method": args.method, "models": models, "dtype": "bfloat16"}
    if args.method == "ties":
        recipe["base_model"] = str(inputs / "base")
    run_merge(MergeConfiguration.model_validate(recipe), str(out), MergeOptions(copy_tokenizer=False, quiet=True))
    ready_at = time.time()
    check = []
    for name in ["model.layers.0.mlp.up_proj.weight", "model.layers.23.self_attn.q_proj.weight"]:
        for file in sorted(out.glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                if name in tensors.keys():
                    check.append(tensors.get_tensor(name).double().abs().mean().item())
    shutil.rmtree(out)
    return {"metrics": {}, "ready_at": ready_at, "check": check}


def mixed(model, names: list[str], check: list[float]) -> dict:
    """A batch with an adapter for each row beside the same batch with one adapter for all."""
    ids = inputs(model, len(names), 64)
    one_ms, mixed_ms = [], []
    model.set_adapter(names[0])
    with torch.inference_mode():
        for _ in range(6):
            start = time.perf_counter()
            model(ids)
            one_ms.append(ms(start))
            start = time.perf_counter()
            logits = model(ids, adapter_names=names).logits
            mixed_ms.append(ms(start))
        check.extend(logits[:, -1, 0].tolist())
    one, several = statistics.median(one_ms[1:]), statistics.median(mixed_ms[1:])
    return {"one_adapter_ms": one, "mixed_ms": several, "mixed_over_one": several / one}


def peak_memory_bytes() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def versions() -> dict:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ["torch", "transformers", "peft", "mergekit"]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)

    def job(run, *numbers: str) -> argparse.ArgumentParser:
        command = jobs.add_parser(run.__name__)
        command.set_defaults(run=run)
        command.add_argument("--model", required=True)
        for number in numbers:
            command.add_argument(number, type=int, required=True)
        return command

    job(train, "--batch", "--seq", "--warmup", "--steps")
    job(generate, "--prompt", "--new")
    job(load)
    command = job(switch, "--switches")
    command.add_argument("--adapters", required=True)
    command.add_argument("--mixed", action="store_true")
    command = jobs.add_parser("merge")
    command.set_defaults(run=merge)
    command.add_argument("--inputs", required=True)
    command.add_argument("--models", type=int, required=True)
    command.add_argument("--method", choices=["linear", "ties"], required=True)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(0)
    result = args.run(args)
    json.dump(result | {"peak_memory_bytes": peak_memory_bytes(), "versions": versions()}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
