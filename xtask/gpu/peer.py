#!/usr/bin/env python3
"""The other side of peft-gpu-suite: Hugging Face PEFT on transformers, bf16, attention by sdpa, the same shapes and batches.

    python3 peer.py --shape 3b                  LoRA of rank 32 on q_proj and v_proj, batches of 4 x 768 tokens
    python3 peer.py --only generate --shape 1b,3b
    python3 peer.py --device cpu --shape tiny   try it without a GPU

Models are built from shapes.json beside this file, with random weights; nothing is downloaded. One JSON object goes to
stdout. Without gradient checkpointing; adapters are kept in f32, as PEFT does by default."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig  # noqa: E402

SHAPES = json.loads((Path(__file__).parent / "shapes.json").read_text())
TARGETS = ["q_proj", "v_proj"]


def log(message: str) -> None:
    print(f"   {message}", file=sys.stderr, flush=True)


def token_ids(count: int, vocab: int) -> list[int]:
    """The tokens that the other side uses."""
    ids, state = [], 1
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        ids.append((state >> 33) % vocab)
    return ids


def synchronize(args) -> None:
    if args.device.startswith("cuda"):
        torch.cuda.synchronize(args.device)


def peak_bytes(args) -> dict:
    """The largest memory of tensors, and of the pools that they come from."""
    if not args.device.startswith("cuda"):
        return {}
    return {"device_allocated": torch.cuda.max_memory_allocated(args.device), "device_pools": torch.cuda.max_memory_reserved(args.device)}


def base(args, shape: str):
    """The shape with random weights, made where they are used."""
    config = LlamaConfig(**SHAPES[shape], bos_token_id=None, eos_token_id=None, pad_token_id=None)
    with torch.device(args.device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")


def adapted(args, shape: str, start: bool):
    lora = LoraConfig(
        r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM", init_lora_weights=start
    )
    return get_peft_model(base(args, shape), lora)


def train(args, shape: str) -> dict:
    model = adapted(args, shape, True)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.1)
    steps = args.warmup + args.steps
    ids = token_ids(args.batch * args.seq * steps, SHAPES[shape]["vocab_size"])
    batches = torch.tensor(ids).reshape(steps, args.batch, args.seq)
    times, losses = [], []
    for batch in batches:
        batch = batch.to(args.device)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        synchronize(args)
        times.append(time.perf_counter())
    each = [after - before for before, after in zip(times[args.warmup - 1 :], times[args.warmup :])]
    return {
        "method": "lora",
        "rank": args.rank,
        "target_modules": TARGETS,
        "dtype": "bf16",
        "adapter_dtype": str(trained[0].dtype).removeprefix("torch."),
        "batch": args.batch,
        "seq": args.seq,
        "steps": args.steps,
        "trainable_parameters": sum(p.numel() for p in trained),
        "tokens_per_second": args.batch * args.seq * args.steps / sum(each),
        "step_ms": {"mean": sum(each) / len(each) * 1e3, "fastest": min(each) * 1e3},
        "loss": {"first": losses[0], "last": losses[-1]},
    }


def generate(args, shape: str) -> dict:
    from transformers.generation.streamers import BaseStreamer

    class Clock(BaseStreamer):
        """When the prompt was taken and each token came."""

        def __init__(self):
            self.times = []

        def put(self, value):
            self.times.append(time.perf_counter())

        def end(self):
            pass

    model = base(args, shape).eval()
    batches = []
    for batch in [1, 8]:
        ids = token_ids(batch * args.prompt, SHAPES[shape]["vocab_size"])
        ids = torch.tensor(ids, device=args.device).reshape(batch, args.prompt)

        def run(clock):
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=args.new,
                max_new_tokens=args.new,
                use_cache=True,
                streamer=clock,
            )

        with torch.inference_mode():
            run(Clock())
            synchronize(args)
            clock, start = Clock(), time.perf_counter()
            run(clock)
        # The first is the prompt itself.
        first, last, count = clock.times[1], clock.times[-1], len(clock.times) - 2
        batches.append({"batch": batch, "tokens_per_second": batch * count / (last - first), "first_token_ms": (first - start) * 1e3})
    return {"dtype": "bf16", "prompt": args.prompt, "new": args.new, "batches": batches}


def merge(args, shape: str) -> dict:
    model = adapted(args, shape, False)

    def timed(work) -> float:
        synchronize(args)
        start = time.perf_counter()
        work()
        synchronize(args)
        return time.perf_counter() - start

    first = timed(model.merge_adapter)
    model.unmerge_adapter()
    seconds = timed(model.merge_adapter)
    return {"dtype": "bf16", "rank": args.rank, "seconds": seconds, "first_seconds": first}


JOBS = {"train": train, "generate": generate, "merge": merge}


def measured(args, job: str, shape: str) -> dict:
    print(f"== {job} {shape} on {args.device}", file=sys.stderr, flush=True)
    if args.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(args.device)
    try:
        result = JOBS[job](args, shape) | {"peak_bytes": peak_bytes(args)}
    except torch.OutOfMemoryError as error:
        result = {"error": str(error).splitlines()[0], "out_of_memory": True}
    gc.collect()
    log(json.dumps(result))
    return {"shape": shape} | result


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda known: lambda text: [name if name in known else parser.error(f"unknown: {name}") for name in text.split(",")]  # noqa: E731
    parser.add_argument("--device", default="cuda", help="cuda[:n] or cpu")
    parser.add_argument("--only", type=names(JOBS), default=list(JOBS), help="of train,generate,merge")
    parser.add_argument("--shape", type=names(SHAPES), default=["1b", "3b", "8b"], help=f"of {','.join(SHAPES)}")
    numbers = {"batch": 4, "seq": 768, "rank": 32, "steps": 10, "warmup": 3, "prompt": 128, "new": 128}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity_error()
    report = {
        "device": args.device,
        "gpu": torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else None,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }
    for job in args.only:
        report[job] = [measured(args, job, shape) for shape in args.shape]
    json.dump(report, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
