"""A runner that takes results which other processes left."""

from __future__ import annotations

from benchmark.data.dataset import Dataset
from benchmark.plan import Cell, refusal
from benchmark.runner import Runner


class Collecting(Runner):
    """Plans as every runner; cells are run elsewhere."""

    def collect(self, cell: Cell, data: Dataset, ending: str = "") -> None:
        """Takes the result of a cell from the store, and makes its reference rows.

        Args:
            ending: how the process of the cell ended where it was not in order; a cell without a result then failed by it.
        """
        finished = self._finished(cell)
        if finished is not None:
            self._take(cell, finished, data)
            return
        reason = refusal(cell, data)
        stored = None if ending else self.store.read(cell.spec.key)
        if reason is not None:
            self._keep(self._result(cell, reason[0], error=reason[1]))
        elif stored is not None:
            self._keep(stored, save=False)
        else:
            self._keep(self._result(cell, "failed", error=ending or "its process left no result"))
