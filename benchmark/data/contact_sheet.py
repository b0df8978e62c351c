"""A contact sheet of a data set: pictures with outlined masks and boxes, and what is said of them."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from benchmark.errors import ImageError, UserError
from benchmark.types import Record, Source

TILE, TEXT_HEIGHT, COLUMNS = 320, 118, 4
COLORS = ((0, 220, 220), (240, 90, 240), (255, 220, 40), (120, 255, 120), (255, 140, 60))
BOX_COLOR = (255, 80, 80)


def contact_sheet(source: Source, n: int = 12, seed: int = 0) -> Image.Image:
    """Draws n records of a source, chosen by the seed, in rows of four.

    Every second picture carries the outlines of its masks and its boxes; below each stand uid, view, positive labels and the
    first words of the report. An image that cannot be read gives a tile that says why.

    Raises:
        UserError: the source has no records, or n is below 1.
    """
    if n < 1 or not source.records:
        raise UserError(
            f"a contact sheet of {n} of the {len(source.records)} images of {source.name!r} shows nothing; ask for 1 or more"
        )
    count = min(n, len(source.records))
    chosen = np.random.default_rng([seed, 77]).choice(len(source.records), count, replace=False)
    rows = -(-count // COLUMNS)
    sheet = Image.new("RGB", (min(count, COLUMNS) * TILE, rows * (TILE + TEXT_HEIGHT)), (16, 16, 16))
    for place, index in enumerate(chosen.tolist()):
        row, column = divmod(place, COLUMNS)
        tile = _tile(source, source.records[index], outlined=place % 2 == 1)
        sheet.paste(tile, (column * TILE, row * (TILE + TEXT_HEIGHT)))
    return sheet


def _tile(source: Source, record: Record, *, outlined: bool) -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE + TEXT_HEIGHT), (16, 16, 16))
    pen = ImageDraw.Draw(tile)
    try:
        pixels = source.image(record)
        picture = _outlined(source, record, pixels) if outlined else Image.fromarray(pixels).convert("RGB")
        ratio = (TILE - 4) / max(picture.size)
        size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
        tile.paste(picture.resize(size, Image.Resampling.BICUBIC), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    except ImageError as error:
        _write(pen, 40, str(error), (255, 120, 120), 6)
    names = [name for name, value in zip(source.classes, record.labels) if value == 1]
    unsure = [f"{name}?" for name, value in zip(source.classes, record.labels) if value != value]
    _write(pen, TILE + 2, f"{record.uid}  {record.view or 'view unknown'}", (160, 200, 255), 1)
    used = 1 + _write(pen, TILE + 16, ", ".join(names + unsure) or "no positive label", (255, 235, 140), 2)
    text = " ".join(record.sections.get(name, "") for name in record.sections)
    _write(pen, TILE + 2 + 14 * used, text, (225, 225, 225), 8 - used)
    return tile


def _write(pen: ImageDraw.ImageDraw, top: int, text: str, color: tuple[int, int, int], most: int) -> int:
    lines = wrap(text.encode("ascii", "replace").decode(), 52)[:most]
    for number, line in enumerate(lines):
        pen.text((4, top + 14 * number), line, fill=color, font=ImageFont.load_default(11))
    return len(lines)


def _outlined(source: Source, record: Record, pixels: NDArray[np.uint8]) -> Image.Image:
    """(H, W) pixels with the edges of the masks in color, then boxes."""
    colored = np.stack([pixels] * 3, axis=-1)
    for number, name in enumerate(name for name in source.mask_names if name in record.masks):
        inside = source.mask(record, name) == 1
        colored[inside & ~binary_erosion(inside)] = COLORS[number % len(COLORS)]
    picture = Image.fromarray(colored)
    pen = ImageDraw.Draw(picture)
    for box in record.boxes or ():
        pen.rectangle((box.x0, box.y0, max(box.x0, box.x1 - 1), max(box.y0, box.y1 - 1)), outline=BOX_COLOR)
    return picture
