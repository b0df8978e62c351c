"""Masks of sets that have boxes: the union of the filled boxes of a label, at the image's size, as LoVT and MGCA draw them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark.types import Box

DRAWN = "boxes"  # the reference of such a mask in Record.masks


def filled(boxes: Sequence[Box], label: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) uint8: 1 in any box of the label, its edges rounded outwards; 0 elsewhere."""
    drawn = np.zeros(shape, np.uint8)
    for box in boxes:
        if box.label == label:
            drawn[math.floor(box.y0) : math.ceil(box.y1), math.floor(box.x0) : math.ceil(box.x1)] = 1
    return drawn
