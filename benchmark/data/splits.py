"""Splits: checks, a source under another split, selection of rows by protocol, and nested fractions drawn by patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UserError
from benchmark.types import NOT_FRONTAL, SPLITS, Protocol, Record, Source, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What a split rule or a list makes of the images of a set.

    splits: uid -> train, val or test; images that are not there are left out. by_image: uids that count as patients, where a
    paper drew images and its splits share patients. empty: uids that a paper takes to have no box though none was annotated.
    roles: uid -> "candidate" and "query" (a class), attributes of a retrieval test; queries: (class, text) of those in words.
    notes: what a user must know, a sentence each.
    """

    splits: Mapping[str, str]
    by_image: frozenset[str] = frozenset()
    empty: frozenset[str] = frozenset()
    roles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    queries: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSource:
    """A source under another split: its own records, version and flags, the pixels of the source beneath. Made by `resplit`."""

    source: Source
    name: str
    version: str
    classes: tuple[str, ...]
    mask_names: tuple[str, ...]
    box_classes: tuple[str, ...]
    flags: tuple[str, ...]
    records: tuple[Record, ...]
    root: Path | None  # of the source beneath, if it lies on a disk
    split: str  # NAME-DIGEST
    notes: tuple[str, ...]
    queries: tuple[tuple[str, str], ...] = ()  # (class, text)

    def image(self, record: Record) -> NDArray[np.uint8]:
        """(H, W) uint8. Raises ImageError."""
        return self.source.image(record)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        """(H, W) uint8 of the image's size. Raises ImageError."""
        return self.source.mask(record, name)


def resplit(source: Source, drawn: Drawn, name: str) -> Source:
    """A source under a drawn split.

    Args:
        source: rows that the draw does not name are left out.
        drawn: of the whole set, whatever rows of it the source keeps.
        name: of the rule; with the digest of the draw it enters the version, so that results never mix.
    """

    from_boxes = getattr(source, "masks_from_boxes", False)

    def placed(record: Record) -> Record:
        uid = record.uid
        patient = uid if uid in drawn.by_image else record.patient
        clear = uid in drawn.empty and record.boxes is None
        boxes = () if clear else record.boxes
        masks = dict.fromkeys(source.mask_names, "boxes") if clear and from_boxes else record.masks
        attributes = {**record.attributes, **drawn.roles.get(uid, {})}
        return replace(record, split=drawn.splits[uid], patient=patient, boxes=boxes, masks=masks, attributes=attributes)

    flags = source.flags
    if drawn.by_image:
        flags = (*(flag for flag in flags if flag != "patients-unknown"), "split-by-image")
    facts: list[object] = [drawn.splits, sorted(drawn.by_image), sorted(drawn.empty)]
    split = f"{name}-{digest([*facts, drawn.roles, drawn.queries] if drawn.roles or drawn.queries else facts, 8)}"
    found = SplitSource(
        source=source, name=source.name, version=f"{source.version}+{split}", classes=source.classes,
        mask_names=source.mask_names, box_classes=source.box_classes, flags=flags, root=getattr(source, "root", None),
        records=tuple(placed(record) for record in source.records if record.uid in drawn.splits),
        split=split, notes=drawn.notes, queries=drawn.queries,
    )  # fmt: skip
    return cast(Source, found)


def check_records(source: Source) -> None:
    """Raises UserError for no rows, an unknown split, duplicate uids, or a patient in two splits."""
    if not source.records:
        raise UserError(f"dataset {source.name!r} has no rows; check its location and --where")
    uids = Counter(record.uid for record in source.records)
    twice = [uid for uid, count in uids.items() if count > 1]
    if twice:
        raise UserError(f"dataset {source.name!r} has {len(twice)} duplicate ids, the first is {twice[0]!r}; make them unique")
    homes: dict[str, str] = {}
    for record in source.records:
        if record.split not in SPLITS:
            raise UserError(f"record {record.uid!r} has split {record.split!r}; use train, val or test")
        if homes.setdefault(record.patient, record.split) != record.split:
            raise UserError(
                f"patient {record.patient!r} of dataset {source.name!r} is in two splits, {homes[record.patient]} and "
                f"{record.split}; give all images of a patient the same split"
            )


def select(records: Iterable[Record], protocol: Protocol | None) -> tuple[Record, ...]:
    """Records in the order of uids; a protocol may leave out lateral views and keep one image a study."""
    chosen = sorted(records, key=lambda record: record.uid)
    if protocol is None:
        return tuple(chosen)
    if protocol.views == "frontal":
        chosen = [record for record in chosen if record.view not in NOT_FRONTAL]
    if protocol.one_per_study:
        first: dict[str, Record] = {}
        for record in chosen:
            first.setdefault(record.study, record)
        chosen = list(first.values())
    return tuple(chosen)


def nested_fraction(records: Sequence[Record], fraction: float, seed: int) -> tuple[Record, ...]:
    """Rows of the first fraction of the patients in a seeded order, at least one: a smaller fraction is a subset.

    A patient's place depends on the seed and its own id alone, so that other rows do not move it.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"label fraction {fraction} is not in (0, 1]")
    patients = sorted({record.patient for record in records}, key=lambda patient: digest([seed, patient], 32))
    kept = set(patients[: max(1, ceil(round(fraction * len(patients), 6)))])
    return tuple(record for record in records if record.patient in kept)
