"""What make_fixtures.py and peer.py share: reproducible random models and adapters, loading, logits."""

from __future__ import annotations

import os
import warnings

# No look-ups on a hub: every model and adapter here is a local directory.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402
import transformers  # noqa: E402
from peft import IA3Config, LoraConfig, PeftModel, VeraConfig, get_peft_model_state_dict  # noqa: E402
from safetensors import safe_open  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
warnings.filterwarnings("ignore")

CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def generator(seed: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(seed)


def normal(shape, std: float, gen: torch.Generator) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=gen, dtype=torch.float32) * std


@torch.no_grad()
def randomise_model(model: torch.nn.Module, seed: int, std: float = 0.25) -> None:
    """Every parameter random: norms around 1, biases clearly off zero, matrices N(0, std^2)."""
    gen = generator(seed)
    for name, p in model.named_parameters():  # tied parameters appear once
        if name.endswith("bias"):
            value = normal(p.shape, 0.3, gen)
        elif "norm" in name.lower():
            value = 1.0 + normal(p.shape, 0.2, gen)
        else:
            value = normal(p.shape, std, gen)
        p.copy_(value.to(p.dtype))


def build_model(arch: str, seed: int, std: float = 0.25, **config):
    config = CONFIGS[arch](**config)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    randomise_model(model, seed, std)
    return model.eval()


def load_model(path: str, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()


def load_adapter(model, path: str, trainable: bool = False) -> PeftModel:
    """HF's own loading. For init_lora_weights="pissa" this recomputes the SVD of the base weights, keeps the
    residual as the base, and only then overwrites lora_A and lora_B with what the file holds.

    HF only warns about missing tensors and says nothing about surplus ones; here both are errors."""
    model = PeftModel.from_pretrained(model, path, is_trainable=trainable).eval()
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    with safe_open(os.path.join(path, "adapter_model.safetensors"), "pt") as file:
        shapes = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}
    missing = sorted(set(wanted) - set(shapes))
    # Targeted (or resized) embeddings come with a copy of the base weight.
    surplus = sorted(k for k in set(shapes) - set(wanted) if k not in model.state_dict())
    wrong = sorted(k for k, v in wanted.items() if k in shapes and list(v.shape) != shapes[k])
    if missing or surplus or wrong:
        raise ValueError(f"adapter {path}: missing {missing}, surplus {surplus}, wrong shape {wrong}")
    return model


@torch.no_grad()
def logits(model, tokens: torch.Tensor) -> torch.Tensor:
    return model(input_ids=tokens, use_cache=False).logits.float().contiguous()


@torch.no_grad()
def randomise_adapter(model: PeftModel, seed: int, keep_ab: bool = False) -> None:
    """Moves every trainable adapter tensor away from its (often zero) initial value.

    With keep_ab, lora_A and lora_B are perturbed rather than replaced (for data-dependent inits like PiSSA)."""
    gen = generator(seed)
    for name, p in sorted(model.named_parameters(), key=lambda item: item[0]):
        if not p.requires_grad:
            continue
        if "lora_magnitude_vector" in name:
            p.mul_(1.0 + normal(p.shape, 0.2, gen).clamp(-0.6, 0.6))
        elif ".modules_to_save." in name:
            p.add_(normal(p.shape, 0.1, gen))
        elif ".lora_" in name and keep_ab:
            p.add_(normal(p.shape, 0.2 * float(p.std()), gen))
        elif ".lora_embedding_A" in name:
            p.copy_(normal(p.shape, 0.2, gen))
        elif ".lora_embedding_B" in name:
            p.copy_(normal(p.shape, 0.4, gen))
        elif ".lora_A" in name:
            p.copy_(normal(p.shape, p.shape[1] ** -0.5, gen))
        elif ".lora_B" in name:  # weight and bias
            p.copy_(normal(p.shape, 0.2, gen))
        elif ".ia3_l" in name:
            p.copy_(1.0 + normal(p.shape, 0.3, gen).clamp(-0.9, 0.9))
        elif ".vera_lambda_d" in name:
            p.copy_(normal(p.shape, 0.5, gen))
        elif ".vera_lambda_b" in name:
            p.copy_(normal(p.shape, 0.3, gen))
        elif name.endswith(".bias"):
            p.add_(normal(p.shape, 0.2, gen))
        else:
            raise ValueError(f"no rule for trainable tensor {name}")


def adapter_config(kind: str, model, targets=None, r: int = 4, alpha: int = 8, seed: int = 0):
    """The HF config of an adapter kind; `model` decides what the output head is called and whether it is tied."""
    base = {"task_type": "CAUSAL_LM"}
    qv = targets or ["q_proj", "v_proj"]
    lora = {"r": r, "lora_alpha": alpha, "target_modules": qv, **base}
    if kind == "lora":
        return LoraConfig(**lora)
    if kind == "rslora":
        return LoraConfig(use_rslora=True, **lora)
    if kind == "dora":
        return LoraConfig(use_dora=True, **{**lora, "target_modules": targets or ["q_proj", "v_proj", "down_proj"]})
    if kind == "pissa":
        return LoraConfig(init_lora_weights="pissa", **lora)
    if kind == "ia3":
        targets = targets or ["k_proj", "v_proj", "down_proj"]
        return IA3Config(
            target_modules=targets, feedforward_modules=[t for t in targets if t == "down_proj"], **base
        )
    if kind == "vera":
        return VeraConfig(r=r, projection_prng_key=seed, save_projection=True, target_modules=qv, **base)
    if kind == "modules-to-save":
        # "norm" would match every module whose name merely ends in those letters (input_layernorm, ...).
        tied = model.config.tie_word_embeddings
        return LoraConfig(modules_to_save=["model.norm"] if tied else ["lm_head", "embed_tokens"], **lora)
    if kind == "rank-pattern":
        # HF writes the patterns with sorted keys and the first match wins, so keep them sorted here as well.
        return LoraConfig(
            rank_pattern={r".*\.1\..*v_proj": r + 2, "q_proj": 2 * r},
            alpha_pattern={r"layers\.0\.self_attn\.[qv]_proj": 3 * alpha},
            **lora,
        )
    raise ValueError(f"unknown adapter kind {kind}")
