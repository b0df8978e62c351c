"""Checks of records alone: ids, splits, patients, labels, boxes, age, sex, and counts against the published ones."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from benchmark.types import SPLITS, Box, Record, Source
from benchmark.verify.findings import Finding, found

OLDEST = 120  # years
SEXES = ("F", "M", "")
_NO_STRUCTURE = ("", "empty")  # references of masks that say that nothing is there


def counts(source: Source) -> dict[str, int]:
    """What a source holds, by the names that `known_counts` of a source uses.

    images, patients, studies, reports (studies with any text), boxes, images with boxes, images with masks (left out are those
    of which the table says that nothing is in them), positive/CLASS (images with label 1), images/SPLIT, official/NAME
    (images whose attribute official_split is NAME).
    """
    records = source.records
    boxed = [len(record.boxes) for record in records if record.boxes]
    named: Counter[str] = Counter()
    for record in records:
        named.update(f"positive/{name}" for name, label in zip(source.classes, record.labels) if label == 1)
        named[f"images/{record.split}"] += 1
        if "official_split" in record.attributes:
            named[f"official/{record.attributes['official_split']}"] += 1
    zeros = dict.fromkeys([*(f"images/{split}" for split in SPLITS), *(f"positive/{name}" for name in source.classes)], 0)
    return {
        "images": len(records),
        "patients": len({record.patient for record in records}),
        "studies": len({record.study for record in records}),
        "reports": len({record.study for record in records if any(text.strip() for text in record.sections.values())}),
        "boxes": sum(boxed),
        "images with boxes": len(boxed),
        "images with masks": sum(any(says(record, name, source) is not False for name in record.masks) for record in records),
        **(zeros | named),
    }


def says(record: Record, name: str, source: Source) -> bool | None:
    """Whether a mask shows something by its reference, or the label or boxes of its name; None: the table does not say."""
    if record.masks[name] in _NO_STRUCTURE:
        return False
    if name in source.classes and len(record.labels) == len(source.classes):
        label = record.labels[source.classes.index(name)]
        return bool(label) if label in (0.0, 1.0) else None
    if name in source.box_classes and record.boxes is not None:
        return any(box.label == name for box in record.boxes)
    return None


def differing_counts(dataset: str, found_counts: Mapping[str, int], known: Mapping[str, int]) -> list[Finding]:
    """Counts that are not the published ones."""
    wrong = [f"{name} {found_counts.get(name, 0):,} of {number:,}" for name, number in known.items()
             if found_counts.get(name, 0) != number]  # fmt: skip
    return found("count-differs", dataset, wrong, "counts are not the published ones")


def check_identity(dataset: str, records: Sequence[Record]) -> list[Finding]:
    """Ids, names of splits, patients in several splits, studies of several patients."""
    uids = Counter(record.uid for record in records)
    homes: dict[str, set[str]] = defaultdict(set)
    owners: dict[str, set[str]] = defaultdict(set)
    for record in records:
        homes[record.patient].add(record.split)
        owners[record.study].add(record.patient)
    odd = [f"{record.uid} ({record.split!r})" for record in records if record.split not in SPLITS]
    shared = [f"{name} ({', '.join(sorted(splits))})" for name, splits in homes.items() if len(splits & {*SPLITS}) > 1]
    mixed = [f"{name} ({', '.join(sorted(names))})" for name, names in owners.items() if len(names) > 1]
    return [
        *found("uid-twice", dataset, [uid for uid, count in uids.items() if count > 1], "ids name several images"),
        *found("split-unknown", dataset, odd, "images are in a split that is none"),
        *found("patient-across-splits", dataset, shared, "patients are in several splits"),
        *found("study-of-two-patients", dataset, mixed, "studies are of several patients"),
    ]


def check_labels(dataset: str, source: Source) -> list[Finding]:
    """Values, lengths, and classes that lack a positive or a negative in a split."""
    classes = source.classes
    lengths = [record.uid for record in source.records if len(record.labels) != len(classes)]
    values = [record.uid for record in source.records if not all(x in (0.0, 1.0) or math.isnan(x) for x in record.labels)]
    one_sided = []
    for split in SPLITS:
        rows = [record.labels for record in source.records if record.split == split and len(record.labels) == len(classes)]
        for name, column in zip(classes, zip(*rows)):
            lacking = [word for value, word in ((1.0, "positive"), (0.0, "negative")) if value not in column]
            one_sided += [f"{name} in {split} (no {' and no '.join(lacking)})"] if lacking else []
    return [
        *found("label-length", dataset, lengths, f"images do not have one label for each of {len(classes)} classes"),
        *found("label-value", dataset, values, "images have a label other than 1, 0 and unknown"),
        *found("class-one-sided", dataset, one_sided, "classes lack a positive or a negative in a split"),
    ]


def check_boxes(dataset: str, source: Source, sizes: Mapping[str, tuple[int, int]]) -> list[Finding]:
    """Boxes without area, beyond the edge, or of another label.

    Args:
        dataset: its name.
        source: records and box classes.
        sizes: uid -> (height, width) in pixels of decoded images; of others only the left and upper edges are known.
    """
    flat, out, labels = [], [], []
    farthest = 0.0
    for record in source.records:
        for box in record.boxes or ():
            where = f"{record.uid} ({box.label})"
            if box.label not in source.box_classes:
                labels.append(where)
            if not (box.x1 > box.x0 and box.y1 > box.y0):  # a corner that is nan as well
                flat.append(where)
            elif (beyond := _beyond(box, sizes.get(record.uid))) > 0:
                out.append(where)
                farthest = max(farthest, beyond)
    return [
        *found("box-label", dataset, labels, "boxes have a label that is no box class"),
        *found("box-without-area", dataset, flat, "boxes have no area"),
        *found("box-outside", dataset, out, f"boxes leave their image, by up to {farthest:g} pixels"),
    ]


def _beyond(box: Box, size: tuple[int, int] | None) -> float:
    height, width = size or (math.inf, math.inf)
    return max(-box.x0, -box.y0, box.x1 - width, box.y1 - height)


def check_people(dataset: str, records: Sequence[Record]) -> list[Finding]:
    """Age and sex."""
    ages = [f"{record.uid} ({record.age:g})" for record in records if record.age is not None and not 0 <= record.age <= OLDEST]
    sexes = [f"{record.uid} ({record.sex!r})" for record in records if record.sex not in SEXES]
    return [
        *found("age-range", dataset, ages, f"images have an age outside 0 to {OLDEST} years"),
        *found("sex-value", dataset, sexes, "images have a sex other than F, M and unknown"),
    ]
