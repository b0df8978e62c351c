"""Sex, age and view of the test rows, once for each version and split of a data set, for subgroups. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmark.store import fingerprint, write
from benchmark.types import Record, RunSpec, canonical_json

SCHEMA = 1
Subjects = Mapping[str, Mapping[str, Any]]  # uid -> sex, age, view


def subjects_path(out: Path, spec: RunSpec | Mapping[str, Any]) -> Path:
    """Where the subjects of the test rows of a result lie, by what its spec says of its data."""
    read = spec.__getitem__ if isinstance(spec, Mapping) else spec.__getattribute__
    return out / "subjects" / f"{fingerprint([read('dataset'), read('dataset_version'), read('splits').get('test', '')])}.json"


def write_subjects(out: Path, spec: RunSpec, records: Iterable[Record]) -> None:
    """Writes what is known of the test rows, where anything is and the file is not there yet."""
    path = subjects_path(out, spec)
    rows = {
        record.uid: {"sex": record.sex, "age": record.age, "view": record.view}
        for record in records
        if record.sex or record.view or record.age is not None
    }
    if rows and not path.exists():
        about = {"schema": SCHEMA, "dataset": spec.dataset, "dataset_version": spec.dataset_version, "split": "test"}
        write(path, (canonical_json({**about, "rows": rows}) + "\n").encode())


def read_subjects(path: Path) -> Subjects:
    """uid -> sex, age, view; empty where there is no such file, or one of another schema."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or not isinstance(found.get("rows"), dict):
        return {}
    return {str(uid): row for uid, row in found["rows"].items() if isinstance(row, dict)}
