"""Reads result files and says which of them can be shown: required keys and types, checked without a library.

`result.schema.json` says the same in JSON Schema (draft 2020-12), for others and for the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn

SCHEMA = 1
STATUSES = ("ok", "failed", "unsupported", "unavailable")

# Exact types: a bool is no int here. A whole number may stand where a float is meant.
_TEXT = (str,)
_WHOLE = (int,)
_NUMBER = (int, float)
_NUMBER_OR_NONE = (int, float, NoneType)
_MAPPING = (dict,)
_LIST = (list,)
_FLAG = (bool,)

Shape = Mapping[str, tuple[type, ...]]

RESULT: Shape = {
    "key": _TEXT,
    "status": _TEXT,
    "spec": _MAPPING,
    "title": _TEXT,
    "role": _TEXT,
    "primary": _TEXT,
    "higher_is_better": _FLAG,
    "metrics": _MAPPING,
    "n_expected": _WHOLE,
    "n_used": _WHOLE,
    "skipped": _LIST,
    "cost": _MAPPING,
    "pretraining": (dict, NoneType),
    "environment": _MAPPING,
    "flags": _LIST,
    "notes": _MAPPING,
    "predictions": _TEXT,
    "error": (str, NoneType),
    "command": _TEXT,
    "started": _TEXT,
    "finished": _TEXT,
    "schema": _WHOLE,
}
SPEC: Shape = {
    "method": _TEXT,
    "method_version": _WHOLE,
    "config": _MAPPING,
    "weights": _TEXT,
    "task": _TEXT,
    "task_version": _WHOLE,
    "protocol": _TEXT,
    "protocol_hash": _TEXT,
    "dataset": _TEXT,
    "dataset_version": _TEXT,
    "splits": _MAPPING,
    "label_fraction": _NUMBER,
    "seed": _WHOLE,
    "eval_seed": _WHOLE,
    "precision": _TEXT,
}
METRIC: Shape = {"value": _NUMBER_OR_NONE, "low": _NUMBER_OR_NONE, "high": _NUMBER_OR_NONE, "n": _WHOLE}
COST: Shape = {
    "seconds": _MAPPING,
    "images_per_second": _NUMBER_OR_NONE,
    "step_seconds": _NUMBER_OR_NONE,
    "peak_allocated_mib": _NUMBER_OR_NONE,
    "peak_reserved_mib": _NUMBER_OR_NONE,
    "peak_device_mib": _NUMBER_OR_NONE,
    "peak_host_mib": _NUMBER_OR_NONE,
    "params": (int, NoneType),
    "gmacs": _NUMBER_OR_NONE,
    "batch_size": (int, NoneType),
    "device": _TEXT,
}
_LARGEST = 1e300  # JSON knows larger numbers; sums and ratios of them are not finite


def load(folder: Path) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Every result of a folder, and (path, one sentence) for every file that cannot be shown.

    Args:
        folder: `<out>/results`, one <key>.json a cell; a folder that is not there holds no result. Temporary files
            of a write that was cut short (*.tmp-*) are passed over. Of two files with one key that of its name is shown.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    refused: list[tuple[str, str]] = []
    for path in sorted(folder.glob("*.json")):
        if ".tmp-" in path.name:
            continue
        result, reason = _read(path)
        if result is None:
            refused.append((str(path), reason))
            continue
        key = result["key"]
        if key in found and path.stem != key:
            refused.append((str(path), _copy(result, found[key][1])))
            continue
        if key in found:
            refused.append((str(found[key][0]), _copy(found[key][1], result)))
        found[key] = path, result
    return [result for _, result in found.values()], refused


def _copy(copy: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    content = "the same content as" if copy == shown else "other content than"
    return f"has the key {shown['key']!r} of another file and {content} it; remove the copy"


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        result = json.loads(path.read_bytes().decode(), parse_constant=_refuse)
    except OSError as error:
        return None, f"cannot be read ({error.strerror}); check its permissions"
    except (ValueError, RecursionError):
        return None, "is not complete JSON, perhaps half-written; remove it and run the cell again"
    reason = fault(result)
    return (None, reason) if reason else (result, "")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def fault(result: object) -> str | None:
    """The first thing that keeps a parsed JSON file from being a result of this schema, in words; None if there is none."""
    if not isinstance(result, dict):
        return "is not a JSON object; a result is one object with the fields of RunResult"
    version = result.get("schema")
    if type(version) is int and version != SCHEMA:
        return f"has schema {version}, this version reads schema {SCHEMA}; run the cell again or use the version that wrote it"
    return _unusable(result) or _of_shape(result, RESULT, "result") or _values(result)


def _unusable(result: Mapping[str, Any]) -> str | None:
    """A number too large for a computation (1e999 is JSON, and is read as infinity), anywhere in a result."""
    waiting: list[tuple[str, Any]] = list(result.items())
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, dict):
            waiting += [(name, part) for part in item.values()]
        elif isinstance(item, list):
            waiting += [(name, part) for part in item]
        elif isinstance(item, int | float) and not abs(item) < _LARGEST:
            return f"has a number that is not finite or of more than 300 digits in {name}; an undefined number is null"
    return None


def _encodable(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _of_shape(mapping: Mapping[str, Any], shape: Shape, where: str) -> str | None:
    if mapping.keys() != shape.keys():
        missing = sorted(shape.keys() - mapping.keys())
        if missing:
            return f"lacks {', '.join(missing)} in {where}; run the cell again"
        return f"has the unknown fields {sorted(mapping.keys() - shape.keys())} in {where}; run the cell again"
    for name, types in shape.items():
        item = mapping[name]
        if type(item) not in types:
            return f"has a {type(item).__name__} as {where}.{name}; run the cell again"
    return None


def _values(result: Mapping[str, Any]) -> str | None:
    if result["status"] not in STATUSES:
        return f"has the unknown status {result['status']!r}; known: {', '.join(STATUSES)}"
    if result["role"] not in ("method", "reference"):
        return f"has the unknown role {result['role']!r}; known: method, reference"
    if not all(type(flag) is str for flag in result["flags"]):
        return "has a flag that is not text; run the cell again"
    if not all(type(item) is list and [type(part) for part in item] == [str, str] for item in result["skipped"]):
        return "has a skipped row that is not a pair of uid and reason; run the cell again"
    return _first(_parts(result)) or _primary(result)


def _parts(result: Mapping[str, Any]) -> Iterable[str | None]:
    spec = result["spec"]
    yield _of_shape(spec, SPEC, "spec")
    yield None if _encodable(json.dumps(spec, ensure_ascii=False)) else "has text in spec that is no Unicode (half a character)"
    yield None if all(type(item) is str for item in spec["splits"].values()) else "has a split digest that is not text in spec"
    for name in ("cost", "pretraining"):
        if (cost := result[name]) is not None:
            yield _of_shape(cost, COST, name)
            numbers = all(type(item) in _NUMBER for item in cost["seconds"].values())
            yield None if numbers else f"has a duration that is not a number in {name}.seconds; run the cell again"
    for name, metric in result["metrics"].items():
        yield _metric(metric, f"metrics[{name!r}]")


def _metric(metric: object, where: str) -> str | None:
    if type(metric) is not dict:
        return f"has no value in {where}"
    found = _of_shape(metric, METRIC, where)
    if found is None and (metric["low"] is None) != (metric["high"] is None):
        return f"has half an interval in {where}: low and high are both numbers or both null; run the cell again"
    return found


def _primary(result: Mapping[str, Any]) -> str | None:
    if result["status"] == "ok" and result["primary"] not in result["metrics"]:
        return f"has status ok without its primary metric {result['primary']!r}; run the cell again"
    return None


def _first(faults: Iterable[str | None]) -> str | None:
    return next((item for item in faults if item), None)
