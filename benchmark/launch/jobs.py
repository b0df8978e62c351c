"""The cells of a run as jobs for other processes: pretrainings first, each once, then the cells that wait for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from benchmark.data.dataset import Dataset
from benchmark.errors import UserError
from benchmark.plan import Cell, refusal
from benchmark.pretrain import read_pretrained
from benchmark.store import Store

Planned = tuple[tuple[Dataset, tuple[Cell, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one process does: the cells of these keys, or the pretraining of this one key.

    cells: those whose results it leaves, which for a pretraining are those that fail with it. after: the key of the
    pretraining that must be there first, or "".
    """

    name: str  # of its log
    keys: tuple[str, ...]
    cells: tuple[Cell, ...]
    after: str = ""
    pretrains: bool = False


def jobs_of(planned: Planned, store: Store, by_cell: bool) -> tuple[Job, ...]:
    """What is left to do, pretrainings in front.

    Args:
        by_cell: a job for each cell; else one for the cells of a method and seed on a data set, which encode it only once.
    """
    todo = [
        (number, cell)
        for number, (data, cells) in enumerate(planned)
        for cell in cells
        if store.finished(cell.spec.key) is None and not refusal(cell, data)
    ]
    return (*_pretrainings([cell for _, cell in todo], store), *_evaluations(todo, store, by_cell))


def chosen_keys(only: Sequence[str], cells: Sequence[Cell]) -> frozenset[str]:
    """The keys of the cells to run: all of them, or those named, alone or by their pretraining. Raises UserError."""
    if not only:
        return frozenset(cell.spec.key for cell in cells)
    known: dict[str, set[str]] = {}
    for cell in cells:
        pretraining = cell.entrant.pretraining
        for key in (cell.spec.key, *([pretraining.key] if pretraining is not None else [])):
            known.setdefault(key, set()).add(cell.spec.key)
    missing = next((key for key in only if key not in known), None)
    if missing is not None:
        raise UserError(f"--only {missing} is the key of no cell and no pretraining of this command; --dry-run lists the keys")
    return frozenset().union(*(known[key] for key in only))


def _pretrainings(cells: Sequence[Cell], store: Store) -> Iterator[Job]:
    waiting: dict[str, list[Cell]] = {}
    for cell in cells:
        key = _awaited(cell, store)
        if key:
            waiting.setdefault(key, []).append(cell)
    for key, group in waiting.items():
        spec = group[0].spec
        yield Job(name=f"pretrain-{spec.method}-{spec.seed}-{key[:8]}", keys=(key,), cells=tuple(group), pretrains=True)


def _evaluations(todo: Sequence[tuple[int, Cell]], store: Store, by_cell: bool) -> Iterator[Job]:
    for _, group in groupby(todo, lambda item: item[1].spec.key if by_cell else (item[0], id(item[1].entrant))):
        cells = tuple(cell for _, cell in group)
        spec = cells[0].spec
        what = spec.protocol if by_cell else spec.dataset.replace(":", "-").replace("/", "-")
        yield Job(
            name=f"{spec.method}-{spec.seed}-{what}-{spec.key[:8]}",
            keys=tuple(cell.spec.key for cell in cells),
            cells=cells,
            after=_awaited(cells[0], store),
        )


def _awaited(cell: Cell, store: Store) -> str:
    """The key of a pretraining that is not finished yet, or ""."""
    spec = cell.entrant.pretraining
    if spec is None or read_pretrained(store.pretrained_folder(spec.key)) is not None:
        return ""
    return spec.key
