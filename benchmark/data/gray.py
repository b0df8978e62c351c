"""From stored values to gray, as DICOM has it: modality LUT -> VOI LUT -> MONOCHROME1 turned -> 8 bits; and depths of PNG.

Where a file states a window or a table, that decides. Where it states none, gray goes from 0 to the top of the depth that is
in use, never to the largest value itself: a marker burned into one film must not change its contrast. Files of 12 bits that
declare 16 are common, and by their header they would come out dark.

All steps work value by value, so they are computed once for each value that the header allows (2 ** bits, at most 65,536) and
looked up for the pixels. Tables are looked up here: pydicom 3.0 overflows where entries of 8 bits map values of more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

DECODING = 2  # raised whenever a file gives other pixels; sources write it into their version
DEPTHS = (8, 10, 12, 14, 16)


def depth_of(largest: int) -> int:
    """The smallest of DEPTHS that holds a value: scanners store 10, 12 or 14 bits in files of 16.

    >>> depth_of(255), depth_of(4095), depth_of(4096)
    (8, 12, 14)
    """
    return next(depth for depth in DEPTHS if largest < 2**depth)


def gray_table(dataset: FileDataset, bits: int, signed: bool, largest: int) -> NDArray[np.uint8]:
    """What becomes of each pattern of stored bits.

    Args:
        bits: that the header declares. signed: two's complement. largest: pattern in the image.

    Returns:
        (2 ** bits,) uint8; 255 is white.

    Raises:
        ValueError: a window or table that gives no gray.
    """
    values = np.arange(2**bits, dtype=np.float64)
    if signed:
        values[len(values) // 2 :] -= len(values)
    used = 2**bits if signed else min(2**bits, 2 ** depth_of(largest))  # a signed range begins below what is used of it
    values, low, high = _window(dataset, *_modality(dataset, values, used))
    if not (np.isfinite(values).all() and low < high < np.inf):
        raise ValueError(f"gray from {low} to {high}")
    table = np.clip(np.floor((values - low) * 255 / (high - low) + 0.5), 0, 255).astype(np.uint8)
    return 255 - table if dataset.PhotometricInterpretation == "MONOCHROME1" else table


def _modality(dataset: FileDataset, values: NDArray[np.float64], used: int) -> tuple[NDArray[np.float64], float, float]:
    """Values after the modality LUT (PS3.3 C.11.1), and the smallest and largest of the patterns below `used`."""
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if tables := dataset.get("ModalityLUTSequence"):
        return _look_up(tables[0], values, dataset.original_encoding[1])
    if slope is not None and intercept is not None:
        values = values * float(slope) + float(intercept)
    return values, float(values[:used].min()), float(values[:used].max())


def _window(
    dataset: FileDataset, values: NDArray[np.float64], low: float, high: float
) -> tuple[NDArray[np.float64], float, float]:
    """Values after the VOI LUT (PS3.3 C.11.2), and their range; unchanged where the file has none."""
    center, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if tables := dataset.get("VOILUTSequence"):
        return _look_up(tables[0], values, dataset.original_encoding[1])
    if center is None or width is None:
        return values, low, high
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "LINEAR":  # PS3.3 C.11.2.1.2.1: a width of 1 is a threshold
        center, width = center - 0.5, width - 1
        if width == 0:
            return (values > center).astype(np.float64), 0.0, 1.0
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or width <= 0:
        raise ValueError(f"window {function} of center {center} and width {width}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -500, 500))), 0.0, 1.0
    return np.clip((values - center) / width + 0.5, 0, 1), 0.0, 1.0


def _look_up(item: Any, values: NDArray[np.float64], little: bool | None) -> tuple[NDArray[np.float64], float, float]:
    """Values by a table; those before its first and after its last entry take these."""
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    data = np.frombuffer(item.LUTData, "<u2" if little else ">u2") if isinstance(item.LUTData, bytes) else item.LUTData
    entries = np.atleast_1d(np.asarray(data, np.float64))
    count = count or 2**16  # as the standard has it, for lack of bits
    if bits not in (8, *range(10, 17)) or len(entries) < count:
        raise ValueError(f"lookup table with {len(entries)} of {count} entries of {bits} bits")
    return entries[np.clip(np.rint(values) - first, 0, count - 1).astype(np.int64)], 0.0, 2.0**bits - 1


def _first(value: Any) -> float | None:
    """The first of one or several numbers."""
    return value if value is None or isinstance(value, int | float) else float(value[0]) if len(value) else None
