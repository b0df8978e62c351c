"""The draws of single results and of the seeds of a method, their differences, subgroups and calibration."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.draws import SEED, draws_path, read_draws, rows_mark, write_draws
from benchmark.errors import UserError
from benchmark.scoring import (
    Scorer,
    families,
    in_order,
    resample_metric,
    scorer,
    shared_rows,
    verified_predictions,
)  # fmt: skip
from benchmark.statistics import Resampled, average, resample
from benchmark.subjects import Subjects, read_subjects, subjects_path
from benchmark.types import Predictions, Protocol

Floats = NDArray[np.float64]
BINS = 10  # of equal width, of the calibration
FEWEST = 10  # patients of a subgroup below which it has no score
TOLERANCE = 1e-9  # of a metric, relative above 1: another order of sums
AGES = (0, 40, 60, 80)  # years, where the age groups begin


def cell(resampled: Resampled) -> dict[str, Any]:
    """A value with its interval, in six digits."""
    metric = resampled.metric
    found = {name: getattr(metric, name) for name in ("value", "low", "high")}
    return {name: None if item is None else float(f"{item:.6g}") for name, item in found.items()} | {"n": metric.n}


class Analyst:
    """Scores results of one folder again, each once.

    Args:
        out: the folder of --out. draws: of the bootstrap.
    """

    def __init__(self, out: Path, draws: int) -> None:
        self.out, self.draws = out, draws
        self._unread: set[str] = set()
        self.disagreeing: dict[str, str] = {}  # key of a result -> what its predictions do not give
        self._drawn: dict[str, tuple[Resampled, str] | None] = {}
        self._entries: dict[tuple[str, ...], Resampled | None] = {}
        self._subjects: dict[Path, Subjects] = {}
        self._marks: dict[tuple[str, ...], str] = {}
        self._bar: Any = None

    def begin(self, total: int, progress: bool) -> None:
        """Starts a progress bar over results that must be scored."""
        if progress and total:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc="intervals and ranks", delay=2, leave=False)

    def end(self) -> None:
        """Ends the progress bar."""
        if self._bar is not None:
            self._bar.close()

    @cached_property
    def _files(self) -> frozenset[str]:
        folder = self.out / "predictions"
        return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()

    def has(self, row: Any) -> bool:
        """Whether the predictions of a result lie here."""
        return bool(row.predictions) and f"{row.key}.npz" in self._files

    def subjects_mark(self, row: Any) -> str:
        """Changes when the file of the subjects of a result's test rows does."""
        data = (row.dataset, row.dataset_version, row.spec["splits"].get("test", ""))
        if data not in self._marks:
            path = subjects_path(self.out, row.spec)
            self._marks[data] = str(path.stat().st_mtime_ns) if path.is_file() else ""
        return self._marks[data]

    @lru_cache(maxsize=4)  # noqa: B019  (an analyst lives as long as one command)
    def _open(self, key: str, sha256: str) -> Predictions | None:
        found = verified_predictions(self.out / "predictions" / f"{key}.npz", sha256)
        if found is None:
            self._unread.add(key)
        return None if found is None else in_order(found)

    def lasting(self, row: Any) -> bool:
        """Whether what was found of a result holds until its files change by name: not where a file is damaged or disagrees."""
        return row.key not in self._unread and not (self.has(row) and self._drawn.get(row.key, ()) is None)

    def _how(self, row: Any) -> tuple[Scorer, Protocol] | None:
        return scorer(row.task, row.protocol_hash) if row.metric else None

    def _of_row(self, row: Any) -> tuple[Resampled, str] | None:
        """The primary metric of a result, and a mark of its rows and patients; None where it cannot be scored."""
        if row.key not in self._drawn:
            found = self._score(row) if self.has(row) else None
            self._drawn[row.key] = found if found is None or self._agrees(row, found[0].value) else None
            if self._bar is not None:
                self._bar.update()
        return self._drawn[row.key]

    def _agrees(self, row: Any, again: float) -> bool:
        """Whether a result states what its predictions give."""
        same = row.value is not None and abs(again - row.value) <= TOLERANCE * max(1.0, abs(again))
        if not same:
            self.disagreeing[row.key] = f"states {row.metric} {row.value}, its predictions give {again}"
        return same

    def _score(self, row: Any) -> tuple[Resampled, str] | None:
        path = draws_path(self.out, row.spec, row.predictions, row.metric, self.draws)
        kept = read_draws(path)
        if kept is not None:
            return kept
        how = self._how(row)
        predictions = None if how is None else self._open(row.key, row.predictions)
        found = None if how is None or predictions is None else resample_metric(predictions, how, row.metric, self.draws)
        if found is None or predictions is None or np.isnan(found.value):
            return None
        mark = rows_mark(predictions)
        write_draws(path, found, mark)
        return found, mark

    def entry(self, entry: Any) -> Resampled | None:
        """The seeds of a method together; None where one cannot be scored, or they are of different rows."""
        keys = tuple(row.key for row in entry.rows)
        if keys not in self._entries:
            self._entries[keys] = self._average(entry)
        return self._entries[keys]

    def _average(self, entry: Any) -> Resampled | None:
        parts = [self._of_row(row) for row in entry.rows]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or len({mark for _, mark in known}) != 1:
            return None
        return average([found for found, _ in known])

    def difference(self, first: Any, second: Any) -> Resampled | None:
        """First minus second, on the rows that both have; None where there are none."""
        ours, theirs = self.entry(first), self.entry(second)
        if ours is None or theirs is None:
            return None
        if self._of_row(first.first)[1] == self._of_row(second.first)[1]:  # type: ignore[index]
            return ours - theirs
        parts = [self._on_shared_rows(first, second.first), self._on_shared_rows(second, first.first)]
        return None if parts[0] is None or parts[1] is None else parts[0] - parts[1]

    def _on_shared_rows(self, entry: Any, other: Any) -> Resampled | None:
        beside, found = self._open(other.key, other.predictions), []
        for row in entry.rows:
            how, own = self._how(row), self._open(row.key, row.predictions)
            if how is None or own is None or beside is None:
                return None
            try:
                found.append(resample_metric(shared_rows(own, beside)[0], how, row.metric, self.draws))
            except UserError:
                return None
        known = [item for item in found if item is not None]
        return average(known) if len(known) == len(found) else None

    def _subjects_of(self, row: Any) -> Subjects:
        path = subjects_path(self.out, row.spec)
        if path not in self._subjects:
            self._subjects[path] = read_subjects(path)
        return self._subjects[path]

    def subgroups(self, row: Any) -> list[dict[str, Any]]:
        """The primary metric by sex, age and view of the test rows; [] where nothing is known of them."""
        subjects, how = self._subjects_of(row) if self.has(row) else {}, self._how(row)
        predictions = self._open(row.key, row.predictions) if subjects and how else None
        if predictions is None or how is None:
            return []
        found = []
        for by, values in _subgroup_columns(predictions, subjects).items():
            for value in sorted(set(values) - {""}):
                rows = np.flatnonzero(np.array(values) == value)
                part = predictions.take(rows)
                patients = len(np.unique(part.patients))
                scored = resample_metric(part, how, row.metric, self.draws) if patients >= FEWEST else None
                empty = {"value": None, "low": None, "high": None, "n": patients}
                line = {"by": by, "value": value, "patients": patients, "rows": len(rows), "metric": row.metric}
                found.append({**line, "score": empty if scored is None else cell(scored)})
        return found

    def calibration(self, row: Any) -> dict[str, Any] | None:
        """Expected calibration error over the classes, with its bins; None where scores are no probabilities."""
        if row.task != "classification" or not self.has(row):
            return None
        how = self._how(row)
        predictions = None if how is None else self._open(row.key, row.predictions)
        if how is None or predictions is None:
            return None
        chances = families().probabilities(predictions, row.task, how[1])
        targets = predictions.arrays.get("targets")
        if chances is None or targets is None or np.isnan(chances).all():
            return None
        return _calibration(chances, targets, predictions.patients, self.draws)


