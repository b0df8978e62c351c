"""The lateral picture: front of the chest to the left, spine to the right, both lungs over each other."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from benchmark.data.phantom.anatomy import T_TABLE, Y_TABLE, Ellipse, Field, Frontal, Lung
from benchmark.data.phantom.canvas import Canvas, smooth_field
from benchmark.data.phantom.draws import VESSELS, generator
from benchmark.data.phantom.findings import Finding
from benchmark.data.phantom.frontal import PHASES, Fields, rib_profile, silhouette, take
from benchmark.data.phantom.patient import Study


class Lateral(Frontal):
    """The lateral geometry of a study: t runs from the breast bone (0) to the back (1)."""

    @staticmethod
    def of(study: Study) -> Lateral:
        """The geometry, with every finding at its depth."""
        placed = tuple(_placed(finding) for finding in study.findings)
        return Lateral(replace(study, findings=placed))

    @cached_property
    def swing(self) -> float:
        """Sideways shifts do not show on a lateral view."""
        return 0.0

    @cached_property
    def lungs(self) -> dict[str, Lung]:
        """The same outline for both lungs."""
        patient = self.study.patient
        apex, floor = -0.80 * patient.length, self.floor
        deep = 0.52 + 0.12 * (patient.wall - 0.69) / 0.06 * 0.3
        q = np.clip((Y_TABLE - apex) / (floor - apex), 0.0, 1.25)
        front = -0.02 - (deep - 0.02) * np.power(np.clip(q / 0.75, 0, 1), 0.75)
        back = 0.16 + (deep - 0.13) * np.sin(np.clip(q * 0.95 + 0.02, 0, 1.2) * 2.2) ** 0.7
        base = floor - 0.10 - 0.16 * np.sin(np.clip(T_TABLE * 1.5, 0, 1) * np.pi * 0.75) + 0.36 * T_TABLE**3
        lung = Lung(front, back, base, apex, 1.0)
        return {"right": lung, "left": lung}

    @cached_property
    def heart(self) -> tuple[Ellipse, Ellipse]:
        """The heart behind the breast bone, on the diaphragm."""
        size = self.heart_scale
        y = float(self.lungs["left"].base[18]) - 0.20 * size
        return Ellipse(-0.15 + 0.05 * size, y, 0.33 * size, 0.24 * size, 0.75), Ellipse(-0.05, y - 0.1, 0.2 * size, 0.2 * size)

    @cached_property
    def vessels(self) -> tuple[Ellipse, ...]:
        """Aortic arch and hila."""
        aorta = self.study.patient.aorta
        return (Ellipse(0.10, -0.34, 0.16 + 0.03 * aorta, 0.12), Ellipse(0.08, -0.10, 0.13, 0.12), *self.widening)

    @cached_property
    def widening(self) -> tuple[Ellipse, ...]:
        """An enlarged mediastinum fills the space behind the breast bone."""
        found = (finding for finding in self.study.findings if finding.name == "Enlarged Cardiomediastinum")
        return tuple(Ellipse(-0.10, -0.36, 0.20 + 0.14 * finding.severity, 0.28) for finding in found)

    def rib_point(self, side: str, rib: float, u: float) -> tuple[float, float]:
        """(x, y) of a rib at fraction u of the way to the back."""
        lung = self.lungs[side]
        y = self.rib_start + (rib - 1) * self.study.patient.spacing + 0.5 * (1 - u)
        inner, outer = np.interp(y, Y_TABLE, lung.inner), np.interp(y, Y_TABLE, lung.outer)
        return float(inner + u * (outer - inner)), y


def _placed(finding: Finding) -> Finding:
    s, t = finding.place
    return replace(finding, place=(s, finding.depth if finding.name != "Pleural Other" else t))


def draw_lateral(canvas: Canvas, geometry: Lateral) -> None:
    """Draws everything but findings."""
    patient, lung = geometry.study.patient, geometry.lungs["left"]
    fields = _locate(canvas, lung)
    fat = patient.fat
    front = np.interp(Y_TABLE, [-1.5, -1.0, -0.7, 0.2, 1.5], [0.24, 0.26, 0.40, 0.66 + 0.1 * fat, 0.68 + 0.2 * fat])
    back = np.interp(Y_TABLE, [-1.5, -1.0, -0.7, -0.1, 0.6, 1.5], [0.42, 0.45, 0.62, 0.80, 0.70, 0.68]) + 0.1 * fat
    ahead, behind = canvas.x + take(front, fields.row), take(back, fields.row) - canvas.x
    near = np.clip(np.minimum(ahead, behind) * 5, 0, 1)
    canvas.density += np.sqrt(near) * np.float32(0.70 + 0.12 * fat) + np.float32(0.02)
    air = fields.inside * np.power(np.clip(4 * fields.t * (1 - fields.t), 0, 1), np.float32(0.2))
    air *= np.float32(0.40 - 0.05 * fat) * (np.float32(0.85) + np.float32(0.22) * np.clip(fields.s, 0, 1))
    canvas.density -= air
    random = generator(patient.seed, VESSELS, *geometry.study.key, 2)
    canvas.density += np.float32(0.016) * smooth_field(random, canvas.density.shape, 9)
    canvas.density += np.float32(0.06) * np.clip(fields.below * 12, 0, 1)
    above = np.clip(1 - fields.below * 10, 0.25, 1)
    heart, vessels = silhouette(canvas, geometry.heart), silhouette(canvas, geometry.vessels)
    canvas.density += np.float32(0.24) * above * np.maximum(heart, np.float32(0.45) * vessels)
    _bones(canvas, geometry, fields)


def _locate(canvas: Canvas, lung: Lung) -> Fields:
    row = np.clip((canvas.y + 1.5) * (600 / 3.0) + 0.5, 0, 600).astype(np.intp)
    inner, outer = take(lung.inner, row), take(lung.outer, row)
    t = (canvas.x - inner) / np.maximum(outer - inner, 0.02)
    base = take(lung.base, np.clip(t * 64 + 0.5, 0, 64).astype(np.intp))
    below = canvas.y - base
    edge = np.minimum(np.minimum(canvas.x - inner, outer - canvas.x), np.minimum(-below, canvas.y - np.float32(lung.apex)))
    s = (canvas.y - np.float32(lung.apex)) / (base - np.float32(lung.apex))
    return Fields(row, outer, s, t, np.clip(edge * 50 + 0.5, 0, 1), below)


def _bones(canvas: Canvas, geometry: Lateral, fields: Fields) -> None:
    patient = geometry.study.patient
    spine = geometry.lungs["left"].outer + 0.0
    wave = np.abs(np.sin((Y_TABLE + 0.9) * np.pi / 0.13))
    away = np.abs(canvas.x - take(spine, fields.row) - np.float32(0.0))
    strength = take(0.06 + 0.09 * np.sqrt(wave), fields.row)
    canvas.density += strength * np.clip((np.float32(0.095) - away) * 40 + 0.5, 0, 1)
    sternum = np.abs(canvas.x - take(geometry.lungs["left"].inner - 0.035, fields.row))
    canvas.density += np.float32(0.10) * np.clip((0.03 - sternum) * 50 + 0.5, 0, 1) * (np.abs(canvas.y + 0.15) < 0.38)
    airway = np.abs(canvas.x - np.float32(0.06) - np.float32(0.10) * (canvas.y + 0.6))
    canvas.density -= np.float32(0.12) * np.clip((0.045 - airway) * 40 + 0.5, 0, 1) * (canvas.y < -0.15)
    inside = np.clip(fields.t * 25 + 0.5, 0, 1) * np.clip((1 - fields.t) * 25 + 0.5, 0, 1)
    for number, offset in enumerate((0.0, 0.35)):
        drop = 0.5 * (1 - fields.t) + 0.06 * np.square(fields.t - 0.5)
        phase = (canvas.y - np.float32(geometry.rib_start) - drop) / np.float32(patient.spacing) + np.float32(1 + offset)
        cell = ((phase - np.floor(phase - np.float32(0.5)) - np.float32(0.5)) * PHASES).astype(np.intp) & (PHASES - 1)
        bone = take(rib_profile(0.2), cell) * ((phase > 0.5) & (phase < 12))
        canvas.density += np.float32(0.045 - 0.015 * number) * inside * bone


def lateral_tree(canvas: Canvas, geometry: Lateral, strength: float) -> Field:
    """(H, W) lung markings around the hilum."""
    random = generator(geometry.study.patient.seed, VESSELS, *geometry.study.key, 3)
    turn = random.uniform(0, 2 * np.pi, (22, 1)) + 0.5 * random.uniform(-1, 1, (22, 1)) * np.linspace(0, 1, 70)
    along = np.linspace(0.1, 1, 70) * random.uniform(0.5, 1, (22, 1))
    s, t = 0.48 + 0.46 * along * np.sin(turn), 0.55 + 0.40 * along * np.cos(turn)
    weight = np.broadcast_to(strength * (1.05 - np.linspace(0, 1, 70)), s.shape)
    points = geometry.lungs["left"].to_body(s.ravel(), np.clip(t.ravel(), 0.03, 0.97))
    return canvas.scatter(points, weight.ravel().astype(np.float32) * np.float32((canvas.size / 128) ** 2))
