"""A folder with a records.csv: what a good one gives, and one sentence for each way to get it wrong."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.pixels import PixelCache
from benchmark.data.sources import SOURCES, SourceOptions
from benchmark.data.sources.csv_folder import CsvFolder, open_source
from benchmark.errors import ImageError, UserError
from benchmark.types import Box, InputSpec, Source

Rows = list[dict[str, str]]
BOX = {"label": "heart", "x": 1, "y": 2, "w": 3.5, "h": 4}


def good() -> Rows:
    return [
        {
            "id": "a1", "patient_id": "p1", "study_id": "s1", "split": "train", "view": "pa", "image": "images/a1.png",
            "labels": "Edema; Cardiomegaly", "findings": "Large heart,\r\nand edema.", "impression": "Edema.",
            "report_text": "", "mask": "masks/a1.png", "boxes": json.dumps([BOX]), "sex": "female", "age": "71",
            "source": "here", "extra": "x",
        },
        {"id": "a2", "patient_id": "p1", "study_id": "s1", "split": "train", "view": "LATERAL", "image": "images/a2.png"},
        {"id": "b1", "patient_id": "p2", "split": "val", "view": "frontal", "image": "images/b1.png", "labels": "No Finding",
         "report_text": "Normal.", "boxes": "[]", "sex": "M", "extra": "y"},
        {"id": "c1", "patient_id": "p3", "split": "test", "image": "images/c1.png", "sex": "unknown", "source": "there"},
    ]  # fmt: skip


def table(rows: Rows) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def write(root: Path, rows: Rows) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(good()):
        Image.new("L", (10, 8), 10 * number).save(root / row["image"])
    Image.fromarray(np.repeat(np.array([0, 127, 255, 0], np.uint8), 20).reshape(8, 10)).save(root / "masks/a1.png")
    (root / "records.csv").write_text(table(rows), newline="")
    return root


def opened(root: Path, **where: str) -> CsvFolder:
    return open_source(str(root), SourceOptions(where=tuple(where.items())))


def changed(row: int, **cells: str) -> Rows:
    rows = good()
    rows[row] |= cells
    return rows


def test_a_good_folder_gives_every_field(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "mine", good()))
    assert isinstance(source, Source)
    assert (source.name, source.flags) == ("csv:mine", ("own-data",))
    assert source.classes == ("Cardiomegaly", "Edema", "No Finding")
    assert source.mask_names == ("mask",)
    assert source.box_classes == ("heart",)
    a1, a2, b1, c1 = source.records
    assert (a1.uid, a1.patient, a1.study, a1.split, a1.view) == ("a1", "p1", "s1", "train", "PA")
    assert (a1.sex, a1.age, a1.boxes) == ("F", 71.0, (Box("heart", 1.0, 2.0, 4.5, 6.0),))
    assert a1.sections == {"findings": "Large heart,\nand edema.", "impression": "Edema."}
    assert a1.attributes == {"source": "here", "view": "pa", "sex": "female", "age": "71"}
    assert a1.labels == (1.0, 1.0, 0.0)
    assert b1.labels == (0.0, 0.0, 1.0)
    assert all(math.isnan(value) for value in a2.labels + c1.labels)
    assert (a2.boxes, b1.boxes, a2.masks) == (None, (), {})
    assert (a2.view, b1.view, c1.view) == ("LATERAL", "FRONTAL", "")
    assert (b1.study, b1.sections, b1.sex, c1.sex, c1.age) == ("b1", {"report": "Normal."}, "M", "", None)
    assert source.image(a2).tolist() == np.full((8, 10), 10).tolist()
    assert np.unique(source.mask(a1, "mask"), return_counts=True)[1].tolist() == [40, 20, 20]
    assert Dataset(source).labels(source.records).shape == (4, 3)


def test_the_mask_label_names_the_mask(tmp_path: Path) -> None:
    source = opened(write(tmp_path, changed(0, mask_label="lungs")))
    assert source.mask_names == ("lungs",)
    assert source.records[0].masks == {"lungs": "masks/a1.png"}


def test_four_columns_are_enough(tmp_path: Path) -> None:
    rows = [{name: row[name] for name in ("id", "patient_id", "split", "image")} for row in good()]
    source = opened(write(tmp_path, rows))
    assert (source.classes, source.mask_names, source.box_classes) == ((), (), ())
    assert source.records[0].study == "a1"
    assert source.records[0].labels == ()


@pytest.mark.parametrize("change", [lambda raw: b"\xef\xbb\xbf" + raw, lambda raw: raw + b"\r\n\r\n", lambda raw: raw.rstrip()])
def test_byte_order_marks_and_blank_lines_are_fine(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path, good()) / "records.csv"
    path.write_bytes(change(path.read_bytes()))
    assert [record.uid for record in opened(tmp_path).records] == ["a1", "a2", "b1", "c1"]


def test_where_keeps_rows_that_match_every_pair(tmp_path: Path) -> None:
    root = write(tmp_path, changed(3, extra="y"))
    assert [record.uid for record in opened(root, extra="y").records] == ["b1", "c1"]
    assert [record.uid for record in opened(root, extra="y", split="test").records] == ["c1"]
    assert opened(root, extra="y").classes == ("No Finding",)
    with pytest.raises(UserError, match=r"unknown column .*'sorce'; did you mean source"):
        opened(root, sorce="here")
    with pytest.raises(UserError, match=r"--where source=nowhere leaves no row; values of 'source' are '', 'here', 'there'"):
        opened(root, source="nowhere")


def test_rows_that_the_filter_drops_need_not_be_good(tmp_path: Path) -> None:
    assert len(opened(write(tmp_path, changed(3, patient_id="p1", age="old")), split="train").records) == 2


def test_the_version_changes_with_whatever_may_change_a_number(tmp_path: Path) -> None:
    root = write(tmp_path, good())
    versions = [opened(root).version]
    assert opened(root).version == versions[0]
    versions.append(opened(root, split="train").version)
    Image.new("L", (10, 8), 99).save(root / "images/b1.png")
    os.utime(root / "images/b1.png", ns=(1, 1))
    versions.append(opened(root).version)
    os.utime(root / "masks/a1.png", ns=(2, 2))
    versions.append(opened(root).version)
    (root / "images/c1.png").unlink()
    versions.append(opened(root).version)
    (root / "records.csv").write_text(table(changed(3, age="5")), newline="")
    versions.append(opened(root).version)
    assert len(set(versions)) == len(versions)


BAD_ROWS: dict[str, tuple[Rows, str]] = {
    "no columns": ([{"a": "1"}], "lacks the columns id, patient_id, split, image; add them"),
    "one column missing": ([{"id": "1", "patient_id": "1", "split": "val"}], "lacks the columns image; add"),
    "duplicate id": (changed(3, id="a1"), "row 5 .*row 2 has the same id; make ids unique"),
    "patient in two splits": (changed(2, patient_id="p1"), "row 4 .*patient 'p1' is in val here and in train in row 2; give"),
    "study of two patients": (changed(3, study_id="s1"), "row 5 .*study 's1' is of patient 'p1' in row 2; make"),
    "unknown split": (changed(2, split="valid"), "row 4 .*split 'valid' is not one of train, val, test; correct"),
    "empty id": (changed(1, id=" "), "row 3 .*column 'id' is empty; fill"),
    "empty patient": (changed(1, patient_id=""), "row 3 .*column 'patient_id' is empty; fill"),
    "unknown view": (changed(1, view="oblique"), "row 3 .*view 'oblique' is not one of .*; leave"),
    "parent path": (changed(1, image="images/../../x.png"), "names 'images/../../x.png'; write paths inside"),
    "absolute path": (changed(1, image="/etc/passwd"), "names '/etc/passwd'; write paths inside"),
    "backslashes": (changed(1, image="images\\a2.png"), "write paths inside the folder, with '/'"),
    "drive": (changed(1, image="C:a2.png"), "names 'C:a2.png'; write paths inside"),
    "mask path out": (changed(0, mask="../m.png"), "names '../m.png'; write paths inside"),
    "link out": (changed(1, image="images/link.png"), "link that leads out of .*; copy the file"),
    "linked folder out": (changed(1, image="outside/x.png"), "link that leads out of .*; copy the file"),
    "boxes not JSON": (changed(0, boxes="[{label: heart}]"), "row 2 .*boxes are not JSON .*; write"),
    "boxes not a list": (changed(0, boxes=json.dumps(BOX)), "row 2 .*boxes are not a list; write"),
    "box without label": (changed(0, boxes='[{"x": 1, "y": 1, "w": 1, "h": 1}]'), "has no label; write"),
    "box is a list": (changed(0, boxes="[[1, 2, 3, 4]]"), "has no label; write"),
    "box without w": (changed(0, boxes='[{"label": "a", "x": 1, "y": 1, "h": 1}]'), "lacks a number .*; write"),
    "box with text": (changed(0, boxes=json.dumps([BOX | {"x": "1"}])), "lacks a number .*; write"),
    "box with NaN": (changed(0, boxes=json.dumps([BOX | {"x": math.nan}])), "lacks a number .*; write"),
    "box with a huge number": (changed(0, boxes=json.dumps([BOX | {"x": 10**400}])), "boxes are not JSON .*; write"),
    "box without area": (changed(0, boxes=json.dumps([BOX | {"w": 0}])), "has no area; give"),
    "negative box": (changed(0, boxes=json.dumps([BOX | {"x": -1}])), "leaves the image .*; clip"),
    "box outside": (changed(0, width="4", height="8"), "leaves the image of 4 x 8 pixels; clip"),
    "age": (changed(0, age="old"), "row 2 .*age 'old' is not a number; correct"),
    "negative age": (changed(0, age="-3"), "age '-3' is not a number; correct"),
    "age nan": (changed(0, age="nan"), "age 'nan' is not a number; correct"),
    "all images missing": ([row | {"image": "gone/" + row["id"]} for row in good()], "row 2 .*none of the 4 images is; put"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_refused_with_row_and_way_out(name: str, tmp_path: Path) -> None:
    rows, words = BAD_ROWS[name]
    (tmp_path / "elsewhere").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "elsewhere/x.png")
    root = write(tmp_path / "data", rows)
    (root / "images/link.png").symlink_to(tmp_path / "elsewhere/x.png")
    (root / "outside").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=words) as caught:
        opened(root)
    assert "\n" not in str(caught.value)
    assert "records.csv" in str(caught.value)


BAD_TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty; write"),
    "header alone": (b"id,patient_id,split,image\n", "header and no rows; add"),
    "semicolons": (b"id;patient_id;split;image\n1;1;val;a\n", "lacks the columns .*separated by ';' or tabs, use commas"),
    "Latin-1": (b"id,patient_id,split,image\n1,M\xfcller,val,a\n", r"not UTF-8 \(byte 29\); save it as 'CSV UTF-8'"),
    "UTF-16": ("id,patient_id".encode("utf-16"), "not UTF-8"),
    "too many cells": (b"id,patient_id,split,image\n1,1,val,a,b\n", "row 2 has 5 cells and the header 4; put quotes"),
    "too few cells": (b"id,patient_id,split,image\n1,1,val\n", "row 2 has 3 cells and the header 4; put"),
    "open quote": (b'id,patient_id,split,image\n1,1,val,"a\n', "line 2 is not valid CSV .*; check its quotes"),
    "column twice": (b"id,id,patient_id,split,image\n1,1,1,val,a\n", "the column 'id' more than once; rename"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_tables_are_refused(name: str, tmp_path: Path) -> None:
    raw, words = BAD_TEXTS[name]
    (tmp_path / "records.csv").write_bytes(raw)
    with pytest.raises(UserError, match=words):
        opened(tmp_path)


def test_a_folder_without_a_table_says_where_one_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "above/data").mkdir(parents=True)
    write(tmp_path / "above/data", good())
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("x")
    for folder, words in {
        "missing": "there is no folder .*missing; check",
        "empty": "is empty; put records.csv",
        "other": "has no records.csv; write one",
        "above": "has no records.csv, but .*above/data has one; use --data csv:",
        "above/data/images": "has no records.csv, but .*above/data has one; use --data csv:",
        "above/data/records.csv": "is a file; name the folder",
    }.items():
        with pytest.raises(UserError, match=words):
            opened(tmp_path / folder)
    with pytest.raises(UserError, match="write --data csv:DIR"):
        open_source("", SourceOptions())


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    root = write(tmp_path / "data", changed(1, image="again/link.png"))
    (root / "again").symlink_to(root / "images")
    (root / "images/link.png").symlink_to(root / "images/a2.png")
    (tmp_path / "door").symlink_to(root)
    assert opened(tmp_path / "door").image(opened(root).records[1])[0, 0] == 10


def test_missing_and_broken_images_are_skipped_and_named(tmp_path: Path) -> None:
    root = write(tmp_path / "data", good())
    (root / "images/a2.png").unlink()
    (root / "images/b1.png").write_bytes((root / "images/b1.png").read_bytes()[:40])
    source = opened(root)
    cache = PixelCache.open(source, InputSpec(8), tmp_path / "cache", progress=False)
    assert set(cache.failed) == {"a2", "b1"}
    assert "cannot be read" in cache.failed["a2"]
    assert "truncated" in cache.failed["b1"]
    with pytest.raises(ImageError, match="a2"):
        source.image(source.records[1])


def test_a_mask_of_another_size_than_its_turned_image_is_refused(tmp_path: Path) -> None:
    source = opened(write(tmp_path, good()))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (8, 10)).save(tmp_path / "images/a1.png", exif=exif)
    assert source.mask(source.records[0], "mask").shape == (8, 10) == source.image(source.records[0]).shape
    Image.new("L", (10, 8)).save(tmp_path / "images/a1.png", exif=exif)
    with pytest.raises(ImageError, match="10 x 8 pixels, the image 8 x 10"):
        source.mask(source.records[0], "mask")


def test_the_registry_knows_it() -> None:
    assert SOURCES.load("csv") is open_source


def test_a_pack_of_real_images_opens_and_reads(tmp_path: Path) -> None:
    """Set BENCHMARK_DEV_DATA to a folder in this format with columns width and height."""
    location = os.environ.get("BENCHMARK_DEV_DATA", "")
    if not location:
        pytest.skip("BENCHMARK_DEV_DATA is not set: no folder of real images to check against")
    source = open_source(location, SourceOptions())
    with (Path(location) / "records.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [record.uid for record in source.records] == [row["id"] for row in rows]
    assert Counter(record.attributes.get("source", "") for record in source.records) == Counter(row["source"] for row in rows)
    assert sum(record.boxes is not None for record in source.records) == sum(bool(row["boxes"]) for row in rows)
    assert Dataset(source).splits.keys() == {"train", "val", "test"}
    for record, row in list(zip(source.records, rows))[::40]:
        assert source.image(record).shape == (int(row["height"]), int(row["width"]))
        for name in record.masks:
            assert set(np.unique(source.mask(record, name)).tolist()) <= {0, 1, 255}
