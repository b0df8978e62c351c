"""The classes that a protocol asks about, of all that a data set has, and the rows that have exactly one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported
from benchmark.types import Protocol, Record


class OfClasses(Dataset):
    """A data set as if it had some of its classes alone, in the given order; pixels and everything else are shared.

    Raises:
        Unsupported: it lacks one of them.
    """

    def __init__(self, data: Dataset, protocol: Protocol) -> None:
        self.__dict__.update(data.__dict__)
        wanted = tuple(protocol.setting("classes").split(","))
        lacking = [name for name in wanted if name not in data.classes]
        if lacking:
            raise Unsupported(
                f"{protocol.name} needs the classes {', '.join(wanted)}, and {data.name} lacks {', '.join(lacking)}"
            )
        self._columns = [data.classes.index(name) for name in wanted]
        self.classes = wanted

    def rows(self, split: str, protocol: Protocol | None = None, fraction: float = 1.0, seed: int = 0) -> tuple[Record, ...]:
        """As Dataset's, with the labels of these classes."""
        found = super().rows(split, protocol, fraction, seed)
        return tuple(replace(record, labels=tuple(record.labels[place] for place in self._columns)) for record in found)


def of_protocol(data: Dataset, protocol: Protocol) -> Dataset:
    """The data set with the classes of the protocol, or as it is where the protocol takes all. Raises Unsupported."""
    return OfClasses(data, protocol) if "classes" in dict(protocol.settings) else data


def one_class_rows(data: Dataset, protocol: Protocol, split: str) -> tuple[Record, ...]:
    """The rows of a split that are positive for exactly one class; what is unknown counts as not positive.

    Args:
        data: with the classes of the protocol.
    """
    return tuple(record for record in data.rows(split, protocol) if record.labels.count(1.0) == 1)


def class_of(records: Sequence[Record]) -> NDArray[np.int64]:
    """(N,) the place of each row's one class."""
    return np.array([record.labels.index(1.0) for record in records], np.int64)
