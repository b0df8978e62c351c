"""What each finding does to the picture: a change of density inside its outline, or along its lines."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmark.data.phantom.anatomy import Field, Frontal, Lung, Points
from benchmark.data.phantom.canvas import Canvas, smooth_field
from benchmark.data.phantom.devices import draw_device
from benchmark.data.phantom.draws import TEXTURE, generator
from benchmark.data.phantom.findings import Finding
from benchmark.data.phantom.outlines import fracture_points, outline, pleural_line


def _random(geometry: Frontal, finding: Finding) -> np.random.Generator:
    return generator(geometry.study.patient.seed, TEXTURE, *geometry.study.key, finding.texture, 1)


def _shape(geometry: Frontal, finding: Finding, lung: Lung) -> Points:
    points = outline(geometry.study, finding, lung, geometry)
    if points is None:
        raise ValueError(f"{finding.name} has no outline")
    return points


def _airspace(canvas: Canvas, geometry: Frontal, finding: Finding, lung: Lung) -> None:
    points = _shape(geometry, finding, lung)
    random = _random(geometry, finding)
    soft = {"Consolidation": 0.016, "Pneumonia": 0.025, "Lung Opacity": 0.05}[finding.name]
    window, cover = canvas.polygon(points, soft)
    low, high = {"Consolidation": (0.17, 0.34), "Pneumonia": (0.13, 0.28), "Lung Opacity": (0.10, 0.20)}[finding.name]
    amount = low + (high - low) * finding.severity
    if finding.name == "Pneumonia":  # patchy: clusters with aerated lung between
        bumps = smooth_field(random, cover.shape, 7)
        cover = cover * np.clip(0.75 + 0.85 * bumps, 0.0, 1.7)
    elif finding.name == "Consolidation":
        cover = cover * (1 + 0.06 * smooth_field(random, cover.shape, 5))
    canvas.density[window] += np.float32(amount) * cover


def _lesion(canvas: Canvas, geometry: Frontal, finding: Finding, lung: Lung) -> None:
    points = _shape(geometry, finding, lung)
    window, cover = canvas.polygon(points, 0.006)
    center = points.mean(0)
    away = np.hypot(canvas.x[window] - np.float32(center[0]), canvas.y[window] - np.float32(center[1]))
    radius = float(np.hypot(*(points - center).T).mean())
    thick = np.sqrt(np.clip(1.25 - np.square(away / radius), 0.12, 1))
    amount = 0.25 + 0.10 * finding.severity
    if finding.kind == "cavity":
        thick = thick * np.clip((away / radius - 0.45) * 6, -0.15, 1)
    canvas.density[window] += np.float32(amount) * cover * thick


def _atelectasis(canvas: Canvas, geometry: Frontal, finding: Finding, lung: Lung) -> None:
    points = _shape(geometry, finding, lung)
    amount = 0.19 + 0.12 * finding.severity if finding.kind == "linear" else 0.17 + 0.14 * finding.severity
    canvas.add(points, amount, 0.006 if finding.kind == "linear" else 0.014)


def _pneumothorax(canvas: Canvas, geometry: Frontal, finding: Finding, lung: Lung) -> None:
    canvas.add(_shape(geometry, finding, lung), -0.085 - 0.035 * finding.severity, 0.008)
    s, t, _ = pleural_line(finding)
    canvas.line(lung.to_body(s, t), 0.14 * canvas.size / 128)


def _effusion(canvas: Canvas, geometry: Frontal, finding: Finding, lung: Lung) -> None:
    canvas.add(_shape(geometry, finding, lung), 0.36 + 0.06 * finding.severity, 0.012)


def _pleural(canvas: Canvas, geometry: Frontal, finding: Finding, lung: Lung) -> None:
    points = _shape(geometry, finding, lung)
    window, cover = canvas.polygon(points, 0.008)
    amount = 0.22 + 0.10 * finding.severity
    if finding.kind == "plaque":
        cover = cover * np.clip(1.1 + 0.9 * smooth_field(_random(geometry, finding), cover.shape, 9), 0.2, 2.0)
        amount += 0.06
    canvas.density[window] += np.float32(amount) * cover


def _fracture(canvas: Canvas, geometry: Frontal, finding: Finding, lung: Lung) -> None:
    healed = finding.kind == "healed"
    strength = 0.22 + 0.10 * finding.severity
    turn = np.arange(14) * (2 * math.pi / 14)
    for x, y in fracture_points(finding, geometry):
        callus = np.stack([x + 0.034 * np.cos(turn), y + 0.026 * np.sin(turn)], 1)
        gap = np.array([(x - 0.009, y - 0.036), (x + 0.009, y - 0.036), (x + 0.013, y + 0.036), (x - 0.005, y + 0.036)])
        if healed:
            canvas.add(callus, strength, 0.008)
        else:
            for shift, sign in ((-0.026, -1), (0.026, 1)):
                place = np.array([x + shift, y + sign * 0.016])
                end = np.array([(-0.018, -0.02), (0.018, -0.02), (0.018, 0.02), (-0.018, 0.02)]) + place
                canvas.add(end, 0.75 * strength, 0.004)
            canvas.add(gap, -0.8 * strength, 0.003)


def _edema(canvas: Canvas, geometry: Frontal, finding: Finding) -> None:
    """Perihilar haze, distended markings and lines at the base of both lungs."""
    random = _random(geometry, finding)
    amount = 0.035 + 0.16 * finding.severity
    turn = np.arange(24) * (2 * math.pi / 24)
    for lung in geometry.lungs.values():
        s = np.clip(0.54 + 0.36 * np.sin(turn), 0.05, 0.97)
        t = np.clip(0.25 + (0.42 + 0.16 * finding.severity) * np.cos(turn), 0.0, 0.9)
        window, cover = canvas.polygon(lung.to_body(s, t), 0.11)
        canvas.density[window] += np.float32(amount) * cover * np.clip(1 + 0.4 * smooth_field(random, cover.shape, 11), 0, 2)
        for height in random.uniform(0.62, 0.95, 7):
            line = lung.to_body(np.linspace(height, height + 0.015, 5), np.linspace(random.uniform(0.84, 0.92), 0.985, 5))
            canvas.line(line, (0.03 + 0.05 * finding.severity) * canvas.size / 128)


LOCAL: dict[str, Callable[[Canvas, Frontal, Finding, Lung], None]] = {
    "Pneumonia": _airspace, "Consolidation": _airspace, "Lung Opacity": _airspace, "Lung Lesion": _lesion,
    "Atelectasis": _atelectasis, "Pneumothorax": _pneumothorax, "Pleural Effusion": _effusion, "Pleural Other": _pleural,
    "Fracture": _fracture,
}  # fmt: skip


def paint(canvas: Canvas, geometry: Frontal) -> None:
    """Lays every finding of the study on the picture; an enlarged heart or mediastinum is in the anatomy already."""
    for finding in geometry.study.findings:
        if finding.name in LOCAL:
            LOCAL[finding.name](canvas, geometry, finding, geometry.lungs[finding.side])
        elif finding.name == "Edema":
            _edema(canvas, geometry, finding)
        elif finding.name == "Support Devices":
            draw_device(canvas, geometry, finding)


def markings(canvas: Canvas, geometry: Frontal, tree: Field) -> None:
    """Lays the lung markings on the picture: none in the air of a pneumothorax."""
    for finding in geometry.study.findings:
        if finding.name == "Pneumothorax":
            points = outline(geometry.study, finding, geometry.lungs[finding.side], geometry)
            if points is not None:
                window, cover = canvas.polygon(points, 0.004)
                tree[window] *= 1 - cover
    canvas.density += gaussian_filter(tree, 0.0055 * canvas.size, truncate=2.5)
