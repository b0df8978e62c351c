"""The frontal picture without its findings: body, lungs, heart, vessels, diaphragm, bones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.anatomy import T_TABLE, Y_TABLE, Ellipse, Field, Frontal, Points
from benchmark.data.phantom.canvas import Canvas, clip_window, smooth_field
from benchmark.data.phantom.draws import VESSELS, generator
from benchmark.data.phantom.outlines import broken_ribs

PHASES = 256
Integers = NDArray[np.intp]


@dataclass
class Fields:
    """Where every pixel lies. t, s: (H, W) in the lung of its side. inside: (H, W) 0 to 1, air. edge: distance inwards."""

    row: Integers
    outer: Field
    s: Field
    t: Field
    inside: Field
    below: Field  # distance below the diaphragm, negative above


def locate(canvas: Canvas, geometry: Frontal) -> Fields:
    """Lung coordinates of all pixels; both lungs at once, the left one's tables after the right one's."""
    right, left = geometry.lungs["right"], geometry.lungs["left"]
    row = np.clip((canvas.y + 1.5) * (600 / 3.0) + 0.5, 0, 600).astype(np.intp)
    is_left = canvas.x > 0
    across = np.abs(canvas.x)
    inner = np.take(right.inner.astype(np.float32), row)
    outer = np.take(right.outer.astype(np.float32), row)
    t = (across - inner) / np.maximum(outer - inner, 0.02)
    column = np.clip(t * 64 + 0.5, 0, 64).astype(np.intp) + 65 * is_left
    base = np.take(np.concatenate([right.base, left.base]).astype(np.float32), column)
    below = canvas.y - base
    s = (canvas.y - np.float32(right.apex)) / (base - np.float32(right.apex))
    edge = np.minimum(np.minimum(across - inner, outer - across), -below)
    edge = np.minimum(edge, canvas.y - np.float32(right.apex))
    inside = np.clip(edge * 60 + 0.5, 0, 1)
    return Fields(row, outer, s, t, inside, below)


def take(table: NDArray[np.floating], index: Integers) -> Field:
    """A table looked up at every pixel."""
    return np.asarray(np.take(table.astype(np.float32), index))


def draw_frontal(canvas: Canvas, geometry: Frontal) -> Fields:
    """Draws everything but findings; the order does not matter, for densities add."""
    fields = locate(canvas, geometry)
    _body(canvas, geometry, fields)
    _organs(canvas, geometry, fields)
    _spine_and_airway(canvas, geometry, fields)
    _ribs(canvas, geometry, fields)
    _shoulders(canvas, geometry)
    return fields


def _body(canvas: Canvas, geometry: Frontal, fields: Fields) -> None:
    patient = geometry.study.patient
    fat = patient.fat
    chest = patient.wall + 0.09 + 0.16 * fat
    half = np.interp(
        Y_TABLE,
        [-1.5, -1.04, -0.94, -0.84, -0.72, -0.35, 0.1, 1.5],
        [0.26, 0.27, 0.42, 0.85, 1.15, chest + 0.22, chest, chest + 0.06],
    )
    u = canvas.x / take(half, fields.row)
    depth = np.sqrt(np.clip(1 - u * u, 0, 1))
    thick = np.interp(Y_TABLE, [-1.5, -0.95, -0.7, -0.2, 0.5, 1.5], [0.62, 0.60, 0.74, 0.72, 0.80, 0.80])
    canvas.density += depth * take(thick * (0.9 + 0.16 * fat), fields.row) + np.float32(0.02)
    # air: thickest in the middle of the lung, less at its rim and behind the dome
    profile = np.power(np.clip(4 * T_TABLE * (1 - T_TABLE), 0, 1), 0.28)
    column = np.clip(fields.t * 64 + 0.5, 0, 64).astype(np.intp)
    air = fields.inside * take(profile, column)
    air *= np.float32(0.47 - 0.06 * fat + 0.03 * geometry.study.breath) * (np.float32(0.9) + np.float32(0.12) * fields.s)
    canvas.density -= air
    random = generator(patient.seed, VESSELS, *geometry.study.key, 1)
    canvas.density += np.float32(0.016) * smooth_field(random, canvas.density.shape, 9)
    # belly: denser below the domes
    canvas.density += np.float32(0.07) * np.clip(fields.below * 12, 0, 1)


def _bulge(canvas: Canvas, part: Ellipse, amount: float, power: float = 0.5) -> None:
    points = part.outline(24)
    rows, columns = _window(canvas, points)
    window = (rows, columns)
    inside = np.clip(1 - part.radius2(canvas.x[window], canvas.y[window]), 0, 1)
    canvas.density[window] += np.float32(amount) * (np.sqrt(inside) if power == 0.5 else np.power(inside, np.float32(power)))


def _window(canvas: Canvas, points: Points) -> tuple[slice, slice]:
    return clip_window(canvas.transform.to_pixels(points), 1.0, canvas.size)


def silhouette(canvas: Canvas, parts: tuple[Ellipse, ...]) -> Field:
    """(H, W) thickness of a union of ellipsoids, the thickest counting."""
    found = np.zeros_like(canvas.density)
    for part in parts:
        window = _window(canvas, part.outline(24))
        inside = 1 - part.radius2(canvas.x[window], canvas.y[window])
        np.maximum(found[window], np.clip(inside, 0, 1), out=found[window])
    return np.asarray(np.power(found, np.float32(0.38)))


def _organs(canvas: Canvas, geometry: Frontal, fields: Fields) -> None:
    above = np.clip(1 - fields.below * 10, 0.25, 1)
    heart = silhouette(canvas, geometry.heart) * above
    vessels = silhouette(canvas, geometry.vessels) * above
    canvas.density += np.float32(0.30) * np.maximum(heart, np.float32(0.75) * vessels)
    patient = geometry.study.patient
    if geometry.study.bubble:
        top = float(geometry.lungs["left"].base[28])
        _bulge(canvas, Ellipse(0.30 + 0.1 * patient.fat, top + 0.13, 0.15, 0.075), -0.26)
    if patient.breast > 0:
        wide = 0.25 + 0.08 * patient.breast
        for side in (-1, 1):
            _bulge(
                canvas,
                Ellipse(side * (0.40 + 0.06 * patient.fat), 0.26, wide, 0.26 + 0.1 * patient.breast),
                0.085 * patient.breast + 0.02,
                0.7,
            )
    for side in (-1, 1):
        hilum = Ellipse(side * 0.17 + 0.6 * geometry.swing, -0.07, 0.10, 0.17, side * 0.25)
        _bulge(canvas, hilum, 0.10 * patient.hilum, 1.2)


def _spine_and_airway(canvas: Canvas, geometry: Frontal, fields: Fields) -> None:
    patient = geometry.study.patient
    center = geometry.spine(Y_TABLE)
    wave = np.abs(np.sin((Y_TABLE + 0.9) * np.pi / 0.125))
    disc = np.power(wave, 0.5)
    width = 0.078 + (0.03 * (1 - wave) if patient.osteophytes else 0.006 * (1 - wave))
    away = np.abs(canvas.x - take(center, fields.row))
    column = np.clip((take(width, fields.row) - away) * 45 + 0.5, 0, 1)
    strength = np.interp(Y_TABLE, [-1.0, -0.5, 0.3, 1.0], [0.12, 0.075, 0.075, 0.10]) * (0.7 + 0.3 * disc)
    canvas.density += column * take(strength, fields.row)
    airway = np.interp(Y_TABLE, [-1.5, -0.6, -0.2], [0, 0.55, 1.0]) * geometry.swing + 0.006
    wide = np.interp(Y_TABLE, [-1.2, -0.3, -0.2, -0.17], [0.042, 0.042, 0.05, 0.0])
    away = np.abs(canvas.x - take(airway, fields.row))
    canvas.density -= np.float32(0.135) * np.clip((take(wide, fields.row) - away) * 40 + 0.3, 0, 1)


def rib_profile(thick: float) -> NDArray[np.float64]:
    """(256,) density of a rib over one period: a band with denser edges."""
    away = np.abs(np.arange(PHASES) / PHASES - 0.5) / thick
    return np.where(away < 1, 0.62 + 0.38 * away**4, np.clip(1 - (away - 1) * 6, 0, 1))


def _ribs(canvas: Canvas, geometry: Frontal, fields: Fields) -> None:
    patient = geometry.study.patient
    across = np.abs(canvas.x)
    u = np.clip(across / (fields.outer + 0.015), 0, 1.2)
    drop = np.clip(u * 200, 0, 240).astype(np.intp)
    steps = np.arange(241) / 200
    high = canvas.y - np.float32(geometry.rib_start)
    phase: Field = (high - take(geometry.rib_curve(steps), drop)) / np.float32(patient.spacing) + np.float32(1)
    _break_ribs(canvas, geometry, phase, u)
    chest = np.clip((1.0 - u) * 25 + 0.8, 0, 1) * np.clip((phase - 0.55) * 8, 0, 1)
    fade = np.interp(np.linspace(0, 16, 257), [0, 9, 12, 13], [1, 1, 0.7, 0.0])
    weight = np.interp(steps, [0.0, 0.08, 0.2, 0.9, 1.0], [0.6, 0.8, 1.0, 1.0, 1.5])
    cell = ((phase - np.floor(phase - np.float32(0.5)) - np.float32(0.5)) * PHASES).astype(np.intp) & (PHASES - 1)
    bone = take(rib_profile(0.24), cell) * take(weight, drop) * take(fade, np.clip(phase * 16, 0, 256).astype(np.intp))
    canvas.density += np.float32(0.082) * chest * bone
    front = patient.slope * (0.24 + 0.46 * (1 - steps))
    phase = (high - take(front, drop)) / np.float32(patient.spacing * 1.12) + np.float32(1.25)
    cell = ((phase - np.floor(phase - np.float32(0.5)) - np.float32(0.5)) * PHASES).astype(np.intp) & (PHASES - 1)
    weight = np.interp(steps, [0.42, 0.58, 1.0], [0.0, 1.0, 1.0])
    fade = np.interp(np.linspace(0, 16, 257), [0.5, 1.0, 6.0, 7.5], [0, 1, 1, 0.0])
    bone = take(rib_profile(0.27), cell) * take(weight, drop) * take(fade, np.clip(phase * 16, 0, 256).astype(np.intp))
    canvas.density += np.float32(0.05) * chest * bone


def _break_ribs(canvas: Canvas, geometry: Frontal, phase: Field, u: Field) -> None:
    """Steps the outer fragment of a broken rib out of line, in place."""
    for finding in geometry.study.findings:
        if finding.name != "Fracture":
            continue
        side = canvas.x > 0 if finding.side == "left" else canvas.x < 0
        beyond = u - np.float32(finding.place[1])
        last = finding.rib + broken_ribs(finding) - 0.5
        part = side & (beyond > 0) & (beyond < 0.22) & (phase > finding.rib - 0.5) & (phase < last)
        phase[part] += np.float32(0.42) * (1 - beyond[part] / np.float32(0.22))


def _shoulders(canvas: Canvas, geometry: Frontal) -> None:
    turn = 0.06 * geometry.study.turn
    for side in (-1.0, 1.0):
        x = np.linspace(0, 1, 14)
        y = -0.60 - 0.03 * np.sin(x * 6.0) - 0.17 * x
        thick = 0.034 - 0.008 * np.sin(np.pi * x)
        across = side * (0.055 + 0.72 * x) + turn
        upper, lower = np.stack([across, y - thick], 1), np.stack([across, y + thick], 1)
        canvas.add(np.concatenate([upper, lower[::-1]]), 0.11, 0.006)
        blade = np.array([(0.62, -0.70), (0.86, -0.74), (0.92, -0.45), (0.78, -0.02), (0.71, -0.10), (0.66, -0.4)])
        canvas.add(blade * (side, 1), 0.07, 0.015)
        canvas.add(Ellipse(side * 0.98, -0.68, 0.15, 0.15).outline(20), 0.14, 0.012)


def tree(random: np.random.Generator, branches: int, points: int) -> tuple[NDArray[np.float64], NDArray[np.float64], Field]:
    """Branches that leave the hilum, and two twigs of each: (n,) s and t in lung coordinates, and their strength."""
    along = np.linspace(0.05, 1.0, points)[None, :]
    angle = np.linspace(-1.35, 1.35, branches)[:, None] + random.uniform(-0.15, 0.15, (branches, 1))
    bend = random.uniform(-0.5, 0.5, (branches, 1))
    reach = random.uniform(0.55, 0.95, (branches, 1))
    direction = angle + bend * along
    s = 0.42 + 0.14 * random.random((branches, 1)) + reach * 0.54 * along * np.sin(direction)
    t = 0.05 + 0.10 * random.random((branches, 1)) + reach * 0.78 * along * np.cos(direction)
    strength = np.power(1.05 - along, 0.8) * random.uniform(0.6, 1.2, (branches, 1))
    start = random.integers(points // 4, 2 * points // 3, (branches, 2))
    fork = direction[:, -1:] + random.uniform(0.35, 0.8, (branches, 2)) * (-1, 1)
    row = np.arange(branches)[:, None]
    twig = np.linspace(0, 0.36, points // 2)[None, None, :]
    twig_s = s[row, start][..., None] + twig * 0.8 * np.sin(fork)[..., None]
    twig_t = t[row, start][..., None] + twig * np.cos(fork)[..., None]
    twig_strength = 0.7 * strength[row, start][..., None] * (1.05 - twig / 0.36)
    parts = [(s, t, strength), (twig_s, twig_t, twig_strength)]
    s, t, strength = (np.concatenate([part[place].ravel() for part in parts]) for place in range(3))
    return s, t, strength.astype(np.float32)


def vessel_tree(canvas: Canvas, geometry: Frontal, strength: float) -> Field:
    """(H, W) the lung markings of both lungs, before they are laid on the picture."""
    random = generator(geometry.study.patient.seed, VESSELS, *geometry.study.key, 0)
    points, amounts = [], []
    for lung in geometry.lungs.values():
        s, t, weight = tree(random, 14, 90)
        kept = (s > 0.03) & (s < 0.98) & (t < 0.97)
        points.append(lung.to_body(s[kept], t[kept]))
        amounts.append(strength * weight[kept])
    return canvas.scatter(np.concatenate(points), np.concatenate(amounts) * np.float32((canvas.size / 128) ** 2))
