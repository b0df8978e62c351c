"""Reading PNG and JPEG files faithfully or not at all.

Nothing is repaired: a file whose pixels cannot be had as they were written is an ImageError with a reason and a way out.
Pillow's LOAD_TRUNCATED_IMAGES stays off; with it a JPEG cut in half loads with almost half of its pixels wrong.
"""

from __future__ import annotations

import stat
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from benchmark.data.geometry import IGNORE
from benchmark.data.gray import depth_of
from benchmark.errors import ImageError

MAX_PIXELS = 150_000_000  # below the size at which Pillow itself refuses; a chest X-ray has about 20 million
_GRAY16 = ("I", "I;16", "I;16B", "I;16L")
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
_MASK_VALUES = {0: 0, 127: IGNORE, 255: 1}


def read_image(path: Path, uid: str) -> NDArray[np.uint8]:
    """The gray values of a PNG or JPEG file, whatever its name ends with; the EXIF orientation is applied.

    16-bit gray is scaled linearly by its bit depth, the smallest of 8, 10, 12, 14 and 16 bits that holds its largest value
    (scanners store 12 bits in files of 16). Color and palette become luma (ITU-R BT.601), CMYK by way of RGB; transparency
    is set on black. The checksums of a PNG are compared; a JPEG has none, flipped bits in one of full length go unseen.

    Args:
        path: the file.
        uid: the record's uid, for the error.

    Returns:
        (H, W) uint8.

    Raises:
        ImageError: missing, empty, not a PNG or JPEG, truncated, damaged, animated, too large, or of a depth that would be
            cut (16-bit color).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes, which are checked here, and of metadata, which are not used
        image = _open(path, uid)
        try:
            return _gray(image)
        except _DECODE_ERRORS as error:
            raise ImageError(uid, f"{path} cannot be converted to gray ({error}); save it as 8-bit gray PNG") from error


def read_mask(path: Path, uid: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask as the csv format writes it: 8-bit gray with 0 background, 127 ignore, 255 structure (or 1 bit: 0 and 1).

    Args:
        path: the file.
        uid: the record's uid, for the error.
        shape: (H, W) of the record's image.

    Returns:
        (H, W) uint8: 0 background, 1 structure, 255 ignore.

    Raises:
        ImageError: as read_image, or another mode, size or value.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(path, uid)
        if image.mode not in ("L", "1"):
            raise ImageError(uid, f"mask {path} has mode {image.mode}; save it as 8-bit gray PNG with 0, 127 and 255")
        values = np.array(image.convert("L"), np.uint8)
    if values.shape != shape:
        sizes = f"{values.shape[1]} x {values.shape[0]} pixels, the image {shape[1]} x {shape[0]}"
        raise ImageError(uid, f"mask {path} is {sizes}; save it in the size of the image")
    strange = sorted(set(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()) - set(_MASK_VALUES))
    if strange:
        raise ImageError(uid, f"mask {path} holds the value {strange[0]}; use 0 background, 127 ignore and 255 structure alone")
    table = np.zeros(256, np.uint8)
    table[list(_MASK_VALUES)] = list(_MASK_VALUES.values())
    return table[values]


def image_shape(path: Path, uid: str) -> tuple[int, int]:
    """(H, W) that read_image would give, from the header where the format allows it. Raises ImageError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_file(path, uid)
        try:
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
                return (image.width, image.height) if turned else (image.height, image.width)
        except _DECODE_ERRORS as error:
            raise ImageError(uid, f"{path} is not an image that can be read ({error}); download it again") from error


def _open(path: Path, uid: str) -> Image.Image:
    """A loaded image, turned as EXIF says."""
    _check_file(path, uid)
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            _check_header(image, path, uid)
            image.verify()  # the checksums of a PNG, which load() does not compare; nothing for JPEG, which has none
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            image.load()
            turned = ImageOps.exif_transpose(image)
            turned.load()
    except UnidentifiedImageError as error:
        raise ImageError(uid, f"{path} {_what_it_is(path)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(uid, f"{path} has more than {MAX_PIXELS:,} pixels by its header; shrink it first") from error
    except _DECODE_ERRORS as error:
        raise ImageError(uid, f"{path} is truncated or damaged ({error}); copy or download it again") from error
    return turned


def _check_file(path: Path, uid: str) -> None:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(uid, f"{path} cannot be read ({reason}); check the path in the records") from error
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(uid, f"{path} is a folder or a device, not a file; check the path in the records")
    if status.st_size == 0:
        raise ImageError(uid, f"{path} is empty (0 bytes); copy or download it again")


def _check_header(image: Image.Image, path: Path, uid: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        raise ImageError(uid, f"{path} is animated; save one frame as PNG")
    with path.open("rb") as file:
        header = file.read(26)
    if image.format == "PNG" and header[24] == 16 and header[25] != 0:  # Pillow would keep the upper 8 bits alone
        raise ImageError(uid, f"{path} is a 16-bit color PNG; save it as 8-bit, or as 16-bit gray")


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(256)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "is a web page, not an image (a log-in or error page was saved in its place); download it again"
    if head.startswith((b"\x89PNG", b"\xff\xd8")):
        return "is truncated or damaged in its header; copy or download it again"
    if head[128:132] == b"DICM":
        return "is a DICOM file; export it as PNG first"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not an image; run `git lfs pull` there"
    kinds = ((b"GIF8", "GIF"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"BM", "BMP"), (b"RIFF", "WebP"))
    for magic, kind in kinds:
        if head.startswith(magic):
            return f"is a {kind} file; save one frame as PNG"
    return "is not a PNG or JPEG image; download it again or leave its row out"


def _gray(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in _GRAY16:
        values = np.array(image).astype(np.int64)
        if "transparency" in image.info:
            values[values == image.info["transparency"]] = 0
        return _scale(values)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        color = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", color.size, (0, 0, 0, 255)), color).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGB")
    if image.mode not in ("1", "L", "RGB", "YCbCr"):
        raise ValueError(f"mode {image.mode}")
    return np.array(image.convert("L"), np.uint8)


def _scale(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(H, W) int64 in [0, 65535] -> (H, W) uint8, linear and rounded; 0 stays 0 and the depth's largest becomes 255."""
    largest = int(values.max())
    if values.min() < 0 or largest > 65535:
        raise ValueError(f"values from {values.min()} to {largest} do not fit 16 bits")
    top = 2 ** depth_of(largest) - 1
    scaled: NDArray[np.uint8] = ((values * 255 + top // 2) // top).astype(np.uint8)
    return scaled
