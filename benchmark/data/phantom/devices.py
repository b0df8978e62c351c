"""Tubes, lines and pacemakers."""

from __future__ import annotations

import math

import numpy as np

from benchmark.data.phantom.anatomy import Frontal
from benchmark.data.phantom.canvas import Canvas
from benchmark.data.phantom.draws import TEXTURE, Draws
from benchmark.data.phantom.findings import Finding
from benchmark.data.phantom.lateral import Lateral


def _tube(canvas: Canvas, path: list[tuple[float, float]], amount: float, width: float = 0.0) -> None:
    canvas.line(np.array(path), amount * canvas.size / 128, width)


CARINA = -0.20  # y where the windpipe divides


def tube_tip(finding: Finding) -> float:
    """y of the tip of an endotracheal tube."""
    return CARINA - 0.04 - 0.20 * finding.place[0]


def carina_distance(finding: Finding) -> float:
    """How far an endotracheal tube ends above the carina, in body units."""
    return CARINA - tube_tip(finding)


def line_tip(finding: Finding) -> float:
    """y of the tip of a central line."""
    return -0.25 + 0.27 * finding.place[0]


def line_vein(finding: Finding) -> str:
    """The vein that a central line comes through."""
    return "internal jugular" if finding.place[1] < 0.5 else "subclavian"


def draw_device(canvas: Canvas, geometry: Frontal, finding: Finding) -> None:
    """Draws a device of the study on a frontal or a lateral picture."""
    if isinstance(geometry, Lateral):
        _on_lateral(canvas, geometry, finding)
    else:
        _on_frontal(canvas, geometry, finding)


def _on_lateral(canvas: Canvas, geometry: Lateral, finding: Finding) -> None:
    heart = geometry.heart[0]
    if finding.kind == "pacemaker":
        turn = np.arange(24) * (2 * math.pi / 24)
        canvas.add(np.stack([-0.42 + 0.04 * np.cos(turn), -0.48 + 0.10 * np.sin(turn)], 1), 0.5, 0.004)
        _tube(canvas, [(-0.42, -0.45), (-0.05, -0.62), (0.0, -0.2), (heart.x, heart.y), (heart.x - 0.12, heart.y + 0.12)], 0.28)
    elif finding.kind == "central line":
        _tube(canvas, [(0.0, -1.3), (0.02, -0.8), (0.0, -0.5), (-0.02, -0.15)], 0.26)
    elif finding.kind == "chest tube":
        path = geometry.lungs["left"].to_body(np.linspace(0.7, 0.2, 8), np.linspace(0.75, 0.45, 8))
        canvas.line(path, 0.30 * canvas.size / 128, 0.022)
    else:
        _tube(canvas, [(0.02, -1.3), (0.05, -0.7), (0.12, -0.2), (0.14, 0.7)], 0.26)


def _on_frontal(canvas: Canvas, geometry: Frontal, finding: Finding) -> None:
    draws = Draws(geometry.study.patient.seed, TEXTURE, *geometry.study.key, finding.texture)
    side = 1.0 if finding.side == "left" else -1.0
    swing = geometry.swing
    heart = geometry.heart[0]
    if finding.kind == "endotracheal tube":
        _tube(canvas, [(0.01, -1.3), (0.4 * swing, -0.75), (0.8 * swing, tube_tip(finding))], 0.24, 0.02)
    elif finding.kind == "nasogastric tube":
        _tube(
            canvas,
            [(0.0, -1.3), (0.03 + 0.5 * swing, -0.5), (0.05 + swing, 0.15), (0.10, 0.5), (0.28, 0.66), (0.36, 0.62)],
            0.26,
        )
    elif finding.kind == "central line":
        start = draws.uniform(-0.04, 0.04)
        tip = (-0.085 + swing, line_tip(finding))
        neck = [(side * 0.22 + start, -1.3), (side * 0.19, -0.85), (side * 0.10, -0.62), (-0.07 + swing, -0.45), tip]
        arm = [(side * 1.0, -0.45), (side * 0.7, -0.58), (side * 0.35, -0.62), (-0.05 + swing, -0.45), tip]
        _tube(canvas, neck if line_vein(finding) == "internal jugular" else arm, 0.26)
    elif finding.kind == "chest tube":
        lung = geometry.lungs[finding.side]
        low, high = draws.uniform(0.55, 0.8), draws.uniform(0.12, 0.35)
        path = lung.to_body(np.linspace(low, high, 8), np.array([1.35, 1.1, 0.9, 0.75, 0.62, 0.53, 0.47, 0.42]))
        canvas.line(path, 0.30 * canvas.size / 128, 0.022)
    else:
        x, y = side * draws.uniform(0.44, 0.54), draws.uniform(-0.58, -0.42)
        turn = np.arange(24) * (2 * math.pi / 24)
        case = np.stack([x + 0.095 * np.cos(turn), y + 0.075 * np.sin(turn)], 1)
        canvas.add(case, 0.55, 0.004)
        lead = [(x, y + 0.02), (side * 0.3, -0.60), (-0.05 + swing, -0.45), (-0.08 + swing, -0.1)]
        _tube(canvas, [*lead, (heart.x - 0.02, heart.y + 0.05), (heart.x + 0.17, heart.y + 0.12)], 0.28)
        _tube(canvas, [*lead, (-0.10 + swing, heart.y - 0.10), (-0.05 + swing, heart.y - 0.14)], 0.22)
