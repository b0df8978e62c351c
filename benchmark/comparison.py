"""Paired comparison of two methods, or of two folders of results, on what both have run; from files alone, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmark.errors import UserError
from benchmark.scoring import in_order, resample_metric, scorer, shared_rows
from benchmark.statistics import Resampled, average, p_value
from benchmark.store import Store, read_predictions
from benchmark.types import Cost, Metric, Predictions, RunResult, RunSpec, plain

MEMORY = "peak_allocated_mib"


@dataclass(frozen=True, slots=True)
class Ratio:
    """First by second of a cost. marked: they were measured on different devices, so it is no comparison of methods."""

    value: float
    marked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """First minus second on one protocol and fraction, seeds averaged within each draw of patients.

    differs: "field: first | second" of the specs, seeds left out. costs: "pretraining", "evaluation" (seconds), "memory".
    """

    dataset: str
    protocol: str
    fraction: float
    seeds: str
    metric: str
    titles: tuple[str, str]
    first: float | None
    second: float | None
    difference: Metric
    p: float | None
    costs: Mapping[str, Ratio]
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Side:
    """Finished results of one folder, of one name in it, or of all methods where the name is empty."""

    store: Store
    name: str
    results: tuple[RunResult, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """The seeds of one method on one protocol."""

    store: Store
    results: tuple[RunResult, ...]

    @property
    def spec(self) -> RunSpec:
        return self.results[0].spec

    @property
    def seeds(self) -> str:
        return ",".join(str(seed) for seed in sorted({result.spec.seed for result in self.results}))

    def cost(self, name: str) -> float | None:
        """The mean over the seeds; None where it was not measured."""
        found = [_cost(result, name) for result in self.results]
        known = [item for item in found if item is not None]
        return fmean(known) if known else None

    def devices(self, name: str) -> set[str]:
        """Where a cost was measured."""
        return {part.device for result in self.results for part in _measured(result, name)}


def compare(out: Path, first: str, second: str, metric: str, draws: int) -> tuple[list[Comparison], list[str]]:
    """Comparisons of every cell that both sides have finished under the same protocol and rows.

    Args:
        first, second: a method name, a title or a result key in `out`; a folder of results; or FOLDER:NAME. Two folders
            are compared method by method.

    Returns:
        The comparisons, and "name@hash" of protocols that this version no longer has and left out.

    Raises:
        UserError: a name that fits several configurations, folders without a common method, or predictions of other rows.
    """
    sides = (_side(out, first), _side(out, second))
    made, left_out = [], []
    for names in _names(*sides):
        ours, theirs = (_by_cell(side, name) for side, name in zip(sides, names, strict=True))
        for cell in sorted(ours.keys() & theirs.keys(), key=repr):
            spec = ours[cell].spec
            if scorer(spec.task, spec.protocol_hash) is None:
                left_out.append(f"{spec.protocol}@{spec.protocol_hash}")
            else:
                made.append(_compare(ours[cell], theirs[cell], metric, draws))
    return made, list(dict.fromkeys(left_out))


def _side(out: Path, text: str) -> _Side:
    folder, colon, name = text.rpartition(":")
    if (Path(text) / "results").is_dir():
        place, name = Path(text), ""
    elif colon and (Path(folder) / "results").is_dir():
        place = Path(folder)
    else:
        place, name = out, text
    store = Store(place)
    results = [store.read(path.stem) for path in sorted((place / "results").glob("*.json"))]
    return _Side(store, name, tuple(item for item in results if item is not None and item.status == "ok"))


def _names(first: _Side, second: _Side) -> list[tuple[str, str]]:
    """The pairs of names to compare; of two folders every method that both have, or the single one of each."""
    if first.name and second.name:
        return [(first.name, second.name)]
    own = [_titles(side) for side in (first, second)]
    if first.name or second.name:
        name = first.name or second.name
        return [(first.name or _only(own[0], name, first), second.name or _only(own[1], name, second))]
    shared = [name for name in own[0] if name in own[1]]
    if not shared and (len(own[0]) != 1 or len(own[1]) != 1):
        raise UserError(
            f"{first.store.root} and {second.store.root} share no finished method; name one of each as FOLDER:METHOD"
        )
    return [(name, name) for name in shared] or [(own[0][0], own[1][0])]


def _titles(side: _Side) -> list[str]:
    return list(dict.fromkeys(result.title for result in side.results if result.role == "method"))


def _only(titles: Sequence[str], name: str, side: _Side) -> str:
    if name in titles or len(titles) != 1:
        return name
    return titles[0]


def cell_of(spec: RunSpec) -> tuple[Any, ...]:
    """What two results must share to be compared, as leaderboards.rows.Row.group_key has it."""
    names = (spec.task, spec.task_version, spec.dataset, spec.dataset_version, spec.protocol, spec.protocol_hash)
    return (*names, spec.label_fraction, tuple(sorted(spec.splits.items())))


def _by_cell(side: _Side, name: str) -> dict[tuple[Any, ...], _Run]:
    found: dict[tuple[Any, ...], list[RunResult]] = {}
    for result in side.results:
        if name not in (result.spec.method, result.key, result.title):
            continue
        spec, cell = result.spec, cell_of(result.spec)
        for other in found.setdefault(cell, []):
            if (other.spec.seed, other.spec.eval_seed) == (spec.seed, spec.eval_seed) or other.title != result.title:
                raise UserError(
                    f"{name!r} has several results for {spec.protocol} on {spec.dataset} ({other.title!r} and "
                    f"{result.title!r}); give a title or a result key"
                )
        found[cell].append(result)
    return {cell: _Run(side.store, tuple(results)) for cell, results in found.items()}


def _compare(ours: _Run, theirs: _Run, metric: str, draws: int) -> Comparison:
    spec, metric = ours.spec, metric or ours.results[0].primary
    if metric not in ours.results[0].metrics:
        raise UserError(f"{spec.protocol} has no metric {metric!r}; it has {', '.join(ours.results[0].metrics)}")
    everything = [[_predictions(run.store, result) for result in run.results] for run in (ours, theirs)]
    first, second = (_resampled(spec, part, metric, draws) for part in _on_shared_rows(everything))
    difference = first - second
    return Comparison(
        dataset=spec.dataset,
        protocol=spec.protocol,
        fraction=spec.label_fraction,
        seeds=ours.seeds if ours.seeds == theirs.seeds else f"{ours.seeds} | {theirs.seeds}",
        metric=metric,
        titles=(ours.results[0].title, theirs.results[0].title),
        first=first.metric.value,
        second=second.metric.value,
        difference=difference.metric,
        p=p_value(difference) if draws else None,
        costs=_ratios(ours, theirs),
        differs=_differs(spec, theirs.spec),
    )


def _predictions(store: Store, result: RunResult) -> Predictions:
    return in_order(read_predictions(store.predictions_path(result.key)))


def _on_shared_rows(sides: Sequence[Sequence[Predictions]]) -> list[list[Predictions]]:
    """The seeds of both sides on the rows that all of them have. Raises UserError: there are none, or patients differ."""
    shared = sides[0][0]
    for item in (item for side in sides for item in side):
        shared = shared_rows(shared, item)[0]
    return [[shared_rows(item, shared)[0] for item in side] for side in sides]


def _resampled(spec: RunSpec, own: Iterable[Predictions], metric: str, draws: int) -> Resampled:
    """The seeds of one side together."""
    how = scorer(spec.task, spec.protocol_hash)
    assert how is not None  # asked for before
    found = [resample_metric(item, how, metric, draws) for item in own]
    known = [item for item in found if item is not None]
    if len(known) < len(found):
        raise UserError(f"predictions of {spec.protocol} do not give {metric}; run the cell again")
    return average(known)


def _measured(result: RunResult, name: str) -> list[Cost]:
    """The parts of a run that a cost is of."""
    parts = {"pretraining": (result.pretraining,), "evaluation": (result.cost,), "memory": (result.cost, result.pretraining)}
    return [part for part in parts[name] if part is not None and (name != "memory" or getattr(part, MEMORY) is not None)]


def _cost(result: RunResult, name: str) -> float | None:
    found = _measured(result, name)
    if name == "memory":
        return max((getattr(part, MEMORY) for part in found), default=None)
    return sum(sum(part.seconds.values()) for part in found) or None


def _ratios(ours: _Run, theirs: _Run) -> dict[str, Ratio]:
    """Of what both have measured."""
    found = {}
    for name in ("pretraining", "evaluation", "memory"):
        first, second = ours.cost(name), theirs.cost(name)
        if first is not None and second:
            found[name] = Ratio(first / second, len(ours.devices(name) | theirs.devices(name)) > 1)
    return found


def _differs(first: RunSpec, second: RunSpec) -> tuple[str, ...]:
    left, right = _flat(first), _flat(second)
    names = [name for name in dict.fromkeys((*left, *right)) if name not in ("seed", "eval_seed")]
    return tuple(
        f"{name}: {left.get(name, 'not there')} | {right.get(name, 'not there')}"
        for name in names
        if left.get(name) != right.get(name)
    )


def _flat(spec: RunSpec) -> dict[str, Any]:
    """The fields of a spec, those of its configuration by their own names."""
    fields = plain(spec)
    config = fields.pop("config")
    return {**fields, **{f"config.{name}": value for name, value in config.items()}}
