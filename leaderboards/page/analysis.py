"""`<out>/analysis.json`: subgroups, calibration, and the ranks and differences that `rows.with_standings` joins to groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.store import ANALYSIS, ANALYSIS_SCHEMA, strict_json

_PARTS = ("subgroups", "calibration")


def read_analysis(out: Path) -> tuple[dict[str, Any] | None, str]:
    """The analysis of a folder, and why it cannot be shown; (None, "") where there is none: its panels are then left out."""
    path = out / ANALYSIS
    if not path.is_file():
        return None, ""
    try:
        found = read_json(path)
    except (OSError, ValueError, RecursionError):
        return None, "is not complete JSON; run `report` again"
    if not isinstance(found, dict) or found.get("schema") != ANALYSIS_SCHEMA:
        return None, f"is not an analysis of schema {ANALYSIS_SCHEMA}; run `report` again"
    if not isinstance(found.get("groups"), list) or not all(isinstance(found.get(name, {}), dict) for name in _PARTS):
        return None, "lacks its groups, or holds other things than the schema says; run `report` again"
    return found, ""


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError, ValueError (also for NaN and infinities) or RecursionError."""
    return strict_json(path.read_bytes().decode())


def of_entry(mapping: object, keys: tuple[str, ...]) -> tuple[Any, int]:
    """What is told about the first key that anything is told about, and its place; (None, 0) for none."""
    known = mapping if isinstance(mapping, dict) else {}
    return next(((known[key], place) for place, key in enumerate(keys) if key in known), (None, 0))
