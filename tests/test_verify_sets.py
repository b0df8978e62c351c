"""Overlap across sets, and pictures that look the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmark.data.families import family, shared_families
from benchmark.types import Source
from benchmark.verify import Report, VerifyOptions, verify
from benchmark.verify.near import BITS, RANKS, Group, Looks, close_pairs, copies, fingerprint, ranks
from tests.small_sets import Rows, by_hand, picture


def two(tmp_path: Path, one: str = "one", other: str = "two") -> tuple[Rows, Rows]:
    """Sets of other pictures, patients and reports."""
    first, second = by_hand(tmp_path / "a", name=one), by_hand(tmp_path / "b", first=100, name=other)
    records = tuple(replace(record, patient=f"q{record.patient}") for record in second.records)
    return first, replace(second, records=records)


def look(out: Path, sets: tuple[Source, ...], against: tuple[Source, ...] = ()) -> Report:
    options = VerifyOptions(out=out, progress=False)
    return verify({item.name: item for item in sets}, {item.name: item for item in against}, options)


def found(report: Report) -> list[tuple[str, str, int]]:
    return [(item.check, item.dataset, item.count) for item in report.findings]


def copy(rows: Rows, uid: str, others: Rows, other: str) -> None:
    shutil.copy(rows.root / rows[uid].image, others.root / others[other].image)


def test_sets_of_their_own_share_nothing(tmp_path: Path) -> None:
    assert found(look(tmp_path / "out", two(tmp_path))) == []


def test_a_training_image_of_one_set_in_the_test_of_another_is_found(tmp_path: Path) -> None:
    one, other = two(tmp_path)
    copy(one, "i00", other, "i10")
    report = look(tmp_path / "out", (one, other))
    assert found(report) == [("pixels-across-sets", "one -> two", 1)]
    assert report.findings[0].examples == ("i00 = i10 (test)",)
    assert found(look(tmp_path / "out", (other,), (one,))) == found(report)
    assert found(look(tmp_path / "out", (one,), (other,))) == []  # nothing is trained on i10


def test_training_images_in_common_are_no_leak(tmp_path: Path) -> None:
    one, other = two(tmp_path)
    copy(one, "i00", other, "i01")
    assert found(look(tmp_path / "out", (one, other))) == []


def test_a_mirrored_and_smaller_copy_in_another_set_is_found(tmp_path: Path) -> None:
    one, other = two(tmp_path)
    turned = ImageOps.mirror(Image.fromarray(picture(0))).resize((40, 44))
    turned.save(other.root / other["i10"].image)
    Image.new("L", (40, 44), 255).save(other.root / other["i10"].masks["lung"])
    other = other.change("i10", boxes=())
    records = tuple(replace(item, masks={}) if item.uid == "i10" else item for item in other.records)
    report = look(tmp_path / "out", (one, replace(other, records=records)))
    checks = [item for item in found(report) if item[0] != "image-surplus"]
    assert checks == [("near-duplicates-across-sets", "one -> two", 1)]
    assert report.findings[0].examples == ("i00 (train) ~ i10 (test, mirrored)",)


def test_patients_count_where_both_sets_number_the_same_ones(tmp_path: Path) -> None:
    one, other = two(tmp_path, "mimic-cxr", "csv:mimic-part")
    other = replace(other, records=tuple(replace(item, patient=item.patient.removeprefix("q")) for item in other.records))
    moved = tuple(replace(item, split={"train": "test", "test": "train"}.get(item.split, item.split)) for item in other.records)
    report = look(tmp_path / "out", (replace(other, records=moved),), (one,))
    assert found(report) == [
        ("sets-of-one-family", "mimic-cxr + csv:mimic-part", 1),
        ("patients-across-sets", "mimic-cxr -> csv:mimic-part", 2),
    ]
    assert "both are mimic" in report.findings[0].what
    strangers = (replace(one, name="mimic-cxr"), replace(other, name="chexpert", records=moved))
    assert found(look(tmp_path / "out", strangers)) == []  # p0 of another hospital is another person


def test_rsna_with_its_mapping_numbers_patients_as_nih_does(tmp_path: Path) -> None:
    nih, rsna = two(tmp_path, "nih", "rsna")
    nih = nih.change("i00", patient="13").change("i01", patient="13")
    rsna = rsna.change("i10", patient="00000013").change("i11", patient="00000013")
    family_note = ("sets-of-one-family", "nih + rsna", 1)
    report = look(tmp_path / "out", (nih, rsna))
    assert found(report) == [family_note, ("patients-across-sets", "nih -> rsna", 1)]
    assert report.findings[0].what == "collection is in both: rsna took images from chestxray14"
    unknown = replace(rsna, flags=("patients-unknown",))
    assert found(look(tmp_path / "out", (nih, unknown))) == [family_note]


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("nih", "rsna", ("chestxray14",)),
        ("siim", "rsna", ("chestxray14",)),
        ("covidx", "rsna", ("chestxray14", "rsna")),
        ("mimic-cxr", "chexpert", ()),
        ("csv:a", "csv:b", ()),
        ("phantom", "phantom", ("phantom",)),
    ],
)
def test_families(one: str, other: str, shared: tuple[str, ...]) -> None:
    assert shared_families(one, other) == shared_families(other, one) == shared


def test_a_set_is_named_after_one_family() -> None:
    names = ("nih", "csv:iu-xray", "rsna", "siim-rsna", "csv:x")
    assert [family(name) for name in names] == ["chestxray14", "open-i", "rsna", "siimrsna", "csvx"]


# ------------------------------------------------------------------------------------ looking the same


def of(*images: np.ndarray) -> Group:
    return Group([fingerprint(image) for image in images])


def test_close_pairs_are_those_of_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    one = generator.integers(0, 2**64, 50, np.uint64)
    flips = [sum(1 << int(bit) for bit in generator.choice(64, number % 14, False)) for number in range(9000)]
    other = one[np.arange(9000) % 50] ^ np.array(flips, np.uint64)
    expected = {(i, j) for i in range(50) for j in range(9000) if (int(one[i]) ^ int(other[j])).bit_count() <= BITS}
    assert len(expected) > 5000
    assert {(int(i), int(j)) for rows, columns in close_pairs(one, other) for i, j in zip(rows, columns)} == expected


def test_no_images_are_no_pairs() -> None:
    assert list(copies(Group([]), of(picture(1)))) == list(copies(of(picture(1)), Group([]))) == []


@pytest.mark.parametrize("number", range(5))
def test_copies_are_found_however_they_were_saved(number: int, tmp_path: Path) -> None:
    image = Image.fromarray(picture(number, 300))
    image.save(tmp_path / "copy.jpg", quality=60)
    changed = {
        "jpeg": Image.open(tmp_path / "copy.jpg"),
        "smaller": image.resize((123, 131)),
        "brighter": image.point(lambda value: round(255 * (value / 255) ** 0.75)),
        "stretched": ImageOps.autocontrast(image, 1),
    }
    for copy_of in changed.values():
        pixels = np.asarray(copy_of.convert("L"))
        assert list(copies(of(picture(number, 300)), of(pixels))) == [(0, 0, False)]
        assert list(copies(of(picture(number, 300)), of(pixels[:, ::-1]))) == [(0, 0, True)]


def test_strangers_are_not_copies() -> None:
    one, other = of(*(picture(number) for number in range(60))), of(*(picture(number) for number in range(60, 120)))
    assert list(copies(one, other)) == []


def test_ranks_are_shared_by_ties_and_sum_to_zero() -> None:
    from scipy.stats import spearmanr

    pictures = np.random.default_rng(0).integers(0, 9, (2, 256), np.uint8)
    a, b = ranks(pictures).astype(float)
    assert a.sum() == b.sum() == 0
    correlation = float(a @ b / np.sqrt((a @ a) * (b @ b)))
    assert correlation == pytest.approx(spearmanr(*pictures).statistic)
    assert 0.9 < RANKS < 1


def test_a_constant_picture_is_like_nothing() -> None:
    blank = Looks(0, 0, fingerprint(np.zeros((20, 20), np.uint8)).thumbnail)
    assert list(copies(Group([blank]), Group([blank]))) == []
