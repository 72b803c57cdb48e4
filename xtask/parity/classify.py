#!/usr/bin/env python3
"""Reads one JSON object from stdin and prints the logits of transformers' classifier as JSON.

    {"model": DIR, "adapter": DIR or null, "ids": [[…]], "mask": [[…]], "type_ids": [[…]], "labels": 2}

`labels` is for a model that has no classifier of its own, whose adapter brings one. Tensors that are missing or left over are errors."""

from __future__ import annotations

import json
import sys

sys.dont_write_bytecode = True
import common  # noqa: E402  (sets the offline switches before anything is imported)
import torch  # noqa: E402
from transformers import AutoModelForSequenceClassification  # noqa: E402


@torch.no_grad()
def main() -> None:
    asked = json.load(sys.stdin)
    more = {"num_labels": asked["labels"]} if asked["adapter"] else {}
    model, info = AutoModelForSequenceClassification.from_pretrained(
        asked["model"], dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **more
    )
    if not asked["adapter"] and any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise ValueError(f"the checkpoint does not fit: {info}")
    if asked["adapter"]:
        model = common.load_adapter(model, asked["adapter"])
    ids, mask, types = (torch.tensor(asked[key]) for key in ("ids", "mask", "type_ids"))
    given = {"token_type_ids": types} if model.config.model_type == "bert" else {}
    out = model.eval()(input_ids=ids, attention_mask=mask, **given)
    print(json.dumps({"logits": out.logits.tolist(), "labels": [model.config.id2label[i] for i in range(out.logits.shape[1])]}))


if __name__ == "__main__":
    main()
