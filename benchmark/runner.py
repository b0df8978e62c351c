"""plan -> run -> save. The only place that catches Exception: a failed cell is recorded with its traceback, others go on."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark import repro
from benchmark.context import Context, choose_device
from benchmark.data.dataset import Dataset
from benchmark.draws import SEED, interval_notes, keep_draws
from benchmark.errors import Unavailable, Unsupported, UserError
from benchmark.flags import flags_of, split_note, with_trivial_flag
from benchmark.launch.jobs import chosen_keys
from benchmark.meter import Meter, count_gmacs, count_parameters
from benchmark.options import RunOptions
from benchmark.plan import Cell, Entrant, cells, entrants, open_corpus, open_dataset, reference_spec, refusal
from benchmark.prepare import prepare
from benchmark.pretrain import Pretrained
from benchmark.registry import Registry
from benchmark.statistics import resample
from benchmark.store import Store, read_predictions
from benchmark.subjects import write_subjects
from benchmark.types import Cost, Predictions, RunResult, Status

Report = Callable[[RunResult], None]


@dataclass(slots=True)
class Summary:
    """What a run did: results in order, and the keys that were there already."""

    results: list[RunResult] = field(default_factory=list)
    reused: set[str] = field(default_factory=set)

    def of(self, status: Status) -> list[RunResult]:
        """The results of a status."""
        return [item for item in self.results if item.status == status]


class Runner:
    """Runs the cells of a command line.

    Args:
        methods, tasks: the registries. report: is called with each result as it ends.
    """

    def __init__(self, options: RunOptions, methods: Registry[Any], tasks: Registry[Any], report: Report) -> None:
        self.options, self.methods, self.tasks, self.report = options, methods, tasks, report
        self.store = Store(options.out)
        self.device = choose_device(options.device)
        if self.device.type == "cuda":
            repro.deterministic()
        self.summary = Summary()
        self._referenced: dict[tuple[object, ...], list[RunResult]] = {}

    def plan(self) -> tuple[tuple[Dataset, tuple[Cell, ...]], ...]:
        """The cells of each data set. Raises UserError for anything that is wrong before work begins."""
        corpus, found = open_corpus(self.options), []
        whole = not (self.options.where or self.options.split or self.options.label_policy)
        for text in self.options.data:
            same = whole and text == self.options.pretrain_data
            data = corpus if corpus is not None and same else open_dataset(text, self.options)
            found.append((data, cells(self.options, self.tasks, data, entrants(self.options, self.methods, data, corpus))))
        return tuple(found)

    def run(self) -> Summary:
        """Runs what is not finished yet, method by method, and saves each cell as it ends."""
        planned = self.plan()
        chosen = chosen_keys(self.options.only, [cell for _, todo in planned for cell in todo])
        self.store.check_writable()
        for data, todo in planned:
            if todo:
                write_subjects(self.options.out, todo[0].spec, data.rows("test"))
            for entrant, group in _by_entrant([cell for cell in todo if cell.spec.key in chosen]):
                self._run_entrant(data, entrant, group)
        return self.summary

    def pretrain(self) -> list[Pretrained]:
        """Only the pretraining of every trainable method. Raises UserError if none is."""
        self.store.check_writable()
        found = []
        for text in self.options.data:
            data = open_dataset(text, self.options)
            for entrant in entrants(self.options, self.methods, data):
                if entrant.pretraining is not None:
                    _, record, _ = prepare(entrant, self.store, self._context(entrant, 0))
                    found += [record] if record else []
        if not found:
            raise UserError(f"none of {', '.join(self.options.methods)} is trained; see `list methods`")
        return found

    def _context(self, entrant: Entrant, eval_seed: int) -> Context:
        return Context(
            device=self.device,
            cache=self.options.cache or Path(os.environ.get("BENCHMARK_CACHE") or self.options.out / "cache"),
            precision=self.options.precision,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            seed=entrant.seed,
            eval_seed=eval_seed,
            draws=self.options.draws,
            progress=self.options.progress and os.environ.get("RANK", "0") == "0",
            track=self.options.track,
            fsdp=self.options.fsdp,
            meter=Meter(self.device),
        )

    def _run_entrant(self, data: Dataset, entrant: Entrant, group: Sequence[Cell]) -> None:
        if not (runnable := self._runnable(data, group)):
            return
        context = self._context(entrant, 0)
        try:
            method, record, notes = prepare(entrant, self.store, context)
        except Exception as error:  # noqa: BLE001
            for cell in runnable:
                self._keep(self._failure(cell, error))
            return
        for cell in runnable:
            if not self.options.only or cell.spec.key in self.options.only:  # or its pretraining alone was asked for
                self._run_cell(cell, method, record, data, replace(context, notes=notes))

    def _runnable(self, data: Dataset, group: Sequence[Cell]) -> list[Cell]:
        """The cells that are left to do; finished ones are taken over, and those that cannot be run are recorded as such."""
        pending = []
        for cell in group:
            finished = self._finished(cell)
            if finished is None:
                pending.append(cell)
            else:
                self.summary.reused.add(finished.key)
                self._take(cell, finished, data)
        refused = [(cell, refusal(cell, data)) for cell in pending]
        for cell, reason in refused:
            if reason is not None:
                self._keep(self._result(cell, reason[0], error=reason[1]))
        return [cell for cell, reason in refused if reason is None]

    def _run_cell(self, cell: Cell, method: Any, record: Pretrained | None, data: Dataset, shared: Context) -> None:
        started = _now()
        context = replace(
            shared,
            meter=Meter(self.device),
            notes=dict(shared.notes),
            eval_seed=cell.spec.eval_seed,
            batch_size=self.options.batch_size,
            state=self.store.fit_path(cell.spec.key),
            examples=self.store.examples_path(cell.spec.key) if data.synthetic else None,
        )
        try:
            context.meter.start()
            with repro.seeded(cell.spec.seed, cell.spec.eval_seed, cell.protocol.hash):
                predictions = cell.task.run(method, data, cell.protocol, cell.spec.label_fraction, context)
            context.meter.stop()
            if len(predictions.uids) == 0:
                raise UserError(f"no test row of {data.name} could be used for {cell.protocol.name}")
            _count(method, context)
            sha256 = self.store.save_predictions(cell.spec.key, predictions)
            result = replace(
                self._scored(cell, predictions, sha256, context.meter),
                pretraining=record.cost if record else None,
                notes=dict(context.notes) | data.notes | split_note(cell.protocol, data) | interval_notes(context.draws),
                started=started,
                finished=_now(),
                flags=flags_of(cell, data, predictions),
            )
            self._keep(with_trivial_flag(result, self._references(cell, data)))
            self.store.fit_path(cell.spec.key).unlink(missing_ok=True)
        except Exception as error:  # noqa: BLE001
            context.meter.stop()
            self._keep(self._failure(cell, error, started))

    def _take(self, cell: Cell, finished: RunResult, data: Dataset) -> None:
        flagged = with_trivial_flag(finished, self._references(cell, data))
        self._keep(flagged, save=flagged != finished)

    def _finished(self, cell: Cell) -> RunResult | None:
        """The stored result of a cell; its intervals are drawn again where they are of other draws or of another kind."""
        result = self.store.finished(cell.spec.key)
        asked = interval_notes(self.options.draws)
        if result is None or all(result.notes.get(name) == value for name, value in asked.items()):
            return result
        predictions = read_predictions(self.store.predictions_path(result.key))
        metrics = self._scored(cell, predictions, result.predictions, Meter()).metrics
        result = replace(result, metrics=metrics, notes={**result.notes, **asked})
        self.store.save(result)
        return result

    def _scored(self, cell: Cell, predictions: Predictions, sha256: str, meter: Meter) -> RunResult:
        """The result of stored predictions; the draws of its primary metric are kept, since every board asks for them."""
        with meter.phase("score"):
            found = resample(
                partial(cell.task.score, predictions, cell.protocol), predictions.patients, self.options.draws, SEED
            )
        scored = replace(self._result(cell, "ok"), predictions=sha256)
        keep_draws(self.store.root, scored, found, predictions)
        used, skipped = len(np.unique(predictions.uids)), predictions.skipped
        return replace(
            scored,
            metrics={name: item.metric for name, item in found.items()},
            n_used=used,
            n_expected=used + len(skipped),
            skipped=skipped,
            cost=meter.cost(),
        )

    def _result(self, cell: Cell, status: Status, error: str | None = None) -> RunResult:
        return RunResult(
            key=cell.spec.key,
            status=status,
            spec=cell.spec,
            title=cell.entrant.title,
            primary=cell.protocol.primary,
            higher_is_better=cell.protocol.higher_is_better,
            cost=Cost(device=str(self.device)),
            environment=repro.environment(self.device),
            command=self.options.command,
            error=error,
            started=_now(),
            finished=_now(),
        )

    def _failure(self, cell: Cell, error: Exception, started: str = "") -> RunResult:
        if isinstance(error, Unavailable):
            return self._result(cell, "unavailable", str(error))
        if isinstance(error, Unsupported):
            return self._result(cell, "unsupported", str(error))
        trace = "".join(traceback.format_exception(error))
        text = f"{error if isinstance(error, UserError) else f'{type(error).__name__}: {error}'}\n\n{trace}"
        return replace(self._result(cell, "failed", text), started=started or _now())

    def _references(self, cell: Cell, data: Dataset) -> list[RunResult]:
        """Trivial rows and oracles of the cell's group, made once for all methods, when the cell's predictions are there."""
        rows = (data.name, data.version, *sorted(data.splits.items()))
        group = (rows, cell.protocol.hash, cell.spec.label_fraction, cell.spec.eval_seed)
        if group in self._referenced:
            return self._referenced[group]
        found = self._referenced.setdefault(group, [])
        try:
            predictions = read_predictions(self.store.predictions_path(cell.spec.key))
            for name, reference in cell.task.references(predictions, data, cell.protocol).items():
                found.append(self._reference(cell, name, reference, data))
        except Exception as error:  # noqa: BLE001
            failed = replace(cell, spec=reference_spec(cell.spec, "failed"))
            self._keep(replace(self._failure(failed, error), title="reference rows", role="reference"), save=False)
        self.summary.results += found
        return found

    def _reference(self, cell: Cell, name: str, predictions: Predictions, data: Dataset) -> RunResult:
        reference = replace(cell, spec=reference_spec(cell.spec, name))
        result = self._finished(reference)
        kind = getattr(cell.task, "reference_kinds", {}).get(name, "trivial")
        if result is not None and result.notes.get("kind") != kind:
            result = replace(result, notes={**result.notes, "kind": kind})
            self.store.save(result)
        if result is None:
            sha256 = self.store.save_predictions(reference.spec.key, predictions)
            result = replace(
                self._scored(reference, predictions, sha256, Meter()),
                title=name, role="reference", flags=data.source.flags, cost=Cost(),
                notes=data.notes | interval_notes(self.options.draws) | {"kind": kind},
            )  # fmt: skip
            self.store.save(result)
        return result

    def _keep(self, result: RunResult, save: bool = True) -> None:
        if save:
            self.store.save(result)
        self.summary.results.append(result)
        self.report(result)


def _by_entrant(todo: Sequence[Cell]) -> list[tuple[Entrant, list[Cell]]]:
    groups: dict[int, list[Cell]] = {}
    for cell in todo:
        groups.setdefault(id(cell.entrant), []).append(cell)
    return [(group[0].entrant, group) for group in groups.values()]


def _count(method: Any, context: Context) -> None:
    """Parameters, and multiply-accumulates of encoding one image."""
    size = method.input
    image = torch.zeros(1, size.channels, size.size, size.size, device=context.device)
    context.meter.gmacs = count_gmacs(lambda: method.encode_image(image))
    context.meter.params = count_parameters(method)
    context.meter.batch_size = context.batch_size


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
