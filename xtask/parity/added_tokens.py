#!/usr/bin/env python3
"""Writes `fixtures/tokenizers/added.json`: what AutoTokenizer makes of tokens that are declared beside `tokenizer.json`.

    pip install -r xtask/parity/requirements.txt
    python xtask/parity/added_tokens.py fixtures

Each case has the files to write over those of the tiny checkpoint in crates/cli/assets (`tokenizer_config.json` and a token list of
`tokenizer.json` are merged into what is there), and the ids of some texts, or null where transformers refuses the files.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import common  # noqa: E402,F401  (sets the offline switches before anything is imported)
from transformers import AutoTokenizer  # noqa: E402

TINY = Path(__file__).resolve().parents[2] / "crates/cli/assets/tiny"
TEXTS = ["a<new>b", "a <new> b", "a<new>", "<new>", "A<NEW> a", "a<new>b<x1>c <x2> d", " <x1> ", "a<new><new>b", "<bos>a <bos> b"]


def token(content: str, **settings) -> dict:
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {"content": content, **plain, **settings}


def typed(content: str, **settings) -> dict:
    return {"__type": "AddedToken", **token(content, **settings)}


def decoder(**tokens) -> dict:
    return {"tokenizer_config.json": {"added_tokens_decoder": {key.removeprefix("n"): value for key, value in tokens.items()}}}


def config(**settings) -> dict:
    return {"tokenizer_config.json": settings}


CASES = {
    "nothing": {},
    "added_tokens.json": {"added_tokens.json": {"<new>": 100, "<x1>": 101}},
    "added_tokens.json in another order": {"added_tokens.json": {"<new>": 600, "<x1>": 500}},
    "added_tokens.json, one of them special": {
        "added_tokens.json": {"<new>": 100, "<x1>": 101},
        "special_tokens_map.json": {"additional_special_tokens": ["<x1>"]},
    },
    "special_tokens_map.json: additional": {"special_tokens_map.json": {"additional_special_tokens": ["<new>", "<x1>"]}},
    "special_tokens_map.json: names": {"special_tokens_map.json": {"pad_token": "<new>", "mask_token": token("<x1>", lstrip=True)}},
    "special_tokens_map.json: a known token": {"special_tokens_map.json": {"bos_token": token("<bos>", lstrip=True)}},
    "special_tokens_map.json is not read beside numbers": {
        "special_tokens_map.json": {"pad_token": "<new>"},
        "added_tokens.json": {"<x1>": 100},
        "tokenizer_config.json": {"added_tokens_decoder": {}},
    },
    "numbers": decoder(n100=token("<new>"), n101=token("<x1>", special=False, normalized=True)),
    "numbers that strip": decoder(n100=token("<new>", lstrip=True, rstrip=True), n101=token("<x1>", single_word=True)),
    "numbers with gaps": decoder(n700=token("<new>"), n513=token("<x1>")),
    "a number that is taken": decoder(n5=token("<new>")),
    "a known token gets properties": decoder(n1=token("<bos>", lstrip=True)),
    "a normalized word": decoder(n100=token("<new>", single_word=True, special=False, normalized=True)),
    "a number for a named token": {
        "tokenizer_config.json": {"added_tokens_decoder": {"100": token("<new>", special=False, rstrip=True)}, "pad_token": "<new>"}
    },
    "additional": config(additional_special_tokens=["<new>", "<x1>"]),
    "additional as objects": config(additional_special_tokens=["<new>", typed("<x1>", lstrip=True)]),
    "extra as a list": config(extra_special_tokens=["<new>", "<x1>"]),
    "extra as names": config(extra_special_tokens={"image_token": "<new>", "video_token": typed("<x1>")}),
    "extra goes before additional": config(extra_special_tokens=["<new>"], additional_special_tokens=["<x1>"]),
    "names": config(pad_token="<new>", mask_token=typed("<x1>", lstrip=True)),
    "names of the model's own": config(image_token="<new>", model_specific_special_tokens={}),
    "a part of the vocabulary": config(pad_token="ab"),
    "all places": {
        "added_tokens.json": {"<x1>": 512},
        "special_tokens_map.json": {"additional_special_tokens": ["<x2>"]},
        "tokenizer_config.json": {"additional_special_tokens": ["<new>"]},
    },
    "tokenizer.json has it, without properties": {
        "tokenizer.json": [{**token("<new>", special=False), "id": 100}],
        "tokenizer_config.json": {"added_tokens_decoder": {"100": token("<new>", rstrip=True)}},
    },
}


def ids(files: dict) -> list | None:
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory) / "model"
        shutil.copytree(TINY, directory)
        for name, content in files.items():
            file = directory / name
            if name == "tokenizer.json":
                whole = json.loads(file.read_text())
                content = {**whole, "added_tokens": whole["added_tokens"] + content}
            elif name == "tokenizer_config.json":
                content = {**json.loads(file.read_text()), **content}
            file.write_text(json.dumps(content))
        tokenizer = AutoTokenizer.from_pretrained(directory)
        return [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]


def main() -> None:
    out = Path(sys.argv[1]) / "tokenizers"
    out.mkdir(parents=True, exist_ok=True)
    cases = [{"name": name, "files": files, "ids": ids(files)} for name, files in CASES.items()]
    lines = ",\n".join(" " + json.dumps(case) for case in cases)
    (out / "added.json").write_text('{"texts": ' + json.dumps(TEXTS) + ', "cases": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()
