"""Records as canonical rows, and their digests: what splits in results and manifests are known by."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from json import JSONEncoder

from benchmark.types import SPLITS, Record, plain

_ENCODE = JSONEncoder(  # as types.canonical_json, which looks into every value first and takes six times as long
    sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False, default=plain
).encode


def canonical_row(record: Record) -> list[object]:
    """What decides a score of a record, as JSON can write it: ids, view, image, texts, labels, boxes, masks; not its split."""
    labels = [None if value != value else value for value in record.labels]  # nan is not JSON
    boxes = None if record.boxes is None else [(box.label, box.x0, box.y0, box.x1, box.y1) for box in record.boxes]
    return [
        record.uid, record.patient, record.study, record.view, record.image, dict(record.sections), labels, boxes,
        dict(record.masks),
    ]  # fmt: skip


def split_digests(records: Iterable[Record]) -> dict[str, str]:
    """The sha256 digest, 16 hexadecimal digits, of the canonical rows of each of SPLITS in their order."""
    return digests(records)[0]


def digests(records: Iterable[Record]) -> tuple[dict[str, str], str]:
    """`split_digests`, and the digest of every field of all records."""
    splits, everything = {split: _List() for split in SPLITS}, _List()
    for record in records:
        row = _ENCODE(canonical_row(record)).encode()
        if record.split in splits:
            splits[record.split].add(row)
        everything.add(row)
        everything.add(_ENCODE([record.split, record.age, record.sex, dict(record.attributes)]).encode())
    return {split: found.digest() for split, found in splits.items()}, everything.digest()


class _List:
    """`types.digest` of a list that grows, without the text of all of it in memory."""

    def __init__(self) -> None:
        self._found, self._separator = sha256(), b"["

    def add(self, item: bytes) -> None:
        self._found.update(self._separator + item)
        self._separator = b","

    def digest(self) -> str:
        whole = self._found.copy()
        whole.update(b"[]" if self._separator == b"[" else b"]")
        return whole.hexdigest()[:16]
