"""A step's backward passes, cut where rows of a batch meet: what lets a batch be computed by pieces, and equal the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

from torch import Tensor

from benchmark.types import Batch, Step

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Part:
    """One backward pass of a step.

    Args:
        rows: what `embed` reads: tensors (B, ...), and tuples and dataclasses of them. Whatever is random is drawn for them
            before, on all rows, so that no piece changes it.
        embed: the same of any rows (b, ...) -> tensors (b, ...) by name. No row may depend on another: no batch norm.
        compare: the tensors of all B rows -> scalar terms, "total" among them. Cheap beside `embed`.
        additive: the terms of all rows are the sums of those of each piece, with zeros in place of the others.
    """

    rows: tuple[Any, ...]
    embed: Callable[..., Tensors]
    compare: Callable[[Tensors], Tensors]
    additive: bool = False

    def terms(self) -> Tensors:
        """All rows at once."""
        return self.compare(self.embed(*self.rows))


class Separable(Protocol):
    """The capability that large batches on small cards and dropout in several processes need: a loss in parts."""

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """Yields a part for each backward pass, as `loss` yields terms."""
        ...


class ByParts:
    """A method whose loss is that of its parts."""

    def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
        """As Separable."""
        raise NotImplementedError

    def loss(self, batch: Batch, step: Step) -> Iterator[Tensors]:
        """One mapping of scalar terms with total for each part."""
        for part in self.parts(batch, step):
            yield part.terms()


def is_separable(method: object) -> bool:
    """Whether a method's loss is that of its parts: it has some, and no subclass behind them gives another loss."""
    kinds = (vars(method), *map(vars, type(method).__mro__))
    place = {name: next((n for n, kind in enumerate(kinds) if name in kind), len(kinds)) for name in ("loss", "parts")}
    return place["parts"] < len(kinds) and place["parts"] <= place["loss"]


def take_rows(value: Any, place: slice) -> Any:
    """The rows of every tensor in a tuple or a dataclass; anything else as it is."""
    if isinstance(value, Tensor):
        return value[place]
    if isinstance(value, tuple):
        return tuple(take_rows(item, place) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{item.name: take_rows(getattr(value, item.name), place) for item in fields(value)})
    return value


def count_rows(value: Any) -> int:
    """Of the first tensor in rows of a part."""
    while not isinstance(value, Tensor):
        value = value[0] if isinstance(value, tuple) else getattr(value, fields(value)[0].name)
    return len(value)
