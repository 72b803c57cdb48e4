#!/usr/bin/env python3
"""Writes the small, deterministic encoders, tokenizers and their outputs that the tests compare with.

    python xtask/parity/make_encoders.py fixtures

Everything comes out of transformers and sentence-transformers' published layout (versions: requirements.txt). Running it again
with the same versions gives the same files. See fixtures/README.md for what is in them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

sys.dont_write_bytecode = True
import common  # noqa: E402  (sets the offline switches before anything is imported)
import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402
from transformers import (  # noqa: E402
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

DIMS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "initializer_range": 0.02,
}

# What a tokenizer can stumble over: cases, accents (composed and combining), other scripts, control characters, spaces of all
# kinds, special tokens in the text, long words, nothing at all.
TEXTS = [
    "The cat sat on the mat.",
    "Don't STOP: naïve café Ünïcödé, e\u0301tude!",
    "  tabs\tand\nnew\u00a0lines\u3000 everywhere \u200d\ufeff ",
    "日本語 mixed with English and 한국어",
    "[MASK] and [SEP] and <s> </s> <mask> in the text",
    "unbelievablylongwordthatnobodyknows " + "x" * 120,
    "emoji \U0001f600 and \u0000control\u0007 characters \ufffd",
    "$12.50 (about 10%) -- e-mail: a_b@c.org",
    "",
    "İstanbul ǅ ß ﬁ",
]
PAIRS = [
    ("The cat sat on the mat.", "A dog was there too, and it barked at the cat all day long."),
    ("It barked at the cat all day long, and then it stopped.", "The mat."),
    ("", "The other text stands alone."),
    ("Both of these texts are rather long for the limit that is set.", "Neither of the two texts can be kept as a whole within it."),
]
LIMITS = [None, 5, 8, 11, 12]

WORDS = """the a and it of on at is was that there too all day long text texts cat dog sat mat bark ##ed stop ##ped both these
are rather for limit set neither two can be kept as whole within other stands alone then don ' t : . , ! ? ( ) - _ @ $ % naive
cafe unicode etude tab ##s new lines ##s every ##where mixed with english in ##to mail e org about control characters
emo ##ji 10 12 50 x ##x un ##believ ##able ##ly ##long ##word [ ] < > / s mask sep 日 本 语 語 한국어 ist ##anbul ß ss""".split()
CASED = ["The", "Don", "STOP", "English", "A", "It", "Both", "Neither", "naïve", "café", "Ü", "##n"]
SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert_vocab(cased: bool) -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz" + ("ABCDEFGHIJKLMNOPQRSTUVWXYZ" if cased else "")
    pieces = [*WORDS, *(CASED if cased else []), *letters, *("##" + letter for letter in letters)]
    return SPECIAL + list(dict.fromkeys(pieces))


def bert_tokenizer(cased: bool) -> BertTokenizer:
    vocab = {token: index for index, token in enumerate(bert_vocab(cased))}
    return BertTokenizer(vocab=vocab, do_lower_case=not cased, model_max_length=48)


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([text for pair in PAIRS for text in pair] + TEXTS[:1], trainer)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=40,
    )


def cases(tokenizer) -> list[dict]:
    result = []
    for text, pair in [(text, None) for text in TEXTS] + PAIRS:
        for limit in LIMITS:
            encoded = tokenizer(
                text,
                pair,
                truncation="longest_first" if limit else False,
                max_length=limit,
                return_token_type_ids=True,
            )
            result.append(
                {
                    "text": text,
                    "text_pair": pair,
                    "max_tokens": limit,
                    "ids": encoded["input_ids"],
                    "type_ids": encoded["token_type_ids"],
                }
            )
    return result


