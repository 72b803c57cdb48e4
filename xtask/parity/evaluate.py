#!/usr/bin/env python3
"""Writes what the tests of metrics and of perplexity in windows compare with.

    python xtask/parity/evaluate.py fixtures/evaluate

Classification scores come from scikit-learn, correlations and bootstrap errors from scipy, word F1 and exact match from torchmetrics
following SQuAD's script, ROUGE-L from google-research's rouge-score, and perplexity from the loop of transformers' documentation
over the tiny checkpoint in crates/cli/assets. Versions: requirements.txt."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
import common  # noqa: E402,F401  (sets the offline switches before anything is imported)
import numpy as np  # noqa: E402
import torch  # noqa: E402
from rouge_score import rouge_scorer  # noqa: E402
from scipy import stats  # noqa: E402
from sklearn import metrics  # noqa: E402
from torchmetrics.functional.text import squad  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

TINY = Path(__file__).resolve().parents[2] / "crates/cli/assets/tiny"
RESAMPLES = 4000


def bootstrap(statistic, *lists) -> float:
    result = stats.bootstrap(
        lists, statistic, paired=True, vectorized=False, n_resamples=RESAMPLES, method="percentile", random_state=0
    )
    return float(result.standard_error)


def averaged(expected, predicted, average: str) -> dict:
    # As scikit-learn does by default, over the classes that occur.
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        expected, predicted, average=average, zero_division=0
    )
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}


def classification(predicted, expected, labels: int) -> dict:
    per_class = metrics.precision_recall_fscore_support(expected, predicted, labels=range(labels), zero_division=0)
    average = "binary" if labels == 2 else "macro"
    f1 = lambda e, p: metrics.f1_score(e, p, average=average, zero_division=0)  # noqa: E731
    case = {
        "predicted": [int(p) for p in predicted],
        "expected": [int(e) for e in expected],
        "labels": labels,
        "accuracy": float(metrics.accuracy_score(expected, predicted)),
        "matthews": float(metrics.matthews_corrcoef(expected, predicted)),
        "classes": [[float(score) for score in scores] for scores in zip(*per_class)],
        "confusion": metrics.confusion_matrix(expected, predicted, labels=range(labels)).tolist(),
        "macro": averaged(expected, predicted, "macro"),
        "micro": averaged(expected, predicted, "micro"),
        "weighted": averaged(expected, predicted, "weighted"),
        "f1_standard_error": bootstrap(f1, expected, predicted),
        "matthews_standard_error": bootstrap(metrics.matthews_corrcoef, expected, predicted),
    }
    if labels == 2:
        case["binary"] = averaged(expected, predicted, "binary")
    return case


def classifications() -> list:
    rng = np.random.default_rng(1)
    cases = []
    for labels, count, noise in [(2, 60, 0.3), (2, 200, 0.1), (3, 90, 0.4), (7, 150, 0.5)]:
        expected = rng.integers(0, labels, count)
        predicted = np.where(rng.random(count) < noise, rng.integers(0, labels, count), expected)
        cases.append(classification(predicted, expected, labels))
    # Classes that are never predicted, never expected, or neither.
    expected, predicted = rng.integers(0, 2, 50), rng.integers(1, 3, 50)
    cases.append(classification(predicted, expected, 5))
    return cases


def regressions() -> list:
    rng = np.random.default_rng(2)
    cases = []
    for count, digits in [(40, 12), (100, 0), (3, 3)]:
        expected = np.round(rng.normal(3.0, 1.5, count), digits)
        predicted = np.round(0.7 * expected + rng.normal(0.0, 1.0, count), digits)
        pearson = lambda p, e: stats.pearsonr(p, e).statistic  # noqa: E731
        case = {
            "predicted": predicted.tolist(),
            "expected": expected.tolist(),
            "pearson": float(stats.pearsonr(predicted, expected).statistic),
            "spearman": float(stats.spearmanr(predicted, expected).statistic),
            "mse": float(metrics.mean_squared_error(expected, predicted)),
        }
        if count > 10:
            case["pearson_standard_error"] = bootstrap(pearson, predicted, expected)
        cases.append(case)
    return cases


PAIRS = [
    ("The cat sat on the mat.", "A cat sat on a mat"),
    ("the the the cat", "the cat cat dog"),
    ("", "something"),
    ("an a the", ""),
    ("It's 3.5%, isn't it?", "its 35 isnt it"),
    ("naïve Café über alles", "Naive cafe uber alles"),
    ("one  two\tthree\nfour", "four three two one"),
    ("A-frame and the_end of theatre", "aframe and end of theatre"),
    ("Kelvin K and İstanbul", "kelvin k istanbul"),
    ("1,000 dollars", "1000 dollars"),
    ("a b c d e f g", "b d f h a c e g"),
    ("Paris", "paris!"),
    ("x", "y"),
]


def texts() -> list:
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    cases = []
    for output, answer in PAIRS:
        answers = {"answers": {"answer_start": [0], "text": [answer]}, "id": "0"}
        found = squad({"prediction_text": output, "id": "0"}, answers)
        cases.append(
            {
                "output": output,
                "answer": answer,
                "exact": float(found["exact_match"]) / 100,
                "token_f1": float(found["f1"]) / 100,
                "rouge_l": float(scorer.score(answer, output)["rougeL"].fmeasure),
            }
        )
    return cases


@torch.no_grad()
def windows(model, ids: torch.Tensor, max_length: int, stride: int) -> tuple[float, int]:
    """Sum of the losses and their number: the loop of "Perplexity of fixed-length models", but for the exact count of tokens."""
    total, count, previous_end = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + max_length, ids.shape[1])
        targets = ids[:, begin:end].clone()
        targets[:, : -(end - previous_end)] = -100
        logits = model(ids[:, begin:end], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(logits[0, :-1], targets[0, 1:], reduction="none", ignore_index=-100)
        total += float(losses.sum())
        count += int((targets[0, 1:] != -100).sum())
        previous_end = end
        if end == ids.shape[1]:
            break
    return total, count


def perplexities(text: str) -> list:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float64, attn_implementation="eager").eval()
    ids = tokenizer(text, return_tensors="pt").input_ids
    cases = []
    for max_length, stride in [(128, 64), (48, 16), (32, 31), (64, 1), (1000, 500)]:
        total, count = windows(model, ids, max_length, stride)
        assert count == ids.shape[1] - 1
        cases.append({"max_length": max_length, "stride": stride, "tokens": count, "loss": total / count})
    return cases


def main(out: Path) -> None:
    text = (out / "text.txt").read_text()
    write = lambda name, value: (out / name).write_text(json.dumps(value, indent=1) + "\n")  # noqa: E731
    write(
        "metrics.json", {"classification": classifications(), "regression": regressions(), "texts": texts()}
    )
    size = {"bytes": len(text.encode()), "words": len(text.split())}
    write("perplexity.json", {**size, "windows": perplexities(text)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
