"""Checks of rows, selection by protocol, and nested fractions of the patients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.splits import check_records, nested_fraction, select
from benchmark.errors import UserError
from benchmark.types import Protocol, Record, Source

PROTOCOL = Protocol(name="p", version=1, task="t", primary="m")


@dataclass
class Rows:
    records: tuple[Record, ...]
    name: str = "rows"


def row(uid: str, patient: str = "p", split: str = "train", view: str = "", study: str = "") -> Record:
    return Record(uid=uid, patient=patient, study=study or uid, split=split, image=uid, view=view)


def check(*records: Record) -> None:
    source: Source = Rows(records)  # type: ignore[assignment]
    check_records(source)


def uids_of(records: tuple[Record, ...]) -> set[str]:
    return {record.uid for record in records}


def patients_of(records: tuple[Record, ...]) -> set[str]:
    return {record.patient for record in records}


def cohort(n: int = 200) -> tuple[Record, ...]:
    return tuple(row(f"u{patient}-{image}", f"p{patient}") for patient in range(n) for image in range(1 + patient % 4))


def test_good_rows_pass() -> None:
    check(row("a", "1"), row("b", "1"), row("c", "2", "val"), row("d", "3", "test"))


def test_no_rows_are_refused() -> None:
    with pytest.raises(UserError, match="'rows' has no rows"):
        check()


def test_duplicate_ids_are_counted_and_the_first_is_named() -> None:
    with pytest.raises(UserError, match="2 duplicate ids, the first is 'b'"):
        check(row("a"), row("b"), row("b"), row("c"), row("c"))


@pytest.mark.parametrize("split", ["valid", "", "Train"])
def test_an_unknown_split_is_refused(split: str) -> None:
    with pytest.raises(UserError, match=f"record 'b' has split {split!r}; use train, val or test"):
        check(row("a"), row("b", split=split))


@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("val", "test"), ("test", "train")])
def test_a_patient_in_two_splits_is_refused(one: str, other: str) -> None:
    with pytest.raises(UserError, match=f"patient '7' of dataset 'rows' is in two splits, {one} and {other}"):
        check(row("a", "7", one), row("b", "8", one), row("c", "7", other))


def test_rows_come_in_the_order_of_uids() -> None:
    assert [record.uid for record in select([row("c"), row("a"), row("b")], None)] == ["a", "b", "c"]


def test_frontal_leaves_out_lateral_views_and_keeps_unknown_ones() -> None:
    rows = [row(view or "unknown", view=view) for view in ("PA", "AP", "FRONTAL", "LATERAL", "")]
    assert [record.uid for record in select(rows, PROTOCOL)] == ["AP", "FRONTAL", "PA", "unknown"]
    assert len(select(rows, replace(PROTOCOL, views="all"))) == 5


def test_one_per_study_keeps_the_first_uid_that_the_view_allows() -> None:
    rows = [row("b", study="s"), row("a", study="s", view="LATERAL"), row("c", study="s"), row("d", study="t")]
    assert [record.uid for record in select(rows, replace(PROTOCOL, one_per_study=True))] == ["b", "d"]
    assert [record.uid for record in select(rows, replace(PROTOCOL, one_per_study=True, views="all"))] == ["a", "d"]


def test_one_percent_lies_in_ten_percent_lies_in_all() -> None:
    rows = cohort()
    one, ten, everything = (nested_fraction(rows, fraction, seed=0) for fraction in (0.01, 0.1, 1.0))
    assert uids_of(one) < uids_of(ten) < uids_of(everything) == uids_of(rows)
    assert [len(patients_of(part)) for part in (one, ten, everything)] == [2, 20, 200]


def test_a_fraction_takes_all_rows_of_a_patient_in_order() -> None:
    rows = cohort()
    part = nested_fraction(rows, 0.3, seed=5)
    assert part == tuple(record for record in rows if record.patient in patients_of(part))


def test_at_least_one_patient_is_kept() -> None:
    assert len(patients_of(nested_fraction(cohort(3), 0.01, seed=0))) == 1


def test_the_seed_decides_and_other_rows_do_not_move_a_patient() -> None:
    rows = cohort()
    part = patients_of(nested_fraction(rows, 0.1, seed=0))
    assert part == patients_of(nested_fraction(rows[::-1], 0.1, seed=0))
    assert part != patients_of(nested_fraction(rows, 0.1, seed=1))
    # as many new patients again push some of the drawn ones out, but draw nobody who would not have been drawn before
    more = (*rows, *(replace(record, uid=f"x{record.uid}", patient=f"x{record.patient}") for record in rows))
    drawn = patients_of(nested_fraction(more, 0.05, seed=0)) & patients_of(rows)
    assert drawn
    assert drawn <= part


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="not in"):
        nested_fraction(cohort(3), fraction, seed=0)


@given(st.floats(0.001, 1), st.floats(0.001, 1), st.integers(0, 5), st.integers(1, 40))
def test_fractions_are_nested_whatever_they_are(one: float, other: float, seed: int, n: int) -> None:
    rows = cohort(n)
    small, large = (uids_of(nested_fraction(rows, fraction, seed)) for fraction in sorted((one, other)))
    assert small <= large
