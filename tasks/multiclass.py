"""Classification into one of several classes; zero-shot, as on CheXpert 5x200, by the class whose prompts are nearest.

Rows are test images with exactly one of the protocol's classes. Arrays: scores (N, K); predicted (N, K), 1 at the answer,
1/m at each of m tied ones; targets (N,) int64; where prompts are drawn, predicted_draws (N, draws, K) of further draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import metrics
from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported
from benchmark.types import Predictions, Protocol, Record
from tasks.classes import class_of, of_protocol, one_class_rows
from tasks.prompts import PHRASE_GRIDS, drawn
from tasks.similarity import has_own_rule, own_class_scores, similarities

FLAT = 1e-6  # a class whose scores differ by less, beside their size, says nothing of images: rounding is not standardised
Prompts = tuple[tuple[str, ...], ...]


def check(data: Dataset, protocol: Protocol, splits: Sequence[str] = ("test",)) -> None:
    """Raises Unsupported where the set lacks a class, or no row of a split has exactly one of them."""
    narrow = of_protocol(data, protocol)
    for split in splits:
        if not one_class_rows(narrow, protocol, split):
            raise Unsupported(
                f"{protocol.name} needs images with exactly one of {', '.join(narrow.classes)} in the {split} split, "
                f"and {data.name} has none there"
            )


def rows_of(data: Dataset, protocol: Protocol, split: str, fraction: float = 1.0, seed: int = 0) -> tuple[Record, ...]:
    """Rows with exactly one class, and a fraction of their patients."""
    return data.fraction(one_class_rows(data, protocol, split), fraction, seed)


def answered(
    records: Sequence[Record], scores: NDArray[Any], classes: tuple[str, ...], skipped: tuple[tuple[str, str], ...]
) -> Predictions:
    """Scores (N, K) and the answers they give. Raises UserError where a score is not finite."""
    uids, patients = (np.array([getattr(record, name) for record in records]) for name in ("uid", "patient"))
    metrics.require_finite(scores, uids)
    arrays = {"scores": scores.astype(np.float64), "predicted": shares(scores), "targets": class_of(records)}
    return Predictions(uids, patients, arrays, {"classes": classes}, skipped)


def run(method: Any, data: Dataset, protocol: Protocol, context: Context) -> Predictions:
    """The answers of the test rows, to the protocol's prompts and to further draws of them."""
    data = of_protocol(data, protocol)
    chosen = one_class_rows(data, protocol, "test")
    records, skipped = data.readable(chosen, method.input, context)
    targets = class_of(records)
    context.notes |= {
        "rows_left_out": len(data.rows("test", protocol)) - len(chosen),
        "rows_with_unknown_classes": int(np.isnan(data.labels(records)).any(axis=1).sum()),
        "classes_without_rows": ", ".join(name for k, name in enumerate(data.classes) if k not in targets),
    }
    draws = prompts_of(protocol, data.classes)
    if protocol.setting("rule") == "method" and has_own_rule(method):
        answers = [own_class_scores(method, data, records, prompts, context) for prompts in draws]
        context.notes["rule"] = "the method's own"
    else:
        texts = list(dict.fromkeys(text for prompts in draws for own in prompts for text in own))
        values = similarities(method, data, records, texts, protocol.setting("similarity"), context)
        answers = [class_scores(values, texts, prompts, protocol) for prompts in draws]
    found = answered(records, answers[0], data.classes, skipped)
    if len(answers) == 1:
        return found
    drawn_too = np.stack([shares(answer) for answer in answers[1:]], axis=1)
    return replace(found, arrays={**found.arrays, "predicted_draws": drawn_too})


def prompts_of(protocol: Protocol, classes: Sequence[str]) -> list[Prompts]:
    """The protocol's prompts of each class, and behind them those of its further draws, with the seeds that follow."""
    grid = PHRASE_GRIDS[protocol.setting("prompts")]
    every = [grid.prompts(name) for name in classes]
    each, seed, draws = (protocol.setting(name) for name in ("prompts_each", "prompt_seed", "prompt_draws"))
    return [drawn(every, each, seed + draw) for draw in range(draws + 1)]


def class_scores(values: NDArray[Any], texts: Sequence[str], prompts: Prompts, protocol: Protocol) -> NDArray[np.float32]:
    """(N, K) float32, prompts pooled to classes, standardised over the images where the protocol says so.

    Args:
        values: (N, M) similarities to M texts. prompts: of each class, each one of the texts.
    """
    place = {text: column for column, text in enumerate(texts)}
    of_class = [values[:, [place[text] for text in own]].astype(np.float64) for own in prompts]
    best = protocol.setting("pooling") == "max"
    scores = np.stack([item.max(axis=1) if best else item.mean(axis=1) for item in of_class], axis=1)
    if protocol.setting("normalisation") == "z-score over test images" and len(scores) > 1:
        scores = standardised(scores)
    return scores.astype(np.float32)  # what differs by the rounding of a mean is a tie


def standardised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each column less its mean, by its standard deviation over the rows; 0 where it is constant but for rounding."""
    mean, deviation = scores.mean(axis=0), scores.std(axis=0)
    flat = deviation <= FLAT * np.maximum(1.0, np.abs(mean))
    return np.where(flat, 0.0, (scores - mean) / np.where(flat, 1.0, deviation))


def shares(scores: NDArray[Any]) -> NDArray[np.float64]:
    """(N, K) 1 at the highest score of each row, 1/m at each of m that tie for it."""
    best = scores == scores.max(axis=1, keepdims=True)
    return np.asarray(best / best.sum(axis=1, keepdims=True), np.float64)


def references(predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
    """A uniform guess, and the class that most training rows with exactly one class have."""
    data, shape = of_protocol(data, protocol), predictions.arrays["predicted"].shape
    counts = np.bincount(class_of(one_class_rows(data, protocol, "train")), minlength=shape[1])
    answers = {"uniform guess": np.full(shape[1], 1 / shape[1]), "majority class": np.eye(shape[1])[counts.argmax()]}
    return {
        name: Predictions(
            predictions.uids,
            predictions.patients,
            {
                "scores": np.zeros(shape),
                "predicted": np.broadcast_to(answer, shape).copy(),
                "targets": predictions.arrays["targets"],
            },
            predictions.names,
        )
        for name, answer in answers.items()
    }