def _calibration(chances: Floats, targets: Floats, patients: NDArray[np.str_], draws: int) -> dict[str, Any]:
    """Guo et al., ICML 2017, eq. 3, over all pairs of a row and a known class, in bins of equal width.

    Args:
        chances, targets: (N, K), nan left out.
    """
    known = ~np.isnan(chances) & ~np.isnan(targets)
    place = np.where(known, np.minimum((np.nan_to_num(chances) * BINS).astype(int), BINS - 1), -1)
    inside = np.stack([place == number for number in range(BINS)])  # (bins, N, K)
    count = inside.sum(axis=2).astype(float).T  # (N, bins)
    predicted = np.where(inside, np.nan_to_num(chances), 0).sum(axis=2).T
    observed = np.where(inside, np.nan_to_num(targets), 0).sum(axis=2).T

    def error(weights: Floats) -> dict[str, Floats]:
        total = (weights @ count).sum(axis=1)
        return {"ece": np.abs(weights @ (predicted - observed)).sum(axis=1) / np.where(total > 0, total, np.nan)}

    sums = [item.sum(axis=0) for item in (count, predicted, observed)]
    bins = [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "mean_predicted": float(f"{chance / n:.6g}") if n else None,
            "observed": float(f"{seen / n:.6g}") if n else None,
            "count": int(n),
        }
        for number, (n, chance, seen) in enumerate(zip(*sums, strict=True))
    ]
    return {"ece": cell(resample(error, patients, draws, SEED)["ece"]), "bins": bins}


def _subgroup_columns(predictions: Predictions, subjects: Subjects) -> dict[str, list[str]]:
    """The value of each row by sex, age and view; "" where it is not known."""
    rows = [subjects.get(str(uid), {}) for uid in predictions.uids]
    return {
        "sex": [row.get("sex") or "" for row in rows],
        "age": [_age_group(row.get("age")) for row in rows],
        "view": [row.get("view") or "" for row in rows],
    }


def _age_group(age: float | None) -> str:
    if age is None or not age >= 0:
        return ""
    place = max(number for number, start in enumerate(AGES) if age >= start)
    return f"{AGES[place]} or more" if place == len(AGES) - 1 else f"{AGES[place]} to {AGES[place + 1] - 1}"
