"""Drawing on an attenuation field: soft polygons, lines, smooth random fields, the film."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from benchmark.data.phantom.anatomy import Field, Points, Transform
from benchmark.data.phantom.draws import NOISE, generator

LETTERS = {
    "L": ("1000", "1000", "1000", "1000", "1000", "1000", "1111"),
    "R": ("1110", "1001", "1001", "1110", "1100", "1010", "1001"),
}
Window = tuple[slice, slice]


@dataclass
class Canvas:
    """A picture in the making.

    density: (H, W) display value from 0 (air) to 1 (metal), brighter is denser. lines: (H, W) thin structures, blurred once
    at the end. x, y: (H, W) body coordinates.
    """

    transform: Transform
    density: Field
    x: Field
    y: Field
    lines: Field = field(init=False)

    def __post_init__(self) -> None:
        self.lines = np.zeros_like(self.density)

    @property
    def size(self) -> int:
        """Height and width."""
        return self.transform.size

    def polygon(self, points: Points, soft: float) -> tuple[Window, Field]:
        """A polygon in body coordinates with edges blurred over `soft` body units: its window, and (h, w) cover 0 to 1."""
        pixels = self.transform.to_pixels(points)
        sigma = soft * self.size / 2 * self.transform.pose.scale
        window = clip_window(pixels, 3 * sigma + 1, self.size)
        cover = fill(pixels, window).astype(np.float32)
        return window, gaussian_filter(cover, sigma, truncate=2.5) if sigma > 0.3 else cover

    def add(self, points: Points, amount: float, soft: float) -> None:
        """Adds a soft polygon to the density."""
        window, cover = self.polygon(points, soft)
        self.density[window] += np.float32(amount) * cover

    def line(self, points: Points, amount: float, width: float = 0.0) -> None:
        """A line through (n, 2) body points, of a peak of about `amount`; a width makes it a band of parallel lines."""
        steps = np.hypot(*np.diff(points, axis=0).T)
        along = np.concatenate([[0.0], np.cumsum(steps)])
        count = max(2, int(along[-1] * self.size))
        places = np.linspace(0, along[-1], count)
        path = np.stack([np.interp(places, along, points[:, axis]) for axis in (0, 1)], axis=1)
        self.lines += self.scatter(path, np.full(count, amount, np.float32))
        if width > 0:
            normal = np.gradient(path, axis=0)[:, ::-1] * (1, -1)
            normal /= np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-9)[:, None]
            self.lines += self.scatter(path + width * normal, np.full(count, amount, np.float32))

    def scatter(self, points: Points, amounts: NDArray[np.float32]) -> Field:
        """(H, W) with (n,) amounts at (n, 2) body points, shared out over the four pixels around each."""
        pixels = self.transform.to_pixels(points) - 0.5
        whole = np.floor(pixels).astype(np.intp)
        inside = ((whole >= 0) & (whole < self.size - 1)).all(1)
        whole, amounts = whole[inside], amounts[inside]
        fx, fy = (pixels[inside] - whole).T
        corner = whole[:, 1] * self.size + whole[:, 0]
        places = np.concatenate([corner, corner + 1, corner + self.size, corner + self.size + 1])
        shares = np.concatenate([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy])
        found = np.bincount(places, shares * np.tile(amounts, 4), self.size * self.size)
        return found.reshape(self.size, self.size).astype(np.float32)  # (H * W,) -> (H, W)


def clip_window(pixels: Points, margin: float, size: int) -> Window:
    """The rows and columns around points in pixels, at least one of each."""
    low = np.clip(np.floor(pixels.min(0) - margin), 0, size - 1).astype(int)
    high = np.clip(np.ceil(pixels.max(0) + margin), low + 1, size).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def fill(pixels: Points, window: Window) -> NDArray[np.uint8]:
    """(h, w) 0/1 of the pixels in a window that lie in a polygon; a pixel that its edge runs through counts as inside."""
    rows, columns = window
    picture = Image.new("L", (columns.stop - columns.start, rows.stop - rows.start))
    corners = np.floor(pixels - (columns.start, rows.start)).astype(int)
    ImageDraw.Draw(picture).polygon([(x, y) for x, y in corners.tolist()], fill=1)
    return np.asarray(picture)


def smooth_field(random: np.random.Generator, shape: tuple[int, int], cells: int) -> Field:
    """(H, W) noise of unit deviation with about `cells` bumps along an edge, by separable linear interpolation."""
    coarse = random.standard_normal((cells, cells), np.float32)
    weights = [_linear_weights(length, cells) for length in shape]
    return np.asarray(weights[0] @ coarse @ weights[1].T, np.float32)


def _linear_weights(length: int, cells: int) -> Field:
    places = np.linspace(0, cells - 1, length)
    return np.asarray(np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells)[None, :])), np.float32)


def develop(canvas: Canvas, key: tuple[int, ...]) -> NDArray[np.uint8]:
    """The film: blur, thin lines, contrast, exposure, noise, collimation and marker; (H, W) uint8."""
    pose, size = canvas.transform.pose, canvas.size
    value = gaussian_filter(canvas.density + canvas.lines, pose.blur * size, truncate=2.5)
    value -= np.float32(0.45)
    value *= np.float32(pose.contrast)
    value += np.float32(0.45 + pose.exposure)
    value = film_curve(pose.gamma)[np.clip(value * 800, 0, 1199).astype(np.intp)]
    noise = generator(*key[:1], NOISE, *key[1:]).standard_normal((size, size), np.float32)
    value += noise * (np.float32(pose.noise) * (np.float32(0.55) + value))
    border = int(pose.collimation * size)
    if border:
        value[:border] = value[-border:] = 0.02
        value[:, :border] = value[:, -border:] = 0.02
    _mark(value, pose.marker, max(border, size // 40) + size // 50)
    return np.asarray(np.clip(value * 255 + 0.5, 0, 255), np.uint8)


def film_curve(gamma: float) -> Field:
    """(1200,) display value of densities 0 to 1.5: a gamma, then a shoulder that keeps dense parts apart."""
    value = np.power((np.arange(1200) + 0.5) / 800, gamma)
    return np.where(value < 0.62, value, 0.62 + 0.36 * np.tanh((value - 0.62) / 0.42)).astype(np.float32)


def _mark(value: Field, letter: str, margin: int) -> None:
    if not letter:
        return
    step = max(1, value.shape[0] // 100)
    stamp = np.array([[int(cell) for cell in row] for row in LETTERS[letter]]).repeat(step, 0).repeat(step, 1)
    left = margin if letter == "R" else value.shape[1] - margin - stamp.shape[1]
    area = value[margin : margin + stamp.shape[0], left : left + stamp.shape[1]]
    area[stamp == 1] = 0.97
