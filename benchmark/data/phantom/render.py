"""From a study to pixels, masks and boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.anatomy import Frontal, Transform
from benchmark.data.phantom.canvas import Canvas, develop, fill
from benchmark.data.phantom.findings import BOXED
from benchmark.data.phantom.frontal import draw_frontal, vessel_tree
from benchmark.data.phantom.lateral import Lateral, draw_lateral, lateral_tree
from benchmark.data.phantom.lesions import markings, paint
from benchmark.data.phantom.outlines import outline
from benchmark.data.phantom.patient import Study, sample_pose
from benchmark.types import Box

ORGANS = ("Cardiomegaly", "Enlarged Cardiomediastinum")  # boxed, but part of the heart's mask and not of the lesions'


def blank(study: Study, view: int, size: int) -> Canvas:
    """An empty canvas in the pose of a view."""
    transform = Transform(sample_pose(study, view), size)
    x, y = transform.grid()
    return Canvas(transform, np.zeros((size, size), np.float32), x, y)


def render_frontal(study: Study, size: int) -> NDArray[np.uint8]:
    """(H, W) uint8, the frontal picture of a study."""
    geometry, canvas = Frontal(study), blank(study, 1, size)
    draw_frontal(canvas, geometry)
    edema = max((finding.severity for finding in study.findings if finding.name == "Edema"), default=-0.33)
    tree = vessel_tree(canvas, geometry, 0.07 * (1.3 + 0.9 * edema))
    markings(canvas, geometry, tree)
    paint(canvas, geometry)
    return develop(canvas, (study.patient.seed, *study.key, 1))


def render_lateral(study: Study, size: int) -> NDArray[np.uint8]:
    """(H, W) uint8, the lateral picture of a study."""
    geometry, canvas = Lateral.of(study), blank(study, 2, size)
    draw_lateral(canvas, geometry)
    markings(canvas, geometry, lateral_tree(canvas, geometry, 0.06))
    paint(canvas, geometry)
    return develop(canvas, (study.patient.seed, *study.key, 2))


def masks(study: Study, size: int) -> dict[str, NDArray[np.uint8]]:
    """Masks of the frontal picture, each (H, W) uint8 0/1: lungs (air beside the heart), heart, lesion."""
    geometry, transform = Frontal(study), Transform(sample_pose(study, 1), size)
    whole = (slice(0, size), slice(0, size))
    heart, lungs, lesion = (np.zeros((size, size), np.uint8) for _ in range(3))
    for part in geometry.heart:
        heart |= fill(transform.to_pixels(part.outline()), whole)
    edge = np.linspace(0.0, 1.0, 40)
    for lung in geometry.lungs.values():
        s = np.concatenate([edge, np.ones(40), edge[::-1]])
        t = np.concatenate([np.zeros(40), edge, np.ones(40)])
        lungs |= fill(transform.to_pixels(lung.to_body(s, t)), whole)
    lungs &= 1 - heart
    for finding in study.findings:
        if finding.name in BOXED and finding.name not in ORGANS:
            points = outline(study, finding, geometry.lungs[finding.side], geometry)
            if points is not None:
                lesion |= fill(transform.to_pixels(points), whole)
    return {"lungs": lungs, "heart": heart, "lesion": lesion}


def boxes(study: Study, size: int, geometry: Frontal | None = None) -> tuple[Box, ...]:
    """Boxes of the frontal picture around the same outlines as the masks; no pixels are drawn for them."""
    geometry, transform = geometry or Frontal(study), Transform(sample_pose(study, 1), size)
    found = []
    for finding in study.findings:
        if finding.name not in BOXED:
            continue
        lung = geometry.lungs[finding.side or "right"]
        points = outline(study, finding, lung, geometry)
        if points is not None:
            pixels = np.clip(transform.to_pixels(points), 0, size)
            (x0, y0), (x1, y1) = pixels.min(0).tolist(), pixels.max(0).tolist()
            if x1 - x0 >= 2 and y1 - y0 >= 2:
                found.append(Box(finding.name, x0, y0, x1, y1))
    return tuple(found)