def batch(tokenizer, family: str) -> dict[str, torch.Tensor]:
    """Two texts and a pair, so that rows are padded and types differ."""
    rows = tokenizer(
        [TEXTS[0], PAIRS[0][0], TEXTS[7]],
        ["", PAIRS[0][1], ""],
        padding=True,
        return_tensors="pt",
        return_token_type_ids=True,
    )
    ids, mask, types = rows["input_ids"], rows["attention_mask"], rows["token_type_ids"]
    if family == "bert":  # an empty second text still has its closing token; here are rows without one as well
        single = tokenizer([TEXTS[0]], return_tensors="pt")["input_ids"][0]
        ids[0] = tokenizer.pad_token_id
        ids[0, : len(single)], mask[0], types[0] = single, 0, 0
        mask[0, : len(single)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


@torch.no_grad()
def outputs(model, inputs: dict[str, torch.Tensor], family: str) -> dict[str, torch.Tensor]:
    given = dict(inputs)
    if family != "bert":
        given.pop("token_type_ids")
    result = {"lengths": inputs["attention_mask"].sum(1)}
    out = model(**given)
    if hasattr(out, "logits"):
        return {**result, "logits": out.logits}
    hidden, weights = out.last_hidden_state, inputs["attention_mask"].unsqueeze(2).float()
    mean = (hidden * weights).sum(1) / weights.sum(1)
    result |= {"hidden": hidden, "mean": mean, "mean_normalised": torch.nn.functional.normalize(mean, dim=1)}
    return result | ({} if out.pooler_output is None else {"pooled": out.pooler_output})


ENCODERS = {
    "bert": (BertModel, BertConfig, {"hidden_act": "gelu"}),
    "bert-classifier": (
        BertForSequenceClassification,
        BertConfig,
        {
            "hidden_act": "gelu_new",
            "id2label": {0: "contradiction", 1: "entailment", 2: "neutral"},
            "label2id": {"contradiction": 0, "entailment": 1, "neutral": 2},
        },
    ),
    "bert-tokens": (BertForTokenClassification, BertConfig, {"hidden_act": "relu", "num_labels": 5}),
    "roberta": (RobertaModel, RobertaConfig, {"hidden_act": "gelu"}),
    "roberta-classifier": (RobertaForSequenceClassification, RobertaConfig, {"hidden_act": "gelu", "num_labels": 2}),
}


def make(out: Path, number: int, name: str) -> None:
    model_class, config_class, extra = ENCODERS[name]
    family = "bert" if config_class is BertConfig else "roberta"
    # One BERT has its tokenizer as tokenizer.json, the others as vocab.txt; one of those tells upper from lower case.
    tokenizer = roberta_tokenizer() if family == "roberta" else bert_tokenizer(cased=name == "bert-tokens")
    special = {} if family == "bert" else {"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = config_class(**DIMS, **extra, **special, vocab_size=len(tokenizer), layer_norm_eps=1e-12 if family == "bert" else 1e-5)
    torch.manual_seed(200 + number)
    model = model_class._from_config(config, dtype=torch.float32, attn_implementation="eager")
    common.randomise_model(model, 200 + number)
    directory = out / name
    model.save_pretrained(directory)
    model = model_class.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    if name in ("bert-classifier", "bert-tokens"):
        (directory / "vocab.txt").write_text("".join(token + "\n" for token in bert_vocab(name == "bert-tokens")), encoding="utf-8")
        settings = {"do_lower_case": name != "bert-tokens", "tokenizer_class": "BertTokenizer", "model_max_length": 48}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
        tokenizer = AutoTokenizer.from_pretrained(directory)
    else:
        tokenizer.save_pretrained(directory)
    inputs = batch(tokenizer, family)
    expected = {**inputs, **outputs(model, inputs, family)}
    # What a row says must show in its first token, or neither a wrong mask nor a wrong position would.
    first = expected["logits"] if "logits" in expected else expected["hidden"]
    first = first[:, 0] if first.dim() == 3 else first
    assert first.std(0).mean() > 0.1 * first.std(), f"{name} hardly reads its input"
    expected = {key: value.contiguous() for key, value in expected.items() if key != "attention_mask"}
    save_file(expected, directory / "expected.safetensors")
    (directory / "cases.json").write_text(json.dumps(cases(tokenizer), ensure_ascii=True) + "\n")
    if name == "bert":
        sentence_files(directory)


# Adapters of PEFT, by the encoder that they are for.
ADAPTERS = {
    "bert-adapter": ("bert", BertForSequenceClassification, {"use_dora": True, "target_modules": ["query", "attention.output.dense"]}),
    "roberta-adapter": ("roberta", RobertaForSequenceClassification, {"target_modules": ["key", "value"]}),
}


def make_adapter(out: Path, number: int, name: str) -> None:
    """An adapter with a classifier of three labels, on an encoder that has none, and the logits of both together."""
    base, model_class, settings = ADAPTERS[name]
    torch.manual_seed(300 + number)
    model = model_class.from_pretrained(out / base, dtype=torch.float32, attn_implementation="eager", num_labels=3)
    config = LoraConfig(r=4, lora_alpha=8, modules_to_save=["classifier"], **settings)
    model = get_peft_model(model, config).eval()
    for parameter, value in model.named_parameters():
        if value.requires_grad and "magnitude" not in parameter:
            value.data.normal_(0, 0.2)
    model.save_pretrained(out / name)
    (out / name / "README.md").unlink()
    inputs = batch(AutoTokenizer.from_pretrained(out / base), base)
    expected = {**inputs, **outputs(model, inputs, base)}
    expected = {key: value.contiguous() for key, value in expected.items() if key != "attention_mask"}
    save_file(expected, out / name / "expected.safetensors")
    file = out / name / "adapter_config.json"
    settings = json.loads(file.read_text()) | {"base_model_name_or_path": f"fixtures/encoders/{base}"}
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def sentence_files(directory: Path) -> None:
    """What sentence-transformers adds to an encoder: the mean of the tokens, normalised."""
    steps = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(steps)
    ]
    (directory / "modules.json").write_text(json.dumps(modules, indent=1) + "\n")
    (directory / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (directory / "1_Pooling/config.json").write_text(json.dumps(pooling, indent=1) + "\n")
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": false}\n')


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_encoders.py OUT")
    out = Path(sys.argv[1]) / "encoders"
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    shutil.rmtree(out, ignore_errors=True)
    for number, name in enumerate(ENCODERS):
        make(out, number, name)
    for number, name in enumerate(ADAPTERS):
        make_adapter(out, number, name)
    for file in out.rglob("*"):
        if file.is_file():
            file.chmod(0o644)  # save_pretrained makes the weights private
    for directory in sorted(out.iterdir()):
        print(directory.name, sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    main()
