"""The depth of gray where a DICOM file states no window, and a window where it states one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.data.dicom import read_dicom
from tests.test_dicom import dataset, picture, saved, scaled


@pytest.mark.parametrize(
    ("stored", "used", "depth"), [(16, 12, 12), (14, 12, 12), (16, 10, 10), (16, 16, 16), (12, 8, 8), (12, 11, 12)]
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_without_a_window_gray_fills_the_depth_that_is_used(
    tmp_path: Path, stored: int, used: int, depth: int, photometric: str
) -> None:
    values = picture(used).astype(np.uint16)
    values[0, 0] = 2**used - 1
    path = saved(dataset(values, stored, PhotometricInterpretation=photometric), tmp_path / "a.dcm")
    expected = scaled(values, depth)
    np.testing.assert_array_equal(read_dicom(path, "a"), expected if photometric == "MONOCHROME2" else 255 - expected)


def test_a_marker_does_not_change_the_contrast_and_a_window_decides_where_there_is_one(tmp_path: Path) -> None:
    values = picture(12).astype(np.uint16)
    plain = read_dicom(saved(dataset(values, 16), tmp_path / "a.dcm"), "a")
    values[:3, :3] = 4095
    np.testing.assert_array_equal(read_dicom(saved(dataset(values, 16), tmp_path / "b.dcm"), "b")[3:], plain[3:])
    window = {"WindowCenter": 32768, "WindowWidth": 65536}
    darker = read_dicom(saved(dataset(values, 16, **window), tmp_path / "c.dcm"), "c")
    assert darker.max() == 16  # as the file says: 4,095 of 65,535


def test_a_rescaled_image_without_a_window_fills_the_depth_that_is_used(tmp_path: Path) -> None:
    values = picture(12).astype(np.uint16)
    path = saved(dataset(values, 16, RescaleSlope=2, RescaleIntercept=-1000), tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_dicom(path, "a"), scaled(values, 12))
