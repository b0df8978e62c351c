"""The record of measurements: JSON that grows by a row as soon as it is measured, with Markdown and a figure beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import store
from benchmark.efficiency.figure import figure
from benchmark.efficiency.jobs import Job
from benchmark.efficiency.table import markdown
from benchmark.errors import UserError
from benchmark.types import plain

SAME = ("machine", "gpu", "torch", "cuda", "threads")  # what rows of one record must share


class Record:
    """A file of measured rows, each with its job and the key of it.

    Args:
        path: FILE.json; None keeps the rows in memory. environment: of this process, as `repro.environment` gives it.

    Raises:
        UserError: a file that is no record, or one of another machine or other versions: figures of two are never mixed.
    """

    def __init__(self, path: Path | None, command: str, environment: Mapping[str, str]) -> None:
        self.path = path
        self.content: dict[str, Any] = {"command": command, "environment": dict(environment), "rows": []}
        if path is not None and path.suffix != ".json":
            raise UserError(f"--record {path} must end in .json; the table and the figure are written beside it")
        if path is not None and path.exists():
            self.content["rows"] = _rows(path, environment)

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """The rows so far, as JSON has them."""
        return list(self.content["rows"])

    def row(self, job: Job) -> Mapping[str, Any] | None:
        """The row of a job that was measured before; one that failed is tried again."""
        return next((row for row in self.content["rows"] if row["key"] == job.key and "error" not in row), None)

    def add(self, job: Job, row: object) -> Mapping[str, Any]:
        """Adds a measured row in the place of an older one of the same job, and writes the files."""
        commit = self.content["environment"].get("commit", "")
        added = {**plain(row), "key": job.key, "job": plain(job), "commit": commit}
        kept = [item for item in self.content["rows"] if item["key"] != job.key]
        self.content["rows"] = [*kept, added]
        self.write()
        return added

    def write(self) -> tuple[Path, ...]:
        """Writes FILE.json, FILE.md and, where something was measured, FILE.svg; returns the paths."""
        if self.path is None:
            return ()
        store.write_json(self.path, self.content)
        picture = self.path.with_suffix(".svg")
        measured = any("error" not in row for row in self.content["rows"])
        if measured:
            store.write(picture, figure(self.content["rows"]))
        page = self.path.with_suffix(".md")
        store.write(page, markdown(self.content, picture.name if measured else "").encode())
        return (self.path, page, picture) if measured else (self.path, page)


def _rows(path: Path, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text())
        found, rows = content["environment"], content["rows"]
        rows = [row for row in rows if row["key"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a record of `efficiency`; give --record another name") from error
    other = [name for name in SAME if found.get(name) != environment.get(name)]
    if other:
        raise UserError(
            f"{path} was measured with {other[0]} {found.get(other[0])}, and this is {environment.get(other[0])}; "
            "give --record another name"
        )
    return rows


def ordered(rows: Sequence[Mapping[str, Any]], jobs: Sequence[Job]) -> list[Mapping[str, Any]]:
    """The rows of the jobs, in their order."""
    by_key = {row["key"]: row for row in rows}
    return [by_key[job.key] for job in jobs if job.key in by_key]
