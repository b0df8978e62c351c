"""Overlap of data sets: what is trained on one and tested on another."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.data.families import TAKEN_FROM, family, shared_families
from benchmark.types import Record, Source
from benchmark.verify.findings import Finding, found
from benchmark.verify.pixels import Scans, alike, pairs_named, usable

WITHOUT_PATIENTS = ("patients-unknown", "split-by-image")  # flags: a record's patient is its image
NIH = "chestxray14"


@dataclass(frozen=True, slots=True)
class Set:
    """A data set with what its images showed; no scans where no image was looked at."""

    name: str
    source: Source
    scans: Scans


def check_overlap(seen: Set, tested: Set) -> list[Finding]:
    """What a model that was pretrained on the training split of one set knows of val and test of another.

    Families are judged by name, patients by their ids where both sets number the same patients, images by their pixels.
    """
    between = f"{seen.name} -> {tested.name}"
    train = [record for record in seen.source.records if record.split == "train"]
    test = [record for record in tested.source.records if record.split != "train"]
    return [
        *found("patients-across-sets", between, _patients(seen, train, tested, test),
               f"patients of the training split of {seen.name} are in val or test of {tested.name}"),
        *_pictures(between, seen, train, tested, test),
    ]  # fmt: skip


def check_family(one: Set, other: Set) -> list[Finding]:
    """Two sets whose images are of one collection, whatever the disk holds."""
    shared = shared_families(one.source.name, other.source.name)
    if not shared:
        return []
    first, second = family(one.source.name), family(other.source.name)
    if first == second:
        why = f"both are {first}"
    else:
        taken = [f"{name} took images from {' and '.join(shared)}" for name in (first, second) if name in TAKEN_FROM]
        why = "; ".join(taken)
    return found("sets-of-one-family", f"{one.name} + {other.name}", [" and ".join(shared)], f"collection is in both: {why}")


def _patients(seen: Set, train: list[Record], tested: Set, test: list[Record]) -> list[str]:
    space = _numbering(seen.source)
    if not space or space != _numbering(tested.source):
        return []
    known = {_number(record.patient, space) for record in train}
    return list(dict.fromkeys(record.patient for record in test if _number(record.patient, space) in known))


def _numbering(source: Source) -> str:
    """Whose patient numbers a set uses; RSNA with its published mapping uses those of NIH, a set without patients none."""
    if {*WITHOUT_PATIENTS} & {*source.flags}:
        return ""
    named = family(source.name)
    return NIH if named == "rsna" else named


def _number(patient: str, space: str) -> str:
    return patient.lstrip("0") if space == NIH else patient  # 13 in one table, 00000013 in the other


def _pictures(between: str, seen: Set, train: list[Record], tested: Set, test: list[Record]) -> list[Finding]:
    train, test = usable(train, seen.scans), usable(test, tested.scans)
    first: dict[str, str] = {}
    for record in train:
        first.setdefault(seen.scans[record.uid].sha256, record.uid)
    equal = [f"{first[sha]} = {record.uid} ({record.split})" for record in test
             if (sha := tested.scans[record.uid].sha256) in first]  # fmt: skip
    near = pairs_named(alike(train, test, seen.scans, tested.scans))
    return [
        *found("pixels-across-sets", between, equal,
               f"images of val or test of {tested.name} have pixels of the training split of {seen.name}"),
        *found("near-duplicates-across-sets", between, near,
               f"pairs of training images of {seen.name} and images of val or test of {tested.name} look the same"),
    ]  # fmt: skip
