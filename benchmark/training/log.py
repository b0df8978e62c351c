"""log.jsonl: a line a step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark import store
from benchmark.errors import UserError


class StepLog:
    """Appends lines; those of steps that will be done again are dropped first.

    Args:
        done: steps that are done.
    """

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        store.write(path, "".join(f"{line}\n" for line in lines[:done]).encode())

    def append(self, values: Mapping[str, Any]) -> None:
        """Writes one line. Raises UserError if it cannot be written, ValueError for NaN."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values, allow_nan=False) + "\n")
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror}); free space, or choose another --out") from error
