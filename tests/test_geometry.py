"""Images, masks, boxes and maps go to the canvas and back through one affine."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import from_numpy
from torch.nn.functional import interpolate

from benchmark.data.geometry import Geometry

SHAPES = [(64, 64), (40, 90), (90, 40), (1, 50), (50, 1), (333, 257), (3000, 2), (17, 17)]
EVERY = [Geometry(h, w, 48, resize) for h, w in SHAPES for resize in ("pad", "stretch")]
sides = st.integers(1, 600)
geometries = st.builds(Geometry, sides, sides, st.integers(1, 256), st.sampled_from(["pad", "stretch"]))


@given(geometries, st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=4))
def test_boxes_come_back(geometry: Geometry, corners: list[tuple[float, ...]]) -> None:
    unit = np.array(corners, np.float64).reshape(-1, 2, 2)
    boxes = np.concatenate([unit.min(1), unit.max(1)], 1) * ([geometry.width, geometry.height] * 2)
    canvas = geometry.boxes_to_canvas(boxes)
    assert canvas.shape == boxes.shape
    assert ((canvas >= -1e-9) & (canvas <= geometry.size + 1e-9)).all()
    np.testing.assert_allclose(geometry.boxes_to_original(canvas), boxes, atol=1e-6)


@pytest.mark.parametrize("geometry", EVERY)
def test_the_whole_image_is_the_content_of_the_canvas(geometry: Geometry) -> None:
    left, top, width, height = geometry.content
    whole = geometry.boxes_to_canvas(np.array([[0.0, 0, geometry.width, geometry.height]]))[0]
    assert whole.tolist() == pytest.approx([left, top, left + width, top + height])
    white = geometry.image_to_canvas(np.full((geometry.height, geometry.width), 255, np.uint8))
    drawn = np.zeros((48, 48), np.uint8)
    drawn[top : top + height, left : left + width] = 255
    np.testing.assert_array_equal(white, drawn)


def test_pad_keeps_the_aspect_ratio_and_centers_and_stretch_fills() -> None:
    assert Geometry(100, 50, 40, "pad").content == (10, 0, 20, 40)
    assert Geometry(50, 100, 40, "pad").content == (0, 10, 40, 20)
    assert Geometry(50, 100, 41, "pad").content == (0, 10, 41, 20)
    assert Geometry(100, 50, 40, "stretch").content == (0, 0, 40, 40)
    assert Geometry(1, 5000, 64, "pad").content == (0, 31, 64, 1)
    assert Geometry(100, 50, 40, "stretch").scale == (0.8, 0.4)


@pytest.mark.parametrize("resize", ["pad", "stretch"])
@pytest.mark.parametrize(("height", "width", "size"), [(96, 64, 48), (24, 16, 48), (64, 96, 32)])
def test_a_drawn_rectangle_stays_inside_its_box(height: int, width: int, size: int, resize: str) -> None:
    geometry = Geometry(height, width, size, resize)  # type: ignore[arg-type]
    x0, y0, x1, y1 = width // 4, height // 4, width // 2, height // 4 * 3
    image = np.zeros((height, width), np.uint8)
    image[y0:y1, x0:x1] = 255
    box = geometry.boxes_to_canvas(np.array([[x0, y0, x1, y1]], np.float64))[0]
    for canvas in (geometry.image_to_canvas(image), np.where(geometry.mask_to_canvas(image // 255) == 1, 255, 0)):
        np.testing.assert_allclose(edges(canvas > 127), box, atol=0.51)
        np.testing.assert_allclose(centroid(canvas), [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], atol=0.02)


def edges(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def centroid(canvas: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of pixel areas, so that a pixel's middle is at + 0.5."""
    weights = canvas.astype(float) / canvas.sum()
    places = np.arange(len(canvas)) + 0.5
    return np.array([(weights.sum(0) * places).sum(), (weights.sum(1) * places).sum()])


@pytest.mark.parametrize("geometry", EVERY)
def test_masks_take_the_pixel_below_each_center_and_are_ignored_outside(geometry: Geometry) -> None:
    mask = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (geometry.height, geometry.width))
    canvas = geometry.mask_to_canvas(mask)
    left, top, width, height = geometry.content
    expected = np.full((48, 48), 255, np.uint8)
    for row in range(height):
        for column in range(width):
            y = int((row + Fraction(1, 2)) * geometry.height / height)
            x = int((column + Fraction(1, 2)) * geometry.width / width)
            expected[top + row, left + column] = mask[y, x]
    np.testing.assert_array_equal(canvas, expected)


def test_shrinking_averages_and_does_not_alias() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    small = Geometry(64, 64, 16).image_to_canvas(stripes)
    assert np.abs(small.astype(int) - 127).max() <= 16
    assert np.abs(Geometry(64, 64, 16).image_to_canvas(stripes, "bicubic").astype(int) - 127).max() <= 16


@pytest.mark.parametrize("geometry", EVERY)
def test_maps_come_back_as_they_were_and_without_padding(geometry: Geometry) -> None:
    left, top, width, height = geometry.content
    scores = np.full((48, 48), -1000, np.float32)
    scores[top : top + height, left : left + width] = 3
    back = geometry.map_to_original(scores)
    assert back.shape == (geometry.height, geometry.width)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, 3, rtol=1e-6)


def test_enlarging_a_map_is_the_bilinear_interpolation_of_torch() -> None:
    geometry = Geometry(90, 60, 30)
    scores = np.random.default_rng(0).normal(size=(30, 30)).astype(np.float32)
    left, top, width, height = geometry.content
    content = from_numpy(scores[top : top + height, left : left + width].copy())[None, None]
    expected = interpolate(content, (90, 60), mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(geometry.map_to_original(scores), expected, atol=1e-5)


def test_predicted_boxes_are_clipped_to_the_image() -> None:
    geometry = Geometry(100, 50, 40)
    back = geometry.boxes_to_original(np.array([[0.0, -5, 40, 50], [0, 0, 5, 5]]))
    np.testing.assert_allclose(back, [[0, 0, 50, 100], [0, 0, 0, 12.5]])
    assert geometry.boxes_to_original(np.zeros((0, 4))).shape == (0, 4)


def test_wrong_shapes_and_sizes_are_refused() -> None:
    for arguments in ((0, 5, 5), (5, -1, 5), (5, 5, 0), (5, 5, 5, "crop")):
        with pytest.raises(ValueError, match=r"positive|neither"):
            Geometry(*arguments)  # type: ignore[arg-type]
    geometry = Geometry(10, 20, 8)
    with pytest.raises(ValueError, match="for an image of 10 x 20"):
        geometry.image_to_canvas(np.zeros((20, 10), np.uint8))
    with pytest.raises(ValueError, match="for an image of 10 x 20"):
        geometry.mask_to_canvas(np.zeros((10, 20), np.int64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="for a canvas of 8"):
        geometry.map_to_original(np.zeros((10, 20), np.float32))
