"""COVIDx in the layouts of its releases: lists without header, two or three classes, a val or none, and planted defects."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.covidx import Covidx, open_source
from benchmark.errors import ImageError, UserError
from benchmark.types import Source

CXR4 = {
    "train": [
        "379 1e64990d1b40c1758a2aaa9c7f7a85_jumbo.jpeg negative cohen", "379 a.png positive ricord", "7 b.png negative rsna",
        "7 b.png negative rsna", "7 c.png positive bimcv",
    ],
    "val": ["8 d.png negative rsna"],
    "test": ["9 e.png positive stonybrook", "10 f.jpg negative rsna"],
}  # fmt: skip
NINE_A = {
    "train": ["1 a.png COVID-19 cohen", "2 b.png normal rsna", "3 c.png pneumonia rsna"],
    "test": ["4 d.png pneumonia rsna", "5 e.png normal"],
}


def write(root: Path, lists: dict[str, list[str]], suffix: str = "") -> Path:
    for split, lines in lists.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        (root / f"{split}{suffix}.txt").write_text("\n".join(lines) + "\n")
        for number, line in enumerate(lines):
            Image.new("L", (9, 8), 10 * number).save(root / split / line.split()[1])
    return root


def opened(location: Path, *where: tuple[str, str]) -> Covidx:
    return open_source(str(location), SourceOptions(where=where))


def test_a_replica_of_cxr4_gives_every_field(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "set", CXR4))
    assert isinstance(source, Source)
    assert (source.name, source.classes, source.version[:6]) == ("covidx", ("COVID-19",), "CXR-4-")
    # the first line is an image, not a header, and the line that stands twice counts once
    assert [record.uid for record in source.records] == [
        "train/1e64990d1b40c1758a2aaa9c7f7a85_jumbo.jpeg", "train/a.png", "train/b.png", "train/c.png", "val/d.png",
        "test/e.png", "test/f.jpg",
    ]  # fmt: skip
    assert [record.labels[0] for record in source.records] == [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    assert [record.split for record in source.records] == ["train"] * 4 + ["val", "test", "test"]
    assert [record.patient for record in source.records[:4]] == ["cohen:379", "ricord:379", "rsna:7", "bimcv:7"]
    assert source.records[5].attributes == {"source": "stonybrook", "class": "positive", "list": "test"}
    assert int(source.image(source.records[1])[0, 0]) == 10
    assert Dataset(source).splits.keys() == {"train", "val", "test"}
    assert len(opened(tmp_path / "set", ("source", "rsna")).records) == 3
    with pytest.raises(ImageError, match=r"has no mask"):
        source.mask(source.records[0], "lungs")


def test_three_classes_and_a_drawn_val(tmp_path: Path) -> None:
    root = write(tmp_path / "set", NINE_A, "_COVIDx9A")
    source = opened(root)
    assert source.classes == ("Normal", "Pneumonia", "COVID-19")
    assert source.version.startswith("COVIDx9A-covidx-val-tenth-0-")
    assert [record.labels.index(1.0) for record in source.records] == [2, 0, 1, 1, 0]
    assert {record.split for record in source.records[:3]} <= {"train", "val"}
    assert [record.split for record in source.records[3:]] == ["test", "test"]


def test_a_drawn_val_is_about_a_tenth_of_the_patients(tmp_path: Path) -> None:
    lines = [f"{patient} {patient}-{image}.png {'positive' if patient % 2 else 'negative'} rsna"
             for patient in range(600) for image in range(2)]  # fmt: skip
    root = write(tmp_path / "set", {"train": lines[:1], "test": ["x e.png positive rsna"]})
    (root / "train.txt").write_text("\n".join(lines))
    source = opened(root)
    Dataset(source)
    splits = {record.patient: record.split for record in source.records}
    assert 35 < sum(split == "val" for split in splits.values()) < 90
    assert all(splits[record.patient] == record.split for record in opened(root, ("class", "positive")).records)


def test_several_lists_need_a_choice(tmp_path: Path) -> None:
    root = write(write(tmp_path / "set", CXR4), NINE_A, "_COVIDx9A")
    with pytest.raises(
        UserError, match=r"the lists of 2 releases; choose one, --data covidx:.*train.txt or covidx:.*train_COVIDx9A"
    ):
        opened(root)
    assert len(opened(root / "train_COVIDx9A.txt").classes) == 3
    assert len(opened(root / "train.txt").classes) == 1
    with pytest.raises(
        UserError, match=r"has no train_COVIDx8B.txt with its test list; use one of train.txt, train_COVIDx9A.txt"
    ):
        opened(root / "train_COVIDx8B.txt")


def test_an_image_listed_as_both_is_unknown(tmp_path: Path) -> None:
    root = write(tmp_path / "set", CXR4 | {"test": ["9 e.png positive x", "9 e.png negative x", "10 f.jpg negative rsna"]})
    record = next(record for record in opened(root).records if record.uid == "test/e.png")
    assert math.isnan(record.labels[0])
    assert record.attributes["class"] == "positive, negative"


PLANTED = {
    "word": (
        "train.txt",
        "7 c.png positive",
        "7 c.png maybe",
        "have the classes maybe, negative, positive, which are not of one",
    ),
    "mixed": ("test.txt", "positive", "normal", "have the classes negative, normal, positive, which are not of one release"),
    "path": ("train.txt", "c.png", "../../c.png", "train.txt line 5 names .*, which is not a plain file name"),
    "cells": ("train.txt", "7 c.png positive bimcv", "7 c.png", "train.txt line 5 is not PATIENT FILE CLASS SOURCE"),
    "commas": ("train.txt", "7 c.png positive bimcv", "7,c.png,positive,bimcv", "line 5 is not PATIENT"),
    "two patients": ("train.txt", "7 c.png", "7 b.png", "has b.png of rsna:7 and bimcv:7"),
    "encoding": ("train.txt", "cohen", "coh\udce9n", "train.txt cannot be read"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_defects_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    file, old, new, words = PLANTED[name]
    root = write(tmp_path / "set", CXR4)
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new), errors="surrogateescape")
    with pytest.raises(UserError, match=words) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_links_stay_inside(tmp_path: Path) -> None:
    root = write(tmp_path / "set", CXR4)
    (root / "train/c.png").unlink()
    (root / "train/c.png").symlink_to(root / "train/a.png")
    assert int(opened(root).image(opened(root).records[3])[0, 0]) == 10
    (root / "train/c.png").unlink()
    Image.new("L", (9, 8)).save(tmp_path / "x.png")
    (root / "train/c.png").symlink_to(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"train names 'train/c.png', a link that leads out of"):
        opened(root)


def test_a_patient_in_two_lists_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "set", CXR4 | {"test": ["8 e.png positive rsna"]})
    with pytest.raises(UserError, match=r"patient 'rsna:8' of dataset 'covidx' is in two splits"):
        Dataset(opened(root))


def test_missing_files_and_wrong_folders(tmp_path: Path) -> None:
    root = write(tmp_path / "up/covidx-cxr2", CXR4)
    with pytest.raises(UserError, match=r"one level off; use --data covidx:.*covidx-cxr2"):
        opened(tmp_path / "up")
    (root / "val.txt").rename(root / "kept")
    with pytest.raises(UserError, match=r"has a folder val and no val.txt"):
        opened(root)
    (root / "kept").rename(root / "val.txt")
    (root / "train/c.png").unlink()
    with pytest.raises(ImageError, match=r"c.png cannot be read"):
        opened(root).image(opened(root).records[3])
    (root / "test.txt").write_text("\n")
    with pytest.raises(UserError, match=r"test.txt is empty"):
        opened(root)
    (root / "test.txt").unlink()
    with pytest.raises(
        UserError, match=r"lacks train.txt and test.txt, or lists like train_COVIDx9A.txt; get them from https://www.kaggle"
    ):
        opened(root)
    write(root, CXR4)
    for split in CXR4:
        for path in [*(root / split).iterdir()]:
            path.unlink()
    with pytest.raises(UserError, match=r"has none of the 7 images in train, val, test; unpack the archive"):
        opened(root)
