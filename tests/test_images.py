"""A corpus of odd and broken files: what is read is read right, everything else is refused with a reason."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from benchmark.data.images import MAX_PIXELS, image_shape, read_image, read_mask
from benchmark.errors import ImageError

H, W = 48, 64


def picture(height: int = H, width: int = W) -> NDArray[np.uint8]:
    """A smooth ramp with noise, so that JPEG has something to do and every row differs."""
    noise = np.random.default_rng(0).integers(0, 30, (height, width))
    ramp = np.linspace(0, 220, height)[:, None] + np.linspace(0, 5, width)[None]
    return (ramp + noise).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gray() -> Image.Image:
    return Image.fromarray(picture())


def color() -> Image.Image:
    return Image.merge("RGB", [gray(), gray().point(lambda value: 255 - value), Image.new("L", (W, H), 77)])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG written by hand, for depths that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def gray16(values: NDArray[np.integer]) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, 0, rows)


def palette() -> bytes:
    """Gray levels in shuffled palette places."""
    order = np.random.default_rng(1).permutation(256)
    image = Image.fromarray(np.argsort(order)[picture()].astype(np.uint8)).convert("P")
    image.putpalette(np.repeat(order.astype(np.uint8), 3).tobytes())
    return encoded(image)


def transparent(mode: str) -> bytes:
    image = gray().convert(mode)
    image.putalpha(Image.fromarray(np.where(np.arange(W) < W // 2, 255, 0).astype(np.uint8)[None].repeat(H, 0)))
    return encoded(image)


def half_black() -> NDArray[np.uint8]:
    return np.where(np.arange(W) < W // 2, picture(), 0).astype(np.uint8)


def rotated(kind: str, image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned clockwise
    return encoded(image, kind, exif=exif)


def cut(data: bytes, fraction: float) -> bytes:
    return data[: int(len(data) * fraction)]


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def noisy_jpeg(**options: object) -> bytes:
    return encoded(Image.fromarray(picture(200, 300)), "JPEG", quality=90, **options)


RAMP16 = (np.arange(H * W).reshape(H, W) * 65535 // (H * W - 1)).astype(np.int64)
RAMP12 = RAMP16 >> 4

# name -> bytes and what must come of them: the pixels, or words of the reason
READ: dict[str, tuple[Callable[[], bytes], Callable[[], NDArray[np.uint8]], int]] = {
    "gray.png": (lambda: encoded(gray()), picture, 0),
    "gray.jpg": (lambda: encoded(gray(), "JPEG", quality=95), picture, 12),
    "progressive.jpg": (lambda: encoded(gray(), "JPEG", quality=95, progressive=True), picture, 12),
    "jpeg-named.png": (lambda: encoded(gray(), "JPEG", quality=95), picture, 12),
    "png-named.jpg": (lambda: encoded(gray()), picture, 0),
    "no-extension": (lambda: encoded(gray()), picture, 0),
    "one-bit.png": (lambda: encoded(Image.fromarray(picture() > 99)), lambda: (picture() > 99) * np.uint8(255), 0),
    "palette.png": (palette, picture, 0),
    "rgb-gray.png": (lambda: encoded(gray().convert("RGB")), picture, 0),
    "rgb.png": (lambda: encoded(color()), lambda: luma(np.array(color())), 1),
    "rgb.jpg": (lambda: encoded(gray().convert("RGB"), "JPEG", quality=95), picture, 12),
    "cmyk.jpg": (lambda: encoded(gray().convert("RGB").convert("CMYK"), "JPEG", quality=95), picture, 12),
    "rgba.png": (lambda: transparent("RGBA"), half_black, 0),
    "la.png": (lambda: transparent("LA"), half_black, 0),
    "transparent-gray.png": (
        lambda: encoded(gray(), transparency=100), lambda: np.where(picture() == 100, 0, picture()).astype(np.uint8), 0
    ),
    "16-bit.png": (lambda: gray16(RAMP16), lambda: np.rint(RAMP16 / 65535 * 255).astype(np.uint8), 0),
    "12-bit-in-16.png": (lambda: gray16(RAMP12), lambda: np.rint(RAMP12 / 4095 * 255).astype(np.uint8), 0),
    "8-bit-in-16.png": (lambda: gray16(picture()), picture, 0),
    "exif-rotated.jpg": (lambda: rotated("JPEG", gray()), lambda: np.rot90(picture(), -1), 40),
    "exif-rotated.png": (lambda: rotated("PNG", gray()), lambda: np.rot90(picture(), -1), 0),
    "exif-rotated-16.png": (
        lambda: rotated("PNG", Image.fromarray(RAMP16.astype(np.uint16))),
        lambda: np.rot90(np.rint(RAMP16 / 65535 * 255).astype(np.uint8), -1), 0,
    ),
    "one-pixel.png": (lambda: encoded(Image.new("L", (1, 1), 7)), lambda: np.full((1, 1), 7, np.uint8), 0),
    "trailing-bytes.png": (lambda: encoded(gray()) + b"\n\n", picture, 0),
}  # fmt: skip

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.png": (lambda: b"", "0 bytes"),
    "page.png": (lambda: b"\n<!DOCTYPE html><html>Please log in</html>", "web page"),
    "text.png": (lambda: b"not an image at all", "not a PNG or JPEG"),
    "noise.jpg": (lambda: random.Random(0).randbytes(4000), "not a PNG or JPEG"),
    "pointer.png": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "scan.png": (lambda: bytes(128) + b"DICM" + bytes(64), "DICOM"),
    "table.tif": (lambda: encoded(gray(), "TIFF"), "TIFF"),
    "still.gif": (lambda: encoded(gray(), "GIF"), "GIF"),
    "moving.gif": (lambda: encoded(gray(), "GIF", save_all=True, append_images=[color()]), "GIF"),
    "moving.png": (lambda: encoded(gray(), save_all=True, append_images=[Image.new("L", (W, H), 9)]), "animated"),
    "16-bit-color.png": (lambda: png(2, 1, 16, 2, b"\0" + bytes(12)), "16-bit color"),
    "bomb.png": (lambda: png(30_000, 30_000, 8, 0, b"\0"), "more than"),
    "above-limit.png": (lambda: png(MAX_PIXELS // 10_000 + 1, 10_000, 8, 0, b"\0"), "more than"),
    "signature-only.png": (lambda: encoded(gray())[:8], "truncated or damaged"),
    "bits-flipped.png": (lambda: flipped(encoded(gray()), 1000), "truncated or damaged"),
    **{
        f"cut-{part}.png": (lambda part=part: cut(encoded(gray()), part / 100), "truncated or damaged") for part in (10, 50, 90)
    },
    **{f"cut-{part}.jpg": (lambda part=part: cut(noisy_jpeg(), part / 100), "truncated or damaged") for part in (10, 50, 90)},
    "cut-50-progressive.jpg": (lambda: cut(noisy_jpeg(progressive=True), 0.5), "truncated or damaged"),
}


def luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.rint(rgb @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_read_right(name: str, tmp_path: Path) -> None:
    make, expected, tolerance = READ[name]
    (tmp_path / name).write_bytes(make())
    image = read_image(tmp_path / name, "uid")
    assert image.dtype == np.uint8
    assert image.shape == expected().shape == image_shape(tmp_path / name, "uid")
    assert np.abs(image.astype(int) - expected()).max() <= tolerance


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_faithfully_is_refused(name: str, tmp_path: Path) -> None:
    make, words = REFUSED[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(ImageError, match=words) as caught:
        read_image(tmp_path / name, "patient-7")
    assert caught.value.uid == "patient-7"
    assert name in caught.value.reason
    assert ";" in caught.value.reason  # what is wrong; the way out


def test_missing_files_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    for name, words in {
        "missing.png": "cannot be read",
        "dangling.png": "cannot be read",
        "folder.png": "is a folder or a device",
        "pipe.png": "is a folder or a device",
        "gray.png/below": "cannot be read",
        "nul\0byte.png": "cannot be read",
        "x" * 300: "cannot be read",
    }.items():
        with pytest.raises(ImageError, match=words):
            read_image(tmp_path / name, "uid")


def test_pillow_is_never_told_to_load_truncated_images() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_random_damage_never_gives_another_error_or_a_partly_gray_png(tmp_path: Path) -> None:
    """Any byte of a PNG turned over: refused, or the very same pixels (the byte did not matter)."""
    good, draw = encoded(gray()), random.Random(3)
    path = tmp_path / "damaged.png"
    refused = 0
    for _ in range(150):
        path.write_bytes(flipped(good, draw.randrange(33, len(good))))  # after the header, whose fields may turn into others
        try:
            image = read_image(path, "uid")
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(image, picture())
    assert refused > 100


def test_damaged_jpegs_and_headers_raise_nothing_but_image_errors(tmp_path: Path) -> None:
    draw = random.Random(4)
    path = tmp_path / "damaged"
    for good in (noisy_jpeg(), encoded(gray()), rotated("JPEG", gray()), gray16(RAMP16), palette()):
        for _ in range(40):
            path.write_bytes(flipped(good, draw.randrange(min(len(good), 700))))
            with contextlib.suppress(ImageError):  # JPEG has no checksums: damage to its data may go unseen
                read_image(path, "uid")


def test_a_mask_becomes_background_structure_and_ignore(tmp_path: Path) -> None:
    values = np.array([[0, 127, 255], [255, 0, 127]], np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", "uid", (2, 3)), [[0, 255, 1], [1, 0, 255]])
    Image.fromarray(values == 255).save(tmp_path / "one-bit.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "one-bit.png", "uid", (2, 3)), [[0, 0, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.new("L", (3, 2), 1), "value 1;"),
        (Image.new("L", (3, 2), 254), "value 254;"),
        (Image.new("L", (2, 3), 255), "2 x 3 pixels, the image 3 x 2"),
        (Image.new("RGB", (3, 2)), "mode RGB"),
        (Image.new("P", (3, 2)), "mode P"),
        (Image.fromarray(np.zeros((2, 3), np.uint16)), "mode I;16"),
    ],
)
def test_other_masks_are_refused(image: Image.Image, words: str, tmp_path: Path) -> None:
    image.save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=words):
        read_mask(tmp_path / "mask.png", "uid", (2, 3))
