"""A source whose records and splits were checked, with its pixels in a cache: what tasks and the training loop see."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmark.data.geometry import Geometry
from benchmark.data.pixels import PixelCache
from benchmark.data.rows import split_digests
from benchmark.data.splits import check_records, nested_fraction, select
from benchmark.data.stamps import FileStamps, version_with_sizes
from benchmark.data.text import join_sections
from benchmark.types import InputSpec, Protocol, Record, Scalar, Source

if TYPE_CHECKING:
    from benchmark.context import Context


class Dataset:
    """Checked records of a source.

    Args:
        source: what reads the files.

    Raises:
        UserError: duplicate uids, a patient in two splits, or no rows.
    """

    def __init__(self, source: Source) -> None:
        check_records(source)
        self.source = source
        self.name = source.name
        self._stamps = FileStamps(source)
        self.version = version_with_sizes(source, self._stamps)
        self.classes = source.classes
        self.split = getattr(source, "split", "")  # NAME-DIGEST of a rule or list; empty: as the source splits
        self.notes: dict[str, Scalar] = {}
        if self.split:
            self.notes = {"split": self.split, "split_notes": "; ".join(getattr(source, "notes", ()))}
        self._caches: dict[InputSpec, PixelCache] = {}

    @property
    def synthetic(self) -> bool:
        """Whether it is drawn; texts and pixels of any other set must not leave it."""
        return "phantom" in self.source.flags

    @cached_property
    def splits(self) -> dict[str, str]:
        """The sha256 digest of each split's rows: uids, patients, views, labels, texts, boxes, mask names."""
        return split_digests(self.source.records)

    def rows(self, split: str, protocol: Protocol | None = None, fraction: float = 1.0, seed: int = 0) -> tuple[Record, ...]:
        """Records of a split in the order of uids, as a protocol selects views; a fraction is drawn by patient, nested."""
        records = select((record for record in self.source.records if record.split == split), protocol)
        return self.fraction(records, fraction, seed)

    @staticmethod
    def fraction(records: tuple[Record, ...], fraction: float, seed: int) -> tuple[Record, ...]:
        """The rows of a nested fraction of their patients; all of them at 1."""
        return nested_fraction(records, fraction, seed) if fraction < 1.0 else records

    def pixels(self, spec: InputSpec, context: Context) -> PixelCache:
        """The cache of decoded images at a method's size; what it lacks is decoded on first use, behind a progress bar."""
        if spec not in self._caches:
            self._caches[spec] = PixelCache.open(
                self.source, spec, context.cache, context.workers, context.progress, self._stamps
            )
        return self._caches[spec]

    def readable(
        self, records: Sequence[Record], spec: InputSpec, context: Context
    ) -> tuple[tuple[Record, ...], tuple[tuple[str, str], ...]]:
        """Records whose image could be decoded, and (uid, reason) of the others."""
        failed = self.pixels(spec, context).failed
        kept = tuple(record for record in records if record.uid not in failed)
        return kept, tuple((record.uid, failed[record.uid]) for record in records if record.uid in failed)

    def geometry(self, record: Record, spec: InputSpec, context: Context) -> Geometry:
        """How the original image lies on the method's canvas."""
        return self.pixels(spec, context).geometry(record.uid)

    def labels(self, records: Sequence[Record]) -> NDArray[np.float32]:
        """(N, K) float32: 1, 0, nan = unknown."""
        return np.array([record.labels for record in records], np.float32).reshape(len(records), len(self.classes))

    @staticmethod
    def texts(records: Sequence[Record], sections: Sequence[str]) -> tuple[str, ...]:
        """N texts, the named sections joined; empty where a record has none of them."""
        return tuple(join_sections(record.sections, sections) for record in records)
