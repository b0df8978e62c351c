"""Manifests: the records of a source as a checked table, one Parquet file that says by itself what it is.

One row a Record, in the order of the source. What is unknown is null: a label, boxes of an image that nobody annotated, an
age. The schema's metadata holds the data set, the version that was found, classes, names of masks and boxes, flags, a digest
of each split (the one that results carry, `Dataset.splits`) and a digest of everything; reading compares them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from json import loads
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark import store
from benchmark.data.rows import digests
from benchmark.errors import UserError
from benchmark.types import Box, Record, Source, canonical_json, digest

FORMAT = 1  # bumped when columns or metadata change
GROUP = 65_536  # rows written and read at once
KEY = b"benchmark"  # of the schema's metadata
_TEXT = pa.map_(pa.string(), pa.string())
_BOX = pa.struct([("label", pa.string()), *((corner, pa.float64()) for corner in ("x0", "y0", "x1", "y1"))])
_COLUMNS: dict[str, pa.DataType] = {
    "uid": pa.string(), "patient": pa.string(), "study": pa.string(), "split": pa.string(), "image": pa.string(),
    "view": pa.string(), "sections": _TEXT, "labels": pa.list_(pa.float32()), "boxes": pa.list_(_BOX), "masks": _TEXT,
    "age": pa.float64(), "sex": pa.string(), "attributes": _TEXT,
}  # fmt: skip
_MAPS = ("sections", "masks", "attributes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a manifest says of its records; the fields of a `Source`, and digests of 16 hexadecimal digits.

    splits: of each split's canonical rows, as in results. digest: of every field of every record and of the facts above it.
    """

    dataset: str
    version: str
    classes: tuple[str, ...]
    mask_names: tuple[str, ...]
    box_classes: tuple[str, ...]
    flags: tuple[str, ...]
    splits: dict[str, str]
    digest: str
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `read_manifest` found: facts and records."""

    facts: Facts
    records: tuple[Record, ...]


def write_manifest(source: Source, path: Path) -> Facts:
    """Writes the records of a source, whole or not at all; the same records give the same bytes with the same pyarrow.

    Raises:
        UserError: a label that 32 bits do not hold, text that is not Unicode, a number that is not finite, or a folder that
            cannot be written.
    """
    for record in source.records:
        if not {*record.labels}.issubset((0.0, 1.0)) and any(map(_rounded, record.labels)):
            raise UserError(f"record {record.uid!r} has the labels {record.labels}, which 32 bits do not hold; use 0 and 1")
    try:
        splits, rows = digests(source.records)
        facts = Facts(
            dataset=source.name, version=source.version, classes=tuple(source.classes), mask_names=tuple(source.mask_names),
            box_classes=tuple(source.box_classes), flags=tuple(source.flags), splits=splits, digest="",
        )  # fmt: skip
        facts = replace(facts, digest=_digest(facts, rows))
        store.write(path, _parquet(facts, source.records))
    except ValueError as error:  # of the digests, before anything is written
        reason = "text that is not Unicode" if isinstance(error, UnicodeEncodeError) else "a number that is not finite"
        raise UserError(f"a record of {source.name!r} holds {reason}, which no manifest can; correct it") from error
    return facts


def read_manifest(path: Path) -> Manifest:
    """The records of a manifest, equal to those that were written.

    Raises:
        UserError: it cannot be read, is not a manifest of this format, or was altered: a digest differs.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            facts = _facts(loads((file.schema_arrow.metadata or {}).get(KEY, b"null")))
            records = tuple(record for batch in file.iter_batches(GROUP) for record in _records(batch))
    except FileNotFoundError as error:
        raise UserError(f"there is no manifest {path}; `verify` writes one") from error
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} is not a manifest that can be read ({reason}); write it again by `verify`") from error
    splits, rows = digests(records)
    if facts.splits != splits or facts.digest != _digest(facts, rows):
        raise UserError(
            f"{path} was altered: its records are not those of its digest {facts.digest}; write it again by `verify`"
        )
    return Manifest(facts, records)


def _parquet(facts: Facts, records: Sequence[Record]) -> bytes:
    schema = pa.schema(list(_COLUMNS.items()), metadata={KEY: canonical_json(facts)})
    buffer = io.BytesIO()
    options = {"compression": "zstd", "write_page_checksum": True, "write_statistics": False}  # those would repeat texts
    with pq.ParquetWriter(buffer, schema, **options) as writer:
        for start in range(0, len(records), GROUP):
            writer.write_table(_table(records[start : start + GROUP], schema))
    return buffer.getvalue()


def _rounded(label: float) -> bool:
    return label == label and float(np.float32(label)) != label


def _digest(facts: Facts, rows: str) -> str:
    """Of the digest of all rows and of every other fact."""
    return digest([rows, replace(facts, digest="")])


def _facts(value: Any) -> Facts:
    if not isinstance(value, dict) or value.get("format") != FORMAT or set(value) != {item.name for item in fields(Facts)}:
        raise ValueError(f"no metadata of format {FORMAT}")
    facts: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    return Facts(**facts)


def _table(records: Sequence[Record], schema: pa.Schema) -> pa.Table:
    columns: dict[str, list[object]] = {
        name: [getattr(record, name) for record in records] for name in _COLUMNS if name not in (*_MAPS, "labels", "boxes")
    }
    for name in _MAPS:
        columns[name] = [sorted(getattr(record, name).items()) for record in records]
    columns["labels"] = [[None if label != label else label for label in record.labels] for record in records]
    columns["boxes"] = [
        None if record.boxes is None else [(box.label, box.x0, box.y0, box.x1, box.y1) for box in record.boxes]
        for record in records
    ]
    return pa.table({name: pa.array(columns[name], kind) for name, kind in _COLUMNS.items()}, schema=schema)


def _records(batch: pa.RecordBatch) -> Iterator[Record]:
    if {field.name: field.type for field in batch.schema} != _COLUMNS:
        raise ValueError("other columns")
    columns = {name: batch.column(name) for name in _COLUMNS}
    plain = ("uid", "patient", "study", "split", "image", "view", "age", "sex")
    values: dict[str, Any] = {name: columns[name].to_pylist() for name in plain}
    values |= {name: _maps(columns[name]) for name in _MAPS}
    values["labels"] = _labels(columns["labels"])
    values["boxes"] = [
        None if boxes is None else tuple(Box(**box) for box in boxes) for boxes in columns["boxes"].to_pylist()
    ]  # fmt: skip
    for row in zip(*values.values(), strict=True):
        yield Record(**dict(zip(values, row)))


def _maps(column: pa.MapArray) -> Iterator[dict[str, str]]:
    """A dict a row; by the flat arrays, as to_pylist of a map is many times slower."""
    offsets, keys, items = column.offsets.to_pylist(), column.keys.to_pylist(), column.items.to_pylist()
    for start, end in pairwise(offsets):
        yield dict(zip(keys[start:end], items[start:end], strict=True))


def _labels(column: pa.ListArray) -> Iterator[tuple[float, ...]]:
    """A tuple a row, null as nan; equal ones are one object, as there are few."""
    offsets = column.offsets.to_pylist()
    flat = [math.nan if value is None else value for value in column.values.to_pylist()]
    known: dict[str, tuple[float, ...]] = {}
    for start, end in pairwise(offsets):
        row = tuple(flat[start:end])
        yield known.setdefault(repr(row), row)
