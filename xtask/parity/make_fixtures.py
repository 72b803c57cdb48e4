#!/usr/bin/env python3
"""Writes the small, deterministic checkpoints, adapters and chat-template cases the tests compare with.

    python xtask/parity/make_fixtures.py fixtures

Everything comes out of transformers and peft themselves (versions: requirements.txt). Running it again with the
same versions gives the same files. See fixtures/README.md for what is in them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

if os.environ.get("PYTHONHASHSEED") != "0":  # peft writes target_modules (a set) in hash order
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})

sys.dont_write_bytecode = True
import common  # noqa: E402  (sets the offline switches before anything is imported)
import torch  # noqa: E402
from peft import LoraConfig, PeftModel, VeraConfig, get_peft_model, get_peft_model_state_dict  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

VOCAB = 96
DIMS = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LLAMA = {"tie_word_embeddings": False}


def rope(theta=10000.0, rope_type="default", **rest):
    return {"rope_type": rope_type, "rope_theta": theta, **rest}


# name -> (architecture, config on top of DIMS)
MODELS = {
    "llama": ("llama", LLAMA),
    "llama-bias": ("llama", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama3": (
        "llama",
        {
            "tie_word_embeddings": True,
            "head_dim": 16,
            # Chosen so that one frequency is kept, one is blended and the others are divided by the factor.
            "rope_parameters": rope(
                500.0,
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=2.0,
                original_max_position_embeddings=16,
            ),
        },
    ),
    "llama-linear": ("llama", {**LLAMA, "rope_parameters": rope(rope_type="linear", factor=2.0)}),
    "mistral": ("mistral", {"tie_word_embeddings": False, "sliding_window": 8}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True, "rope_parameters": rope(1000000.0)}),
    "qwen2-window": (
        "qwen2",
        {"tie_word_embeddings": False, "use_sliding_window": True, "max_window_layers": 1, "sliding_window": 8},
    ),
    "qwen3": ("qwen3", {"tie_word_embeddings": False, "head_dim": 16, "rms_norm_eps": 1e-6}),
    "smollm": (
        "llama",
        {
            "tie_word_embeddings": True,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "rope_parameters": rope(100000.0),
        },
    ),
    "llama-bf16": ("llama", LLAMA),
    "llama-f16": ("llama", LLAMA),
    "llama-sharded": ("llama", LLAMA),
}


def tokens_of(seed: int, rows: int, length: int) -> torch.Tensor:
    # 0..3 stay out: they look like special tokens in the configs.
    return torch.randint(4, VOCAB, (rows, length), generator=common.generator(seed), dtype=torch.int64)


@torch.no_grad()
def greedy(model, prompt: torch.Tensor, new: int):
    """Greedy continuation without a cache; also the smallest gap between the best and the second-best token."""
    ids, gap = prompt.clone(), float("inf")
    for _ in range(new):
        top = common.logits(model, ids)[0, -1].topk(2)
        gap = min(gap, float(top.values[0] - top.values[1]))
        ids = torch.cat([ids, top.indices[:1].view(1, 1)], dim=1)
    return ids, gap


def model_expected(model, seed: int) -> dict[str, torch.Tensor]:
    for attempt in range(200):
        tokens = tokens_of(seed * 1000 + attempt, 2, 24)
        chain, gap = greedy(model, tokens[:1, :8], 16)
        # No near ties, no end-of-text token, and not one token over and over.
        if gap > 0.05 and 2 not in chain[0].tolist() and len(set(chain[0, 8:].tolist())) >= 4:
            break
    else:
        raise RuntimeError("no prompt with a clear greedy continuation found")
    saved = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = None
    generated = model.generate(
        input_ids=tokens[:1, :8],
        attention_mask=torch.ones(1, 8, dtype=torch.int64),
        do_sample=False,
        max_new_tokens=16,
        pad_token_id=0,
    )
    model.generation_config.eos_token_id = saved
    assert generated.shape == (1, 24) and torch.equal(generated, chain), "cached and plain generation differ"
    return {"tokens": tokens, "logits": common.logits(model, tokens), "generated": generated.contiguous()}


# What to switch off to see that a fixture depends on the feature it is there for.
WITHOUT = {
    "llama3": {"rope_parameters": rope(500.0)},
    "llama-linear": {"rope_parameters": rope()},
    "mistral": {"sliding_window": None},
    "qwen2": {"rope_parameters": rope()},
    "qwen2-window": {"use_sliding_window": False, "layer_types": ["full_attention"] * 2},
    "smollm": {"rope_parameters": rope()},
}


def check_sensitive(name: str, directory: Path, expected: dict[str, torch.Tensor]) -> None:
    if name not in WITHOUT:
        return
    config = json.loads((directory / "config.json").read_text())
    config.update(WITHOUT[name])
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(config))
        shutil.copy(directory / "model.safetensors", scratch)
        other = common.logits(common.load_model(scratch), expected["tokens"])
    assert (other - expected["logits"]).abs().max() > 0.05, f"{name} does not depend on {WITHOUT[name]}"


def make_models(out: Path) -> None:
    for number, (name, (arch, extra)) in enumerate(MODELS.items(), start=1):
        seed = 100 + number
        directory = out / name
        model = common.build_model(arch, seed, **{**DIMS, **extra})
        dtype = {"llama-bf16": torch.bfloat16, "llama-f16": torch.float16}.get(name, torch.float32)
        model = model.to(dtype)
        model.save_pretrained(directory, **({"max_shard_size": "40KB"} if name == "llama-sharded" else {}))
        model = common.load_model(str(directory))  # what the file says, computed in f32
        expected = model_expected(model, seed)
        check_sensitive(name, directory, expected)
        save_file(expected, directory / "expected.safetensors")

    # The same model as transformers 4 would have described it.
    old = out / "llama3-v4"
    shutil.copytree(out / "llama3", old)
    config = json.loads((old / "config.json").read_text())
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    config["rope_scaling"] = scaling
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.3"
    (old / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def adapters():
    """name -> (base, config, extra arguments of save_pretrained)."""
    none = {}

    def lora(**kwargs):
        return LoraConfig(
            **{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **kwargs}
        )

    def vera(targets):
        return VeraConfig(
            r=8, projection_prng_key=7, save_projection=True, target_modules=targets, task_type="CAUSAL_LM"
        )

    kind = lambda name: common.adapter_config(name, None)  # noqa: E731
    return {
        "lora": ("llama", lora(), none),
        "lora-all": ("llama", lora(target_modules="all-linear", lora_dropout=0.1), none),
        "rslora": ("qwen2", lora(use_rslora=True), none),
        "dora": ("llama", kind("dora"), none),
        "dora-bias": ("llama-bias", kind("dora"), none),
        "pissa": ("llama", kind("pissa"), none),
        "pissa-converted": ("llama", kind("pissa"), none),
        "ia3": ("llama-bias", kind("ia3"), none),
        "vera": ("llama", vera(["q_proj", "v_proj"]), none),
        "vera-down": ("llama", vera(["q_proj", "v_proj", "down_proj"]), none),
        "lora-modules-to-save": ("llama", lora(modules_to_save=["lm_head", "embed_tokens"]), none),
        "lora-rank-pattern": (
            "llama",
            lora(
                target_modules=["q_proj", "v_proj", "up_proj"],
                rank_pattern={r".*\.1\..*v_proj": 3, "v_proj": 6, r"self_attn\.q_(proj|foo)": 2},
                alpha_pattern={r"layers\.0\.(self_attn|mlp)\.(q|up)_proj": 16, "v_proj": 5},
            ),
            none,
        ),
        "lora-bias": ("llama-bias", lora(bias="all"), none),
        "lora-bias-only": ("llama-bias", lora(bias="lora_only"), none),
        "lora-lora-bias": ("llama-bias", lora(lora_bias=True), none),
        "lora-embedding": ("llama", lora(target_modules=["embed_tokens", "q_proj"]), none),
        "lora-embedding-slim": (
            "llama",
            lora(target_modules=["embed_tokens", "q_proj"]),
            {"save_embedding_layers": False},
        ),
        # Without task_type peft records the class in auto_mapping instead; keep one such file.
        "lora-layers": ("llama", lora(layers_to_transform=[1], task_type=None), none),
    }


def save_adapter(model: PeftModel, directory: Path, **kwargs) -> None:
    model.save_pretrained(str(directory), **kwargs)
    (directory / "README.md").unlink()  # the model card template is of no use here


def adapter_grads(model: PeftModel, config, tokens: torch.Tensor):
    """Loss and its gradient, keyed as in the adapter file."""
    model.zero_grad()
    loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None for g in grads.values())
    count = len(grads)
    projections = [k for k in model.state_dict() if k.startswith(("base_model.vera_A.", "base_model.vera_B."))]
    grads.update({k: torch.zeros(1) for k in projections})  # not trainable, but peft insists on finding them
    named = get_peft_model_state_dict(model, state_dict=grads, save_embedding_layers=False)
    named = {k: v for k, v in named.items() if k not in ("base_model.vera_A", "base_model.vera_B")}
    assert len(named) == count, (len(named), count)
    return loss.detach().reshape(1), {f"grad.{k}": v.clone().contiguous() for k, v in named.items()}


def make_adapters(out: Path, models: Path) -> None:
    for number, (name, (base, config, save_args)) in enumerate(adapters().items(), start=1):
        seed = 500 + number
        directory = out / name
        pissa = name.startswith("pissa")
        if pissa:
            seed = 500  # both PiSSA fixtures hold the same "trained" adapter
        torch.manual_seed(seed)
        model = get_peft_model(common.load_model(str(models / base)), config).eval()
        model.peft_config["default"].base_model_name_or_path = base
        with tempfile.TemporaryDirectory() as scratch:
            if name == "pissa-converted":
                start = os.path.join(scratch, "start")
                model.save_pretrained(start)
                save_args = {"path_initial_model_for_weight_conversion": start}
            common.randomise_adapter(model, seed, keep_ab=pissa)
            save_adapter(model, directory, **save_args)
        (directory / "base.txt").write_text(base + "\n")

        # Everything below is computed from the files alone.
        tokens = tokens_of(seed, 2, 16)
        fresh = lambda: common.load_adapter(  # noqa: E731
            common.load_model(str(models / base)), str(directory), trainable=True
        )
        loaded = fresh()
        expected = {"tokens": tokens, "logits": common.logits(loaded, tokens)}
        direct = common.logits(model, tokens)
        # The converted PiSSA adapter is a different factorisation, so it is only equal up to rounding.
        tolerance = 1e-4 if name == "pissa-converted" else 1e-5
        torch.testing.assert_close(expected["logits"], direct, rtol=tolerance, atol=tolerance)
        base_logits = common.logits(common.load_model(str(models / base)), tokens)
        assert (base_logits - direct).abs().max() > 0.05, f"{name} hardly changes the model"
        loss, grads = adapter_grads(loaded, config, tokens)
        assert all(float(g.abs().max()) > 0 for g in grads.values())
        expected["loss"] = loss
        expected.update(grads)
        merged = fresh().merge_and_unload().eval()
        expected["merged_logits"] = common.logits(merged, tokens)
        torch.testing.assert_close(expected["merged_logits"], expected["logits"], rtol=1e-4, atol=1e-4)
        save_file(expected, directory / "expected.safetensors")

        for key, value in load_file(directory / "adapter_model.safetensors").items():
            assert value.abs().max() > 0, f"{name}: {key} is all zero"


LLAMA3_TEMPLATE = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Length of the date: " + (date_string | length | string) + "\\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

CHATML_TEMPLATE = """{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_query=-1, turns=0) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.last_query < 0 and message.role == 'user' and not (message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == 'assistant' %}
        {%- set ns.turns = ns.turns + 1 %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if reasoning and (loop.last or loop.index0 > ns.last_query) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content + '<|im_end|>\\n' }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
        {%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

MISTRAL_TEMPLATE = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"].strip() + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, got " ~ message["role"]) }}
    {%- endif %}
{%- endfor %}
"""

# No whitespace control: relies on trim_blocks and lstrip_blocks, which transformers switches on.
ZEPHYR_TEMPLATE = """{% for message in messages %}
    {% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
    {% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
    {% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
    {% endif %}
    {% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
    {% endif %}
{% endfor %}
"""

SYSTEM = {"role": "system", "content": "  Answer briefly.\n"}
CHAT = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": " Four. "},
    {"role": "user", "content": "And in French? \u00c9crivez <b>tout</b> & 'rien' \"d'autre\" \u2014 \U0001f600"},
]
THINK = [
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "<think>\nPick one.\n</think>\n\nBlue."},
    {"role": "user", "content": "Another one."},
    {"role": "assistant", "content": "<think>\nNot blue.\n</think>\n\nGreen."},
]
CASES = [
    ("llama3-system", LLAMA3_TEMPLATE, [SYSTEM, *CHAT], True, "<|begin_of_text|>", "<|eot_id|>"),
    ("llama3-no-system", LLAMA3_TEMPLATE, CHAT[:2], False, "<|begin_of_text|>", "<|eot_id|>"),
    ("chatml", CHATML_TEMPLATE, CHAT, True, None, "<|im_end|>"),
    ("chatml-thinking", CHATML_TEMPLATE, [SYSTEM, *THINK], False, None, "<|im_end|>"),
    ("mistral", MISTRAL_TEMPLATE, [SYSTEM, *CHAT], False, "<s>", "</s>"),
    ("mistral-raises", MISTRAL_TEMPLATE, [CHAT[0], CHAT[0]], False, "<s>", "</s>"),
    ("zephyr", ZEPHYR_TEMPLATE, [SYSTEM, *CHAT], True, "<s>", "</s>"),
    ("zephyr-training", ZEPHYR_TEMPLATE, CHAT[:2], False, "<s>", "</s>"),
]


def make_chat(out: Path) -> None:
    import jinja2
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    cases = []
    for name, template, messages, prompt, bos, eos in CASES:
        words = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token=bos, eos_token=eos)
        case = {
            "name": name,
            "chat_template": template,
            "messages": messages,
            "add_generation_prompt": prompt,
            "bos_token": bos,
            "eos_token": eos,
        }
        try:
            case["expected"] = tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=prompt
            )
        except jinja2.exceptions.TemplateError as error:
            case["expected"] = None
            case["error"] = str(error)
        cases.append(case)
    assert [c["name"] for c in cases if c["expected"] is None] == ["mistral-raises"]
    out.mkdir(parents=True)
    (out / "cases.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")


def verify(out: Path) -> None:
    """Loads everything back once more, strictly."""
    for directory in sorted((out / "models").iterdir()):
        model, info = common.AutoModelForCausalLM.from_pretrained(
            str(directory), dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
        expected = load_file(directory / "expected.safetensors")
        torch.testing.assert_close(common.logits(model.eval(), expected["tokens"]), expected["logits"])
    for directory in sorted((out / "adapters").iterdir()):
        expected = load_file(directory / "expected.safetensors")
        base = (directory / "base.txt").read_text().strip()
        assert json.loads((directory / "adapter_config.json").read_text())["base_model_name_or_path"] == base
        model = common.load_adapter(common.load_model(str(out / "models" / base)), str(directory))
        torch.testing.assert_close(common.logits(model, expected["tokens"]), expected["logits"])


    # The converted adapter on the original base is the same model as the raw one on its residual base.
    raw, converted = (load_file(out / "adapters" / n / "expected.safetensors") for n in ("pissa", "pissa-converted"))
    assert torch.equal(raw["tokens"], converted["tokens"])
    torch.testing.assert_close(raw["logits"], converted["logits"], rtol=1e-4, atol=1e-4)
    for directory in sorted((out / "adapters").iterdir()):
        keys = set(load_file(directory / "adapter_model.safetensors"))
        grads = {k[5:] for k in load_file(directory / "expected.safetensors") if k.startswith("grad.")}
        frozen = {k for k in keys if k.endswith(".base_layer.weight") or k in ("base_model.vera_A", "base_model.vera_B")}
        assert grads == keys - frozen, (directory.name, grads ^ (keys - frozen))


def listing(out: Path) -> None:
    for directory in sorted((out / "adapters").iterdir()):
        print(f"{directory.name} ({(directory / 'base.txt').read_text().strip()})")
        with safe_open(directory / "adapter_model.safetensors", "pt") as file:
            for key in file.keys():
                print(f"    {key} {list(file.get_slice(key).get_shape())}")
    total = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"total {total} bytes in {sum(1 for f in out.rglob('*') if f.is_file())} files")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_fixtures.py OUT")
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for part in ("models", "adapters", "chat"):
        shutil.rmtree(out / part, ignore_errors=True)
    make_models(out / "models")
    make_adapters(out / "adapters", out / "models")
    make_chat(out / "chat")
    verify(out)
    for file in out.rglob("*"):
        if file.is_file():
            file.chmod(0o644)  # save_pretrained makes the weights private
    listing(out)


if __name__ == "__main__":
    main()
