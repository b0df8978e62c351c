"""Every data set on its miniature replica: opened by its name, every image, mask and box read."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SOURCES, SourceOptions
from benchmark.types import SPLITS, Source
from tests.replicas import REPLICAS

ABSENT = {  # classes that the phantom cannot show
    "vindr-cxr": {"Aortic enlargement", "Calcification", "Clavicle fracture", "Emphysema", "Enlarged PA", "ILD", "Infiltration",
                  "Lung cavity", "Lung cyst", "Mediastinal shift", "Pulmonary fibrosis", "Other lesion", "COPD", "Lung tumor",
                  "Tuberculosis", "Other diseases"},
    "nih": {"Emphysema", "Fibrosis", "Hernia", "Mass"},
    "open-i": {"Airspace Disease", "Calcified Granuloma", "Emphysema", "Hernia, Hiatal", "Infiltrate", "Mass",
               "Pulmonary Congestion", "Pulmonary Fibrosis"},
}  # fmt: skip


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of --data-root with all of them."""
    root = tmp_path_factory.mktemp("sets")
    for write in REPLICAS.values():
        write(root)
    return root


def test_every_real_set_has_a_replica() -> None:
    assert set(REPLICAS) == set(SOURCES) - {"phantom", "csv"}


@pytest.mark.parametrize("name", REPLICAS)
def test_a_replica_is_read_whole(name: str, roots: Path) -> None:
    source = SOURCES.load(name)("", SourceOptions(root=roots))
    assert isinstance(source, Source)
    Dataset(source)  # ids, splits, patients
    for record in source.records:
        image = source.image(record)
        assert image.dtype == np.uint8
        assert image.std() > 20  # a picture, and a bright and a dark part of it
        for mask in record.masks:
            drawn = source.mask(record, mask)
            assert drawn.shape == image.shape
            assert set(np.unique(drawn)) <= {0, 1}
        for box in record.boxes or ():
            assert box.label in source.box_classes
            assert 0 <= box.x0 < box.x1 <= image.shape[1] + 2
            assert 0 <= box.y0 < box.y1 <= image.shape[0] + 2


@pytest.mark.parametrize("name", REPLICAS)
def test_every_split_shows_and_lacks_each_class(name: str, roots: Path) -> None:
    source = SOURCES.load(name)("", SourceOptions(root=roots))
    for split in SPLITS:
        if (name, split) == ("chexpert", "val"):
            continue  # a 45th of the patients: one, who cannot show everything
        records = [record for record in source.records if record.split == split]
        for place, label in enumerate(source.classes):
            if label not in ABSENT.get(name, ()):
                assert {0.0, 1.0} <= {record.labels[place] for record in records}, (split, label)
        for mask in source.mask_names:
            if name != "nih":  # few of its images have boxes, fewer one of each finding
                drawn = {bool(source.mask(record, mask).any()) for record in records if mask in record.masks}
                assert drawn == {True, False}, (split, mask)
        if source.box_classes:
            assert {bool(record.boxes) for record in records} == {True, False}, split


@pytest.mark.parametrize("name", REPLICAS)
def test_a_replica_is_the_same_each_time(name: str, roots: Path, tmp_path: Path) -> None:
    again = REPLICAS[name](tmp_path)
    first = roots / again.relative_to(tmp_path)
    assert _digests(again) == _digests(first)


def _digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}
