"""Object-CXR in its official layout: shapes to boxes and masks, splits, and planted defects."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.object_cxr import OBJECT, ObjectCxr, open_source, parse_annotation, rasterize
from benchmark.errors import ImageError, UserError
from benchmark.types import Box, Source

SHAPES = "0 10 20 30 24;1 40 10 60 50;2 5 5 25 5 5 15"
TRAIN = ("00001.jpg,", f"00002.jpg,{SHAPES}", "08001.jpg,0 1 1 5 5;2 7 7", "08002.jpg,2 9 9 9 9")
DEV = ("09001.jpg,0 1 2 3 4", "09002.jpg,")


def write(root: Path) -> Path:
    for split, lines in (("train", TRAIN), ("dev", DEV)):
        (root / split).mkdir(parents=True)
        (root / f"{split}.csv").write_text("\r\n".join(["image_name,annotation", *lines]) + "\r\n", newline="")
        for number, line in enumerate(lines):
            Image.new("L", (64, 56), 16 * number + 8).save(root / split / line.partition(",")[0], quality=95)
    return root


def opened(root: Path, *where: tuple[str, str]) -> ObjectCxr:
    return open_source(str(root), SourceOptions(where=where))


def test_a_replica_gives_every_field(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "set"))
    assert isinstance(source, Source)
    assert (source.name, source.classes, source.mask_names, source.box_classes) == (
        "object-cxr",
        (OBJECT,),
        (OBJECT,),
        (OBJECT,),
    )
    none, three, part, click, dev, dev_none = source.records
    assert (three.uid, three.patient, three.image) == ("train/00002.jpg", "train/00002.jpg", "train/00002.jpg")
    assert [record.labels for record in source.records] == [(0.0,), (1.0,), (1.0,), (1.0,), (1.0,), (0.0,)]
    assert (none.boxes, dev_none.boxes) == ((), ())  # an empty annotation means none there
    assert three.boxes == (Box(OBJECT, 10, 20, 30, 24), Box(OBJECT, 40, 10, 60, 50), Box(OBJECT, 5, 5, 25, 15))
    assert (part.boxes, part.attributes["shapes_without_area"]) == ((Box(OBJECT, 1, 1, 5, 5),), "1")
    assert (click.boxes, click.masks) == (None, {})  # an object, but where is unknown
    assert {record.split for record in (dev, dev_none)} == {"test"}
    assert {record.split for record in (none, three, part, click)} <= {"train", "val"}
    assert source.image(three).shape == (56, 64)
    assert abs(int(source.image(three)[9, 9]) - 24) <= 2
    assert not source.mask(none, OBJECT).any()
    with pytest.raises(ImageError, match=r"has no mask 'Foreign Object'; use one of none"):
        source.mask(click, OBJECT)
    assert Dataset(source).splits.keys() == {"train", "val", "test"}


def test_masks_are_filled_shapes_in_original_pixels(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "set"))
    mask = source.mask(source.records[1], OBJECT)
    assert (mask.shape, mask.dtype, set(np.unique(mask).tolist())) == ((56, 64), np.uint8, {0, 1})
    assert mask[20:24, 10:30].all()
    assert int(mask[17:, :35].sum()) == 4 * 20  # the rectangle, and nothing beside it
    assert int(mask[:, 38:].sum()) == pytest.approx(math.pi * 10 * 20, rel=0.02)
    ellipse = mask[10:50, 40:60]
    assert np.array_equal(ellipse, ellipse[::-1])
    assert np.array_equal(ellipse, ellipse[:, ::-1])
    assert ellipse.any(axis=1).all()
    assert ellipse.any(axis=0).all()
    assert not mask[:10, 38:].any()
    assert int(mask[:17, :35].sum()) == pytest.approx(20 * 10 / 2, abs=10)
    assert mask[6, 6] == 1
    assert mask[14, 24] == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-20, 140), st.integers(-20, 140)), min_size=3, max_size=8))
def test_polygons_agree_with_a_point_in_polygon_loop(corners: list[tuple[int, int]]) -> None:
    points = [(x / 4, y / 4) for x, y in corners]
    text = "2 " + " ".join(f"{x} {y}" for x, y in points)
    mask = rasterize(parse_annotation(text, "here"), (25, 31))
    for row in range(25):
        for column in range(31):
            inside = False
            for (xa, ya), (xb, yb) in zip(points, points[1:] + points[:1]):
                if (ya <= row + 0.5) != (yb <= row + 0.5):
                    inside ^= xa + (row + 0.5 - ya) * (xb - xa) / (yb - ya) <= column + 0.5
            assert bool(mask[row, column]) == inside, (row, column)


def test_shapes_are_clipped_to_the_image_and_join() -> None:
    mask = rasterize(parse_annotation("0 -5 -5 4 3;0 2 1 99 99;1 -90 -90 -80 -80;0 50 50 60 60", "here"), (6, 8))
    expected = np.zeros((6, 8), np.uint8)
    expected[:3, :4] = 1
    expected[1:, 2:] = 1
    assert mask.tolist() == expected.tolist()


def test_a_rectangle_has_the_area_of_its_box_at_whole_pixels() -> None:
    assert int(rasterize(parse_annotation("0 3 4 10 9", "here"), (20, 20)).sum()) == 7 * 5


def test_val_is_about_a_fifth_and_does_not_move(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    (root / "train.csv").write_text("image_name,annotation\n" + "".join(f"{number:05}.jpg,\n" for number in range(1, 1001)))
    splits = {record.uid: record.split for record in opened(root).records}
    assert 150 < sum(split == "val" for split in splits.values()) < 250
    assert sum(split == "test" for split in splits.values()) == 2
    train = opened(root, ("official_split", "train"))
    assert len(train.records) == 1000
    assert all(splits[record.uid] == record.split for record in train.records)
    assert train.version != opened(root).version


def test_the_digest_of_a_split_covers_the_shapes(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    before = Dataset(opened(root)).splits["test"]
    (root / "dev.csv").write_text((root / "dev.csv").read_text().replace("0 1 2 3 4", "1 1 2 3 4"))
    assert Dataset(opened(root)).splits["test"] != before


PLANTED = {
    "type": ("0 10 20 30 24", "3 10 20 30 24", "'3 10 20 30 24' is not a type 0, 1 or 2 and its corners"),
    "three numbers": ("0 10 20 30 24", "0 10 20 30", "'0 10 20 30' is not a type"),
    "odd polygon": ("2 5 5 25 5 5 15", "2 5 5 25 5 5", "'2 5 5 25 5 5' is not a type"),
    "no corners": ("2 5 5 25 5 5 15", "2", "'2' is not a type"),
    "word": ("0 10 20 30 24", "0 ten 20 30 24", "'0 ten 20 30 24' is not a type"),
    "infinite": ("0 10 20 30 24", "0 10 20 inf 24", "is not a type"),
    "image twice": ("00002.jpg", "00001.jpg", "has the image '00001.jpg' more than once"),
    "no name": ("00002.jpg", "", "has the image '' more than once or without a name"),
    "backslash": ("00002.jpg", "a\\\\00002.jpg", "a path that leaves"),
    "column": ("annotation", "labels", "lacks the columns annotation"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_defects_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    old, new, words = PLANTED[name]
    root = write(tmp_path / "set")
    text = (root / "train.csv").read_text()
    assert old in text
    (root / "train.csv").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=words) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_missing_images_and_wrong_folders(tmp_path: Path) -> None:
    root = write(tmp_path / "up/object-CXR")
    with pytest.raises(UserError, match=r"one level off; use --data object-cxr:.*object-CXR"):
        opened(tmp_path / "up")
    (root / "train/00002.jpg").unlink()
    source = opened(root)
    for read in (source.image, lambda record: source.mask(record, OBJECT)):
        with pytest.raises(ImageError, match=r"cannot be read"):
            read(source.records[1])
    for path in [*root.glob("*/*.jpg")]:
        path.unlink()
    with pytest.raises(UserError, match=r"has none of the 6 images in train and dev; unpack train.zip and dev.zip"):
        opened(root)
    (root / "dev").rmdir()
    (root / "dev.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"lacks dev; unpack dev.zip there .*jfhealthcare"):
        opened(root)


def test_copies_of_the_table_with_paths_are_read(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    (root / "dev.csv").write_text("image_name,annotation\n/path/09001.jpg,\n")
    assert opened(root).records[-1].image == "dev/09001.jpg"
