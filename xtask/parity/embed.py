#!/usr/bin/env python3
"""Embeds sentences with transformers, for a comparison with a published sentence encoder.

    python xtask/parity/embed.py DIR
    PEFT_SENTENCE_MODEL=DIR cargo test --workspace --test encoder -- published --nocapture

DIR is the checkpoint of a sentence encoder that takes the mean of its tokens and normalises it, such as all-MiniLM-L6-v2. Writes
DIR/embeddings.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
import common  # noqa: E402, F401  (sets the offline switches before anything is imported)
import torch  # noqa: E402
from transformers import AutoModel, AutoTokenizer  # noqa: E402

TEXTS = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "Naïve café-goers: 日本語, 한국어 & e\u0301tude \U0001f600!",
    "",
    "word " * 400,
]


@torch.no_grad()
def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: embed.py DIR")
    directory = Path(sys.argv[1])
    limit = json.loads((directory / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=limit, return_tensors="pt")
    hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(2).float()
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    (directory / "embeddings.json").write_text(json.dumps({"texts": TEXTS, "embeddings": vectors.tolist()}))
    print(f"{len(TEXTS)} embeddings of size {vectors.shape[1]}, {int(inputs['attention_mask'].sum())} tokens")


if __name__ == "__main__":
    main()
