"""TBX11K in its official layout: folders, lists, boxes in COCO's form, what stays unknown, and planted defects."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.tbx11k import ACTIVE, CLASSES, LATENT, Tbx11k, open_source
from benchmark.errors import ImageError, UserError
from benchmark.types import Box, Source

CATEGORIES = [
    {"id": 1, "name": "ActiveTuberculosis", "supercategory": "Tuberculosis"},
    {"id": 2, "name": "ObsoletePulmonaryTuberculosis", "supercategory": "Tuberculosis"},
    {"id": 3, "name": "PulmonaryTuberculosis", "supercategory": "Tuberculosis"},
]
IMAGES = {
    "train": ["health/h0001.png", "sick/s0001.png", "tb/tb0003.png", "tb/tb0135.png", "tb/tb1199.png"],
    "val": ["health/h0003.png", "tb/tb0010.png"],
}
BOXES: dict[str, list[tuple[int, list[float]]]] = {  # file -> category, left, top, width, height
    "tb/tb0003.png": [(1, [265.5, 171.25, 48.25, 40.0])],
    "tb/tb0135.png": [(1, [10, 20, 30, 40]), (2, [500.0, 500.0, 12.5, 12.0])],
    "tb/tb0010.png": [(2, [0, 0, 512, 512])],
}


def content(split: str) -> dict[str, Any]:
    files = IMAGES[split]
    images = [{"id": number, "file_name": file, "width": 512, "height": 512} for number, file in enumerate(files, 1)]
    drawn = [(number, *box) for number, file in enumerate(files, 1) for box in BOXES.get(file, [])]
    annotations = [{"id": place, "image_id": number, "category_id": kind, "bbox": box, "area": 1.0, "iscrowd": 0}
                   for place, (number, kind, box) in enumerate(drawn, 1)]  # fmt: skip
    return {"info": {}, "images": images, "annotations": annotations, "categories": CATEGORIES}


def write(root: Path) -> Path:
    for folder in ("annotations/json", "lists", "imgs/health", "imgs/sick", "imgs/tb"):
        (root / folder).mkdir(parents=True)
    for split, files in IMAGES.items():
        (root / f"annotations/json/TBX11K_{split}.json").write_text(json.dumps(content(split)))
        (root / f"lists/TBX11K_{split}.txt").write_text("\n".join(files) + "\n")
        for number, file in enumerate(files):
            Image.new("RGB", (512, 512), (number, number, number)).save(root / "imgs" / file)
    return root


def opened(root: Path, *where: tuple[str, str]) -> Tbx11k:
    return open_source(str(root), SourceOptions(where=where))


def test_a_replica_gives_every_field(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "TBX11K"))
    assert isinstance(source, Source)
    assert (source.name, source.classes, source.box_classes) == ("tbx11k", CLASSES, (ACTIVE, LATENT))
    health, sick, active, both, bare, health_test, latent = source.records
    assert (active.uid, active.image) == ("tb/tb0003", "imgs/tb/tb0003.png")
    assert (health.labels, sick.labels) == ((1.0, 0.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0))
    assert (active.labels, both.labels, latent.labels) == ((0, 0, 1, 1, 0), (0, 0, 1, 1, 1), (0, 0, 1, 0, 1))
    assert bare.labels[:3] == (0.0, 0.0, 1.0)
    assert all(map(math.isnan, bare.labels[3:]))  # tuberculosis, but neither kind nor place is told
    assert (health.boxes, sick.boxes, bare.boxes) == ((), (), None)
    assert active.boxes == (Box(ACTIVE, 265.5, 171.25, 313.75, 211.25),)
    assert both.boxes == (Box(ACTIVE, 10, 20, 40, 60), Box(LATENT, 500, 500, 512, 512))  # half a pixel of rounding cut off
    assert {record.split for record in (health_test, latent)} == {"test"}  # official val
    assert {record.split for record in source.records[:5]} <= {"train", "val"}
    assert int(source.image(both)[0, 0]) == 3
    assert Dataset(source).splits.keys() == {"train", "val", "test"}
    assert len(opened(tmp_path / "TBX11K", ("folder", "tb")).records) == 4
    assert (source.mask_names, set(active.masks), dict(bare.masks)) == ((ACTIVE, LATENT), {ACTIVE, LATENT}, {})
    assert int(source.mask(both, ACTIVE).sum()) == 30 * 40
    assert not source.mask(active, LATENT).any()
    assert not source.mask(health, ACTIVE).any()
    with pytest.raises(ImageError, match=r"has no mask"):
        source.mask(health, "lungs")


def test_an_uncertain_kind_is_neither_active_nor_latent(tmp_path: Path) -> None:
    root = write(tmp_path / "TBX11K")
    changed = content("val")
    changed["annotations"][0]["category_id"] = 3
    (root / "annotations/json/TBX11K_val.json").write_text(json.dumps(changed))
    source = opened(root)
    assert source.records[-1].labels[2] == 1.0
    assert all(map(math.isnan, source.records[-1].labels[3:]))
    assert source.box_classes == (ACTIVE, LATENT, "Uncertain Tuberculosis")


def test_val_is_about_an_eighth_of_train(tmp_path: Path) -> None:
    root = write(tmp_path / "TBX11K")
    files = ["health/h0001.png", *(f"sick/s{number:04}.png" for number in range(1000, 1800))]
    images = [{"id": number, "file_name": file, "width": 512, "height": 512} for number, file in enumerate(files)]
    (root / "annotations/json/TBX11K_train.json").write_text(
        json.dumps({"images": images, "annotations": [], "categories": CATEGORIES})
    )
    (root / "lists/TBX11K_train.txt").unlink()
    splits = [record.split for record in opened(root).records]
    assert 60 < splits.count("val") < 140
    assert splits.count("test") == 2


def annotate(**change: object) -> Any:
    return lambda data: data["annotations"][0].update(change)


PLANTED: dict[str, tuple[Any, str]] = {
    "outside": (annotate(bbox=[500, 0, 14, 5]), r"box \[500, 0, 14, 5\] of tb/tb0003.png has no area or leaves its 512 x 512"),
    "no area": (annotate(bbox=[5, 5, 0, 5]), "has no area or leaves"),
    "negative": (annotate(bbox=[-1, 5, 5, 5]), "has no area or leaves"),
    "three numbers": (annotate(bbox=[5, 5, 5]), "is not four numbers in a sized image"),
    "words": (annotate(bbox=["5", 5, 5, 5]), "is not four numbers"),
    "nan": (annotate(bbox=[math.nan, 5, 5, 5]), "is not four numbers"),
    "no image": (annotate(image_id=99), "is not an annotation file of TBX11K .KeyError: 99"),
    "no category": (annotate(category_id=9), "is not an annotation file of TBX11K .KeyError: 9"),
    "boxes of the healthy": (annotate(image_id=1), "has boxes in 'health/h0001.png', an image without tuberculosis"),
    "folder": (
        lambda data: data["images"][0].update(file_name="extra/da/p1.png"),
        "differ in 2 images, the first is 'extra/da/p1",
    ),
    "image twice": (lambda data: data["images"].append(dict(data["images"][0])), "has an image more than once"),
    "also in val": (lambda data: data["images"][0].update(file_name="health/h0003.png"), "differ in 2 images"),
    "no images": (lambda data: data.pop("images"), "KeyError: 'images'"),
    "unsized": (lambda data: data["images"][2].pop("width"), "in a sized image"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_defects_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    change, words = PLANTED[name]
    root = write(tmp_path / "TBX11K")
    data = content("train")
    change(data)
    (root / "annotations/json/TBX11K_train.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=words) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_without_lists_folders_and_splits_are_still_checked(tmp_path: Path) -> None:
    root = write(tmp_path / "TBX11K")
    (root / "lists/TBX11K_train.txt").unlink()
    defects = {
        "extra/p1.png": "names 'extra/p1.png', not in health, sick, tb",
        "health/h0003.png": "which .*train.json has too",
        "tb/../../x.png": "a path that leaves",
    }
    for file, words in defects.items():
        data = content("train")
        data["images"][4]["file_name"] = file
        (root / "annotations/json/TBX11K_train.json").write_text(json.dumps(data))
        with pytest.raises(UserError, match=words):
            opened(root)
    (root / "annotations/json/TBX11K_train.json").write_text(json.dumps(content("train"))[:99])
    with pytest.raises(UserError, match=r"is not an annotation file of TBX11K .JSONDecodeError"):
        opened(root)


def test_missing_files_and_wrong_folders(tmp_path: Path) -> None:
    root = write(tmp_path / "up/TBX11K")
    with pytest.raises(UserError, match=r"one level off; use --data tbx11k:.*TBX11K"):
        opened(tmp_path / "up")
    with pytest.raises(UserError, match=r"one level off; use --data tbx11k:.*TBX11K"):
        opened(root / "imgs")
    (root / "imgs/tb/tb0003.png").unlink()
    with pytest.raises(ImageError, match=r"tb0003.png cannot be read"):
        opened(root).image(opened(root).records[2])
    for path in [*root.glob("imgs/*/*.png")]:
        path.unlink()
    with pytest.raises(UserError, match=r"has none of the 7 images in health, sick and tb"):
        opened(root)
    (root / "annotations/json/TBX11K_val.json").unlink()
    with pytest.raises(UserError, match=r"lacks annotations/json/TBX11K_val.json; .*https://mmcheng.net/tb/"):
        opened(root)
