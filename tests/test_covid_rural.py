"""COVID Rural in its published layout: masks of 0 and 1, images without opacity and without annotation, and planted defects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.covid_rural import OPACITY, CovidRural, open_source
from benchmark.errors import ImageError, UserError
from benchmark.types import Source

TABLE = "covid_rural_patient_info.csv"
A, B, C = "COVID-19-AR-16406488", "COVID-19-AR-16406489", "COVID-19-AR-16424082"
NAMES = [f"{A}_01-08-2012-XR", f"{A}_01-15-2012-XR", f"{B}_01-26-2012-XR", f"{C}_12-25-2011-XR"]


def write(root: Path) -> Path:
    for folder in ("jpgs/jsons", "pngs_masks"):
        (root / folder).mkdir(parents=True)
    rows = [f"{A},67,M,WHITE,720", f"{B},37,F,OTHER,716", f"{C},,,WHITE,721"]
    (root / TABLE).write_text("\n".join(["PATIENT_ID,AGE,SEX,RACE,ZIP", *rows]) + "\n")
    for number, name in enumerate(NAMES):
        Image.new("L", (20, 16), 50 * number).save(root / f"jpgs/{name}.jpg", quality=95)
    for name in NAMES[1:]:
        (root / f"jpgs/jsons/{name}.json").write_text('{"version": "4.5.6", "shapes": [{"label": "right_lung", "points": []}]}')
    mask = np.zeros((16, 20), np.uint8)
    mask[4:8, 5:15] = 1
    for name in NAMES[1::2]:
        Image.fromarray(mask).save(root / f"pngs_masks/{name}.png")
    return root


def opened(root: Path, *where: tuple[str, str]) -> CovidRural:
    return open_source(str(root), SourceOptions(where=where))


def test_a_replica_gives_every_field(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "covid_rural_annot"))
    assert isinstance(source, Source)
    assert (source.name, source.classes, source.mask_names) == ("covid-rural", (), (OPACITY,))
    bare, drawn, clear, other = source.records
    assert (drawn.uid, drawn.patient, drawn.image) == (NAMES[1], A, f"jpgs/{NAMES[1]}.jpg")
    assert [(record.age, record.sex) for record in source.records] == [(67.0, "M"), (67.0, "M"), (37.0, "F"), (None, "")]
    assert bare.split == drawn.split
    assert bare.masks == {}  # no outlines: not annotated
    assert not source.mask(clear, OPACITY).any()  # outlines without a mask: no opacity
    assert source.mask(clear, OPACITY).shape == (16, 20)
    mask = source.mask(other, OPACITY)
    assert (int(mask.sum()), int(mask[4:8, 5:15].sum()), int(mask.max())) == (40, 40, 1)
    assert abs(int(source.image(drawn)[0, 0]) - 50) <= 2
    with pytest.raises(ImageError, match=r"has no mask 'Opacity'; use one of none"):
        source.mask(bare, OPACITY)
    Dataset(source)
    assert [record.uid for record in opened(tmp_path / "covid_rural_annot", ("SEX", "F")).records] == [NAMES[2]]


def test_splits_are_drawn_by_patient(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    lines = "".join(f"COVID-19-AR-{number},50,F,OTHER,7\n" for number in range(1000, 1400))
    (root / TABLE).write_text((root / TABLE).read_text() + lines)
    for number in range(1000, 1400):
        (root / f"jpgs/COVID-19-AR-{number}_01-01-2012-XR.jpg").touch()
    splits = [record.split for record in opened(root).records]
    assert [splits.count(split) / len(splits) for split in ("train", "val", "test")] == pytest.approx([0.6, 0.2, 0.2], abs=0.06)


def test_the_version_covers_the_names_of_images_and_masks(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    before = opened(root).version
    (root / f"pngs_masks/{NAMES[3]}.png").unlink()
    assert opened(root).version != before


def test_bad_masks_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    path = root / f"pngs_masks/{NAMES[1]}.png"
    source = opened(root)
    Image.new("L", (16, 20)).save(path)
    with pytest.raises(ImageError, match=r"is 16 x 20 pixels, the image 20 x 16"):
        source.mask(source.records[1], OPACITY)
    Image.new("L", (20, 16), 255).save(path)
    with pytest.raises(ImageError, match=r"holds 255 beside 0 and 1"):
        source.mask(source.records[1], OPACITY)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ImageError, match=r"is a Git LFS pointer"):
        source.mask(source.records[1], OPACITY)


def test_planted_defects_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "up/covid_rural_annot")
    with pytest.raises(UserError, match=r"one level off; use --data covid-rural:.*covid_rural_annot"):
        opened(tmp_path / "up")
    (root / f"jpgs/{NAMES[0]}.jpg").rename(root / "jpgs/x.jpg")
    with pytest.raises(
        UserError, match=r"x.jpg is not named PATIENT_MM-DD-YYYY-XR.jpg after a patient of covid_rural_patient_info"
    ):
        opened(root)
    (root / "jpgs/x.jpg").unlink()
    (root / f"jpgs/{NAMES[3]}.jpg").unlink()
    with pytest.raises(UserError, match=rf"has 1 masks without an image, the first is '{NAMES[3]}'"):
        opened(root)
    for path in [*root.glob("*/*.jpg"), *root.glob("*/*.png"), *root.glob("*/*/*.json")]:
        path.unlink()
    with pytest.raises(UserError, match=r"jpgs has no \*.jpg; download the set again .*10.7937"):
        opened(root)
    (root / TABLE).unlink()
    with pytest.raises(UserError, match=r"lacks covid_rural_patient_info.csv"):
        opened(root)
