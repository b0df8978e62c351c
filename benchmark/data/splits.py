"""Splits: checks, selection of rows by protocol, and nested fractions drawn by patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil

from benchmark.errors import UserError
from benchmark.types import NOT_FRONTAL, SPLITS, Protocol, Record, Source, digest


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
