"""A batch by pieces of its rows: the terms and gradients of the whole, with the memory of a piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.parts import Part, Tensors, count_rows, is_separable, take_rows
from benchmark.types import Recipe


@dataclass(frozen=True, slots=True)
class Pieces:
    """How a part is computed.

    Args:
        size: rows of a piece. autocast: mixed precision. backward: of a total, scaled where it has to be.
        drawing: a context with the random stream of the piece that begins at a row, the same each time: dropout.
    """

    size: int
    autocast: Callable[[], AbstractContextManager[object]]
    backward: Callable[[Tensor], None]
    drawing: Callable[[int], AbstractContextManager[object]]

    def run(self, part: Part) -> Tensors:
        """Leaves the gradients of the part's total and gives its terms, detached."""
        rows = count_rows(part.rows)
        places = [slice(start, min(start + self.size, rows)) for start in range(0, rows, self.size)]
        if len(places) == 1:
            return self._whole(part, places[0])
        return self._added(part, places, rows) if part.additive else self._cached(part, places)

    def _whole(self, part: Part, place: slice) -> Tensors:
        embedded = self._embed(part, place)
        with self.autocast():
            terms = part.compare(embedded)
        self.backward(terms["total"])
        return {name: value.detach() for name, value in terms.items()}

    def _embed(self, part: Part, place: slice) -> Tensors:
        with self.drawing(place.start), self.autocast():
            return part.embed(*take_rows(part.rows, place))

    def _added(self, part: Part, places: list[slice], rows: int) -> Tensors:
        """One pass: each piece with zeros in place of the other rows, and the terms added."""
        found: dict[str, Tensor] = {}
        for place in places:
            placed = {name: _placed(item, place, rows) for name, item in self._embed(part, place).items()}
            with self.autocast():
                terms = part.compare(placed)
            self.backward(terms["total"])
            for name, value in terms.items():
                found[name] = found[name] + value.detach() if name in found else value.detach()
        return found

    def _cached(self, part: Part, places: list[slice]) -> Tensors:
        """Two passes (GradCache; Gao et al. 2021, arXiv 2101.06983, section 3.2).

        All rows are embedded without a graph; the loss of what came gives each row its gradient; then pieces are embedded
        again, with a graph, and take the gradients of their rows.
        """
        with torch.no_grad():
            pieces = [self._embed(part, place) for place in places]
        leaves = {name: _joined([piece[name] for piece in pieces]) for name in pieces[0]}
        del pieces
        for item in leaves.values():
            item.requires_grad_(item.is_floating_point())
        with self.autocast():
            terms = part.compare(leaves)
        self.backward(terms["total"])
        found = {name: value.detach() for name, value in terms.items()}
        del terms
        wanted = {name: item.grad for name, item in leaves.items() if item.grad is not None}
        for place in places:
            again = self._embed(part, place)
            names = [name for name in wanted if again[name].requires_grad]
            torch.autograd.backward(
                [again[name] for name in names], [_fitted(wanted[name][place], again[name]) for name in names]
            )
            del again
        return found


def require_parts(method: Any, recipe: Recipe) -> None:
    """Raises UserError for a recipe of pieces and a method whose loss has no parts."""
    if recipe.micro_batch and not is_separable(method):
        raise UserError(
            f"micro_batch={recipe.micro_batch}: the loss of {method.name} comes as a whole, without `parts` "
            "(benchmark.parts); leave it 0, or use gradient_checkpointing=true"
        )


def _placed(item: Tensor, place: slice, rows: int) -> Tensor:
    """Rows at their place among as many; the others are 0."""
    before, after = item.new_zeros(place.start, *item.shape[1:]), item.new_zeros(rows - place.stop, *item.shape[1:])
    return torch.cat([before, item, after])


def _joined(items: list[Tensor]) -> Tensor:
    """Rows of all pieces, with zeros where another piece is longer."""
    shape = [max(sizes) for sizes in zip(*(item.shape[1:] for item in items))]
    found = items[0].new_zeros(sum(map(len, items)), *shape)
    start = 0
    for item in items:
        found[(slice(start, start + len(item)), *(slice(size) for size in item.shape[1:]))] = item
        start += len(item)
    return found


def _fitted(gradient: Tensor, item: Tensor) -> Tensor:
    return gradient[tuple(slice(size) for size in item.shape)]


@contextmanager
def no_batch_norm(method: nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, a batch norm in training raises UserError: the statistics of a piece are not those of the batch."""

    def refuse(module: nn.Module, inputs: object) -> None:
        if module.training:
            raise UserError(
                "micro_batch: this encoder has batch norm, whose statistics are those of all rows at once; leave it 0 and use "
                "gradient_checkpointing=true, or choose an encoder without batch norm, such as image_encoder=vit"
            )

    norms = [item for item in method.modules() if isinstance(item, nn.modules.batchnorm._BatchNorm)] if wanted else []
    handles = [item.register_forward_pre_hook(refuse) for item in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
