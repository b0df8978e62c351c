"""Batches by step number alone: rows, their pixels, augmented, and their reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark import collectives
from benchmark.data.text import REPORT
from benchmark.data.transform import augment, to_input
from benchmark.errors import UserError
from benchmark.types import NOT_FRONTAL, Batch, Recipe, Record, reads_reports

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset


def training_rows(data: Dataset, with_text: bool) -> tuple[Record, ...]:
    """Training records that a method can learn from: not lateral, and with a report where the method reads text."""
    rows = tuple(record for record in data.rows("train") if record.view not in NOT_FRONTAL)
    texts = data.texts(rows, REPORT)
    return tuple(record for record, text in zip(rows, texts, strict=True) if text or not with_text)


class Loader:
    """Batches by step number alone: the same step gives the same batch in every process and after every restart.

    With several processes a batch is that of all of them, and each gets its rows of it.

    Args:
        records: N training rows. Batches never hold a row twice; the rest of an epoch that fills no batch is left out.

    Raises:
        UserError: fewer than two rows, other rows than another process reads, or a batch that the processes do not divide.
    """

    def __init__(self, method: Any, data: Dataset, records: Sequence[Record], recipe: Recipe, context: Context) -> None:
        self.records, skipped = data.readable(records, method.input, context)
        if not collectives.agree("\n".join(record.uid for record in self.records), context.device):
            raise UserError(
                f"the processes do not read the same rows of {data.name}: process {collectives.rank()} reads "
                f"{len(self.records)} of {len(records)}; give every node the same files "
                "(`python -m benchmark verify` names what is broken)"
            )
        if len(self.records) < 2:
            raise UserError(f"dataset {data.name!r} has {len(self.records)} rows to pretrain on; at least 2 are needed")
        self.n_skipped = len(skipped)
        self._method, self._data, self._recipe, self._context = method, data, recipe, context
        self._texts = data.texts(self.records, REPORT)
        self._lengths = np.array([len(text) for text in self._texts])
        self.n_truncated = _truncated(method, self._texts) if reads_reports(method) else 0
        self._labels = torch.from_numpy(data.labels(self.records))
        self.batch_size = min(recipe.batch_size, len(self.records))
        self.batches = len(self.records) // self.batch_size
        self._epoch: tuple[int, NDArray[np.intp]] = (-1, np.empty(0, np.intp))  # the last one asked for, and its order
        self.own = self.batch_size // collectives.count()
        if self.batch_size % collectives.count():
            raise UserError(
                f"{collectives.count()} processes do not divide the batch of {self.batch_size} rows"
                f"{'' if self.batch_size == recipe.batch_size else f' (all that {data.name} has)'}; "
                "give another --set batch_size, or another number of processes"
            )

    def batch(self, index: int) -> tuple[Batch, int]:
        """The own rows of a step's batch, on the device, and its epoch."""
        epoch, place = divmod(index, self.batches)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self.order(epoch))
        whole = self._epoch[1][place * self.batch_size : (place + 1) * self.batch_size]
        start = collectives.rank() * self.own
        chosen = whole[start : start + self.own]
        records = [self.records[row] for row in chosen]
        uids = tuple(record.uid for record in records)
        pixels = torch.from_numpy(self._data.pixels(self._method.input, self._context).take(records)).unsqueeze(1)
        images = self._context.to_device(pixels)  # (B, 1, S, S) uint8
        images = augment(images, uids, self._context.seed, epoch, self._recipe.augment)
        batch = Batch(
            uids=uids,
            patients=tuple(record.patient for record in records),
            images=to_input(images, self._method.input),
            texts=tuple(self._texts[row] for row in chosen),
            targets={"labels": self._context.to_device(self._labels[torch.as_tensor(chosen)])},
            start=start,
            whole=tuple(self._texts[row] for row in whole) if self.own < self.batch_size else (),
        )
        return batch, epoch

    def order(self, epoch: int) -> NDArray[np.intp]:
        """The rows of an epoch, drawn from (seed, epoch). With buckets, batches that follow each other in it are sorted by the
        length of their reports together, so that a batch has reports of one length, and then shuffled among themselves.
        """
        generator = np.random.default_rng([self._context.seed, epoch])
        order = generator.permutation(len(self.records))
        if self._recipe.buckets < 2:
            return order
        full = order[: self.batches * self.batch_size]
        size = self._recipe.buckets * self.batch_size
        pools = [full[start : start + size] for start in range(0, len(full), size)]
        rows = np.concatenate([pool[np.argsort(self._lengths[pool], kind="stable")] for pool in pools])
        shuffled: NDArray[np.intp] = generator.permutation(rows.reshape(self.batches, self.batch_size)).reshape(-1)
        return shuffled

    def run(self, first: int, end: int) -> Iterator[tuple[Batch, int]]:
        """The batches of steps first to end; with workers, each is made in a thread while the one before is trained on."""
        if not self._context.workers:
            yield from map(self.batch, range(first, end))
            return
        with ThreadPoolExecutor(1, "batches") as pool:
            coming = pool.submit(self.batch, first)
            for index in range(first + 1, end):
                found = coming.result()
                coming = pool.submit(self.batch, index)
                yield found
            yield coming.result()


def _truncated(method: Any, texts: Sequence[str], chunk: int = 1024) -> int:
    """How many training reports are longer than the method reads, as they stand: one that draws sentences may lose less."""
    starts = range(0, len(texts), chunk)
    return sum(int(method.prepare_text(texts[start : start + chunk]).truncated) for start in starts)
