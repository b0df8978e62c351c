"""Finished cells without a run: results whose predictions are the truth plus noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.store import Store
from benchmark.types import Metric, Predictions, Protocol, RunResult, RunSpec, digest
from tasks.checks import VERSIONS
from tasks.protocols import CLASSIFICATION, ZERO_SHOT

CLASSES = ("Edema", "Pneumonia")


def predictions_of(noise: float, patients: int = 60, images: int = 2, classes: int = 1, seed: int = 1) -> Predictions:
    """Scores of each image: 1 where the class is there, plus noise of the given size, of a seed."""
    generator = np.random.default_rng(7)
    targets = (generator.random((images * patients, classes)) < 0.5).astype(float)
    scores = targets - 0.5 + noise * np.random.default_rng([seed]).normal(size=targets.shape)
    names = np.array([f"p{row // images:03d}" for row in range(images * patients)])
    uids = np.array([f"{name}-{row % images}" for row, name in enumerate(names)])
    arrays = {"scores": scores, "predicted": (scores > 0).astype(float), "targets": targets}
    return Predictions(uids, names, arrays, {"classes": CLASSES[:classes]})


def finish(
    out: Path, method: str, predictions: Predictions, protocol: Protocol = ZERO_SHOT[0], seed: int = 0, **changes: Any
) -> RunResult:
    """Saves predictions and the result that `run` would have saved for them, without its intervals.

    Args:
        changes: fields of RunResult, or of RunSpec where they are not.
    """
    from benchmark.scoring import families

    splits = {"test": digest([len(predictions.uids), len(set(predictions.patients))], 8)}
    spec = RunSpec(
        method=method, method_version=1, config={}, weights="seed", task=protocol.task, task_version=VERSIONS[protocol.task],
        protocol=protocol.name, protocol_hash=protocol.hash, dataset="toy", dataset_version="1", splits=splits,
        label_fraction=1.0, seed=seed, eval_seed=0, precision="fp32",
    )  # fmt: skip
    in_spec = {name: value for name, value in changes.items() if hasattr(spec, name)}
    spec = replace(spec, **in_spec)
    score = families().SCORES[protocol.task](predictions, protocol, np.ones((1, len(predictions.uids))))
    patients = len(np.unique(predictions.patients))
    found = {name: Metric(None if np.isnan(value[0]) else float(value[0]), n=patients) for name, value in score.items()}
    sha256 = Store(out).save_predictions(spec.key, predictions)
    result = RunResult(
        key=spec.key, status="ok", spec=spec, title=method, primary=protocol.primary, metrics=found, predictions=sha256,
        higher_is_better=protocol.higher_is_better, n_used=len(predictions.uids), n_expected=len(predictions.uids),
    )  # fmt: skip
    result = replace(result, **{name: value for name, value in changes.items() if name not in in_spec})
    Store(out).save(result)
    return result


def noisy(out: Path, method: str, noise: float, seed: int = 0, **changes: Any) -> RunResult:
    """A finished zero-shot cell."""
    return finish(out, method, predictions_of(noise), seed=seed, **changes)


PROBE = CLASSIFICATION[0]
