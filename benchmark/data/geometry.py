"""How an original image lies on a method's square canvas: one affine for images, masks, boxes, and back again.

Coordinates are pixel edges: pixel i covers [i, i + 1), so that an image of width W spans [0, W] and a box around the pixels
a..b is (a, b + 1). The content is resized to whole pixels of the canvas and the scales follow from the rounded sizes, hence
what Pillow does to pixels and what is computed for boxes is the same affine, without a half-pixel shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

IGNORE = 255
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Original (height, width) on a canvas of (size, size).

    Args:
        height: of the original image in pixels.
        width: of the original image in pixels.
        size: of the canvas in pixels.
        resize: "pad" keeps the aspect ratio (to a rounded pixel) and centers the image; "stretch" fills the canvas.

    Raises:
        ValueError: a size is not positive, the policy is unknown, or an array does not have the stated shape.
    """

    height: int
    width: int
    size: int
    resize: Literal["pad", "stretch"] = "pad"

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.size) < 1:
            raise ValueError(f"image {self.height} x {self.width} on a canvas of {self.size}: all must be positive")
        if self.resize not in ("pad", "stretch"):
            raise ValueError(f"resize {self.resize!r} is neither 'pad' nor 'stretch'")

    @property
    def content(self) -> tuple[int, int, int, int]:
        """(left, top, width, height) of the image on the canvas, in whole pixels."""
        if self.resize == "stretch":
            return 0, 0, self.size, self.size
        scale = self.size / max(self.height, self.width)
        width = min(self.size, max(1, round(self.width * scale)))
        height = min(self.size, max(1, round(self.height * scale)))
        return (self.size - width) // 2, (self.size - height) // 2, width, height

    @property
    def scale(self) -> tuple[float, float]:
        """Canvas pixels for each original pixel along (x, y)."""
        _, _, width, height = self.content
        return width / self.width, height / self.height

    def boxes_to_canvas(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """boxes: (n, 4) x0, y0, x1, y1 in original pixels -> (n, 4) float64 in canvas pixels."""
        left, top, _, _ = self.content
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        canvas: NDArray[np.float64] = boxes * np.array(self.scale * 2) + np.array((left, top, left, top), np.float64)
        return canvas

    def boxes_to_original(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """boxes: (n, 4) in canvas pixels -> (n, 4) float64 in original pixels, clipped to the image.

        A box that lies in the padding alone becomes one without area at the image's border.
        """
        left, top, _, _ = self.content
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        original = (boxes - np.array((left, top, left, top), np.float64)) / np.array(self.scale * 2)
        limits = np.array((self.width, self.height, self.width, self.height), np.float64)
        clipped: NDArray[np.float64] = np.clip(original, 0.0, limits)
        return clipped

    def image_to_canvas(self, image: NDArray[np.uint8], interpolation: str = "bilinear") -> NDArray[np.uint8]:
        """image: (H, W) uint8 -> (S, S) uint8, antialiased when it shrinks; 0 outside the image.

        Args:
            interpolation: "bilinear" or "bicubic".
        """
        left, top, width, height = self.content
        canvas = np.zeros((self.size, self.size), np.uint8)
        resized = Image.fromarray(self._original(image)).resize((width, height), _FILTERS[interpolation])
        canvas[top : top + height, left : left + width] = np.asarray(resized)
        return canvas

    def mask_to_canvas(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """mask: (H, W) uint8 -> (S, S) uint8 by nearest neighbor, no new values; 255 (ignore) outside the image."""
        left, top, width, height = self.content
        canvas = np.full((self.size, self.size), IGNORE, np.uint8)
        # the pixel in which each center lies, in whole numbers: a floating-point nearest is undecided at pixel edges
        rows = (2 * np.arange(height) + 1) * self.height // (2 * height)
        columns = (2 * np.arange(width) + 1) * self.width // (2 * width)
        canvas[top : top + height, left : left + width] = self._original(mask)[np.ix_(rows, columns)]
        return canvas

    def map_to_original(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """scores: (S, S) float32 -> (H, W) float32, bilinear (antialiased when it shrinks); padding never mixes in."""
        if scores.shape != (self.size, self.size):
            raise ValueError(f"map of shape {scores.shape} for a canvas of {self.size}")
        left, top, width, height = self.content
        content = np.ascontiguousarray(scores[top : top + height, left : left + width], np.float32)
        resized = Image.fromarray(content).resize((self.width, self.height), Image.Resampling.BILINEAR)
        return np.array(resized, np.float32)

    def _original(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if array.shape != (self.height, self.width) or array.dtype != np.uint8:
            raise ValueError(f"array {array.shape} {array.dtype} for an image of {self.height} x {self.width} uint8")
        return np.ascontiguousarray(array)
