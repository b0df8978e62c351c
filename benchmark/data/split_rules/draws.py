"""What rules share: patients in a seeded order, a test set that takes its patients along, scikit-learn's two cuts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate

from benchmark.data.splits import Drawn
from benchmark.errors import UserError
from benchmark.types import Record, Source, digest

SEEDS = range(2**32)  # what numpy's legacy generator takes


def cut_by_patient(records: Sequence[Record], sizes: Sequence[int], seed: object) -> dict[str, int]:
    """uid -> part: whole patients, in an order that the seed and their names decide, fill the parts one after the other.

    Args:
        records: N rows; their order does not matter.
        sizes: of the parts, in any unit; each part gets its share of N, up to the images of one patient more or less.
        seed: what the order of patients depends on.

    Raises:
        UserError: so few patients that a part stays empty.
    """
    images: dict[str, list[str]] = {}
    for record in records:
        images.setdefault(record.patient, []).append(record.uid)
    ends = [round(end * len(records) / sum(sizes)) for end in accumulate(sizes)]
    parts: dict[str, int] = {}
    placed = 0
    for patient in sorted(images, key=lambda name: digest([seed, name], 32)):
        part = bisect_right(ends, placed + len(images[patient]) / 2)  # where most of its images fall
        parts |= dict.fromkeys(images[patient], part)
        placed += len(images[patient])
    if len(set(parts.values())) < len(sizes):
        raise UserError(
            f"{len(records)} images of {len(images)} patients are too few to be split into {len(sizes)}; use the whole set"
        )
    return parts


def two_cuts(uids: Sequence[str], held: float) -> dict[str, str]:
    """uid -> split by scikit-learn's train_test_split, twice with random_state 0, as GLoRIA and MGCA call it.

    What is held out is halved; of that second cut, what scikit-learn calls train is the test and what it calls test is val.

    Args:
        uids: N images in the order of the paper's table.
        held: the share of the images that are not train.

    Raises:
        UserError: too few images for three splits.
    """
    from sklearn.model_selection import train_test_split

    if len(uids) < 4:
        raise UserError(f"the split needs 4 images or more and the set has {len(uids)}; use the whole set")
    train, rest = train_test_split(list(uids), test_size=held, random_state=0)
    test, val = train_test_split(rest, test_size=0.5, random_state=0)
    return {**dict.fromkeys(train, "train"), **dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")}


def with_test(source: Source, test: Collection[str]) -> Drawn:
    """The given images as test; train and val stay as the source has them, without any other image of a test patient.

    What the source itself tests on is left out: it is another test.
    """
    chosen = set(test)
    patients = {record.patient for record in source.records if record.uid in chosen}
    splits = dict.fromkeys(test, "test")
    lost = replaced = 0
    for record in source.records:
        if record.uid in chosen:
            continue
        if record.split == "test":
            replaced += 1
        elif record.patient in patients:
            lost += 1
        else:
            splits[record.uid] = record.split
    notes = []
    if lost:
        notes.append(f"{lost:,} other images of the {len(patients):,} test patients are left out of train and val")
    if replaced:
        notes.append(f"{replaced:,} images of the set's own test are left out")
    return Drawn(splits=splits, notes=tuple(notes))
