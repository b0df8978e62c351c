"""`verify` on small sets: nothing is found in a whole one; a planted defect is found once, by its name, and nothing else is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmark.types import Box, Record, Source
from benchmark.verify import Report, VerifyOptions, verify
from benchmark.verify.findings import CHECKS, SEVERITIES
from benchmark.verify.report import terminal
from benchmark.verify.tables import counts
from tests.small_sets import CLASSES, SETS, Rows, by_hand, picture

DOCS = Path(__file__).resolve().parent.parent / "docs" / "verify.md"
NAN = float("nan")


def look(out: Path, *sources: Source, against: tuple[Source, ...] = (), **options: object) -> Report:
    named, others = {source.name: source for source in sources}, {source.name: source for source in against}
    return verify(named, others, VerifyOptions(out=out, progress=False, **options))  # type: ignore[arg-type]


def names(report: Report) -> list[str]:
    return [item.check for item in report.findings]


@pytest.mark.parametrize("name", SETS)
def test_a_whole_set_has_no_error_and_no_warning(name: str, tmp_path: Path) -> None:
    source = SETS[name](tmp_path)
    report = look(tmp_path / "out", source, workers=2)
    fewer = {"count-differs"}  # a small replica of a set has not as many images as were published
    assert {item.check for item in report.of("error") + report.of("warning")} <= fewer
    assert report.datasets[0].decoded == len(source.records) > 10


def test_a_whole_set_with_everything_in_it_has_no_note_either(tmp_path: Path) -> None:
    assert look(tmp_path / "out", by_hand(tmp_path / "set")).findings == ()


# ------------------------------------------------------------------------------- defects, one at a time


def image(rows: Rows, uid: str) -> Path:
    return rows.root / rows[uid].image


def mask(rows: Rows, uid: str) -> Path:
    return rows.root / rows[uid].masks["lung"]


def on_disk(change: Callable[[Rows], object]) -> Callable[[Rows], Rows]:
    """A defect of files, with the records as they are."""

    def plant(rows: Rows) -> Rows:
        change(rows)
        return rows

    return plant


def save(path: Path, pixels: np.ndarray | Image.Image) -> None:
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path)


def copy(rows: Rows, uid: str, other: str) -> None:
    shutil.copy(image(rows, uid), image(rows, other))


def mirrored(rows: Rows) -> None:
    save(image(rows, "i10"), ImageOps.mirror(Image.fromarray(picture(0))))


def darker(rows: Rows) -> None:
    save(
        image(rows, "i10"), Image.fromarray(picture(0)).point(lambda value: round(255 * (value / 255) ** 1.3)).resize((90, 90))
    )
    save(mask(rows, "i10"), Image.open(mask(rows, "i10")).resize((90, 90), Image.Resampling.NEAREST))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(rows: Rows, uid: str, **sections: str) -> Rows:
    return rows.change(uid, sections=sections)


def box(x0: float, y0: float, x1: float, y1: float, label: str = "lung") -> dict[str, object]:
    return {"boxes": (Box(label, x0, y0, x1, y1),)}


PLANTED: dict[str, Callable[[Rows], Rows]] = {
    "count-differs": lambda rows: replace(rows, known_counts=counts(rows) | {"positive/Edema": 7}),
    "image-missing": on_disk(lambda rows: image(rows, "i03").unlink()),
    "image-unreadable": on_disk(lambda rows: cut(image(rows, "i03"))),
    "image-unreadable (empty)": on_disk(lambda rows: image(rows, "i03").write_bytes(b"")),
    "image-unreadable (page)": on_disk(lambda rows: image(rows, "i03").write_bytes(b"<!doctype html><p>log in</p>")),
    "image-constant": on_disk(lambda rows: save(image(rows, "i03"), np.zeros((48, 48), np.uint8))),
    "image-surplus": on_disk(lambda rows: save(rows.root / "images" / "more.png", picture(99))),
    "mask-missing": on_disk(lambda rows: mask(rows, "i03").unlink()),
    "mask-unreadable": on_disk(lambda rows: cut(mask(rows, "i03"))),
    "mask-size": on_disk(lambda rows: save(mask(rows, "i03"), np.zeros((48, 47), np.uint8))),
    "mask-values": on_disk(lambda rows: save(mask(rows, "i03"), np.full((48, 48), 9, np.uint8))),
    "mask-against-table": on_disk(lambda rows: save(mask(rows, "i03"), np.zeros((48, 48), np.uint8))),
    "uid-twice": lambda rows: replace(rows, records=(*rows.records, rows.records[0])),
    "split-unknown": lambda rows: rows.change("i03", split="valid").change("i02", split="valid"),
    "patient-across-splits": lambda rows: rows.change("i03", split="val"),
    "study-of-two-patients": lambda rows: rows.change("i03", study="s0", sections=rows["i00"].sections),
    "pixels-across-splits": on_disk(lambda rows: copy(rows, "i00", "i10")),
    "pixels-within-split": on_disk(lambda rows: copy(rows, "i00", "i02")),
    "pixels-with-other-labels": on_disk(lambda rows: copy(rows, "i00", "i03")),
    "near-duplicates (mirrored)": on_disk(mirrored),
    "near-duplicates (darker, larger)": on_disk(darker),
    "label-value": lambda rows: rows.change("i03", labels=(0.5, 1.0)),
    "label-length": lambda rows: rows.change("i03", labels=(1.0,)),
    "class-one-sided": lambda rows: rows.change("i08", labels=(NAN, 0.0)).change("i10", labels=(NAN, 0.0)),
    "box-without-area": lambda rows: rows.change("i03", **box(5, 5, 5, 9)),
    "box-without-area (nan)": lambda rows: rows.change("i03", **box(5, 5, NAN, 9)),
    "box-outside": lambda rows: rows.change("i03", **box(5, 5, 48.5, 9)),
    "box-outside (left)": lambda rows: rows.change("i03", **box(-1, 5, 8, 9)),
    "box-label": lambda rows: rows.change("i03", boxes=(*(rows["i03"].boxes or ()), Box("heart", 1, 1, 5, 5))),
    "report-missing": lambda rows: rows.change("i03", sections={}),
    "report-missing (blank)": lambda rows: text(rows, "i03", findings=" \n"),
    "report-without-words": lambda rows: text(rows, "i03", findings="XXXX ___. XXXX", impression="Other."),
    "report-shared": lambda rows: text(rows, "i03", **rows["i00"].sections),
    "age-range": lambda rows: rows.change("i03", age=414.0),
    "age-range (nan)": lambda rows: rows.change("i03", age=-1.0),
    "sex-value": lambda rows: rows.change("i03", sex="female"),
}


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found_once_by_its_name_and_nothing_else(defect: str, tmp_path: Path) -> None:
    rows = PLANTED[defect](by_hand(tmp_path / "set"))
    report = look(tmp_path / "out", rows)
    assert names(report) == [defect.partition(" ")[0]]
    (finding,) = report.findings
    assert (finding.count, finding.dataset) == (1, "rows") or defect in ("split-unknown", "report-shared")
    shown = terminal(report, 160)
    assert finding.check in shown
    assert finding.examples[0].split(" ")[0] in shown


def test_every_check_is_planted_and_explained() -> None:
    severities = [SEVERITIES.index(check.severity) for check in CHECKS.values()]
    assert severities == sorted(severities)  # findings are shown in the order of CHECKS
    across = {"sets-of-one-family", "patients-across-sets", "pixels-across-sets", "near-duplicates-across-sets"}
    assert {name.partition(" ")[0] for name in PLANTED} | across == set(CHECKS)
    words = DOCS.read_text()
    assert [name for name in CHECKS if f"`{name}`" not in words] == []
    rows = [line.split("|") for line in words.splitlines() if line.startswith("| `")]
    explained = {cells[1].strip(" `"): cells[2].strip() for cells in rows if cells[1].strip(" `") in CHECKS}
    assert explained == {name: check.severity for name, check in CHECKS.items()}


def test_all_defects_at_once_are_all_found(tmp_path: Path) -> None:
    rows = by_hand(tmp_path / "set")
    rows = rows.change("i01", age=130.0).change("i02", labels=(2.0, 0.0)).change("i04", **box(0, 0, 60, 60))
    image(rows, "i03").unlink()
    cut(image(rows, "i05"))
    copy(rows, "i00", "i10")
    report = look(tmp_path / "out", rows)
    assert names(report) == [
        "image-missing", "image-unreadable", "pixels-across-splits", "label-value", "box-outside", "age-range",
    ]  # fmt: skip
    order = [SEVERITIES.index(item.severity) for item in report.findings]
    assert order == sorted(order)


def test_images_unreadable_for_one_reason_are_one_finding(tmp_path: Path) -> None:
    rows = by_hand(tmp_path / "set")
    for uid in ("i02", "i03"):
        cut(image(rows, uid))
    image(rows, "i07").write_bytes(b"")
    found = [(item.check, item.count, item.examples) for item in look(tmp_path / "out", rows).findings]
    assert found == [("image-unreadable", 2, ("i02", "i03")), ("image-unreadable", 1, ("i07",))]


def test_without_images_tables_files_and_texts_are_checked_and_nothing_is_decoded(tmp_path: Path) -> None:
    rows = by_hand(tmp_path / "set").change("i03", age=130.0).change("i04", **box(-3, 0, 60, 60))
    cut(image(rows, "i05"))
    image(rows, "i06").unlink()
    report = look(tmp_path / "out", rows, images=False)
    assert names(report) == ["image-missing", "box-outside", "age-range"]
    assert report.datasets[0].decoded is None
    assert "images not looked at" in terminal(report, 120)


def test_what_a_filter_left_out_is_not_surplus(tmp_path: Path) -> None:
    rows = by_hand(tmp_path / "set")
    part = replace(rows, records=tuple(record for record in rows.records if record.labels == (1.0, 0.0)))
    kept = [item.check for item in look(tmp_path / "out", part, filtered=True).findings]
    assert kept == ["class-one-sided"]
    assert "image-surplus" in names(look(tmp_path / "out", part))


def test_surplus_files_are_counted_by_folder(tmp_path: Path) -> None:
    rows = by_hand(tmp_path / "set")
    for folder, number in (("extra", 3), ("images", 1)):
        (rows.root / folder).mkdir(exist_ok=True)
        for index in range(number):
            save(rows.root / folder / f"x{index}.jpg", picture(90 + index))
    (rows.root / "notes.txt").write_text("not an image")
    (finding,) = look(tmp_path / "out", rows).findings
    assert (finding.check, finding.count) == ("image-surplus", 4)
    assert finding.examples == ("extra: 3 (x0.jpg)", "images: 1 (x0.jpg)")


def test_counts_have_the_names_that_sources_publish(tmp_path: Path) -> None:
    rows = by_hand(tmp_path / "set").change("i00", attributes={"official_split": "dev"}, boxes=None, masks={})
    assert counts(rows) == {
        "images": 12, "patients": 6, "studies": 12, "reports": 12, "boxes": 11, "images with boxes": 11,
        "images with masks": 11, "images/train": 4, "images/val": 4, "images/test": 4, "official/dev": 1,
        **{f"positive/{name}": 6 for name in CLASSES},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "label", "count"), [("empty", 1.0, 0), ("", 1.0, 0), ("a.png", 1.0, 1), ("a.png", 0.0, 0)]
)
def test_a_mask_that_is_empty_by_the_table_does_not_count(reference: str, label: float, count: int) -> None:
    record = Record(uid="u", patient="p", study="s", split="train", image="i", labels=(label,), masks={"Edema": reference})
    assert counts(Rows(root=DOCS, records=(record,), classes=("Edema",)))["images with masks"] == count


def test_a_comparison_without_words_is_no_finding(tmp_path: Path) -> None:
    rows = by_hand(tmp_path / "set")
    rows = rows.change("i03", sections={**rows["i03"].sections, "comparison": "XXXX."})
    assert look(tmp_path / "out", rows, images=False).findings == ()
