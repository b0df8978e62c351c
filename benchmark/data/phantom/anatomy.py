"""Where everything lies: lungs, heart, ribs and trachea of a study in body coordinates, and the way to pixels.

Body coordinates are half image widths from the center of the chest, x to the patient's left (the right of the picture),
y downwards. On a lateral view x runs from the front (left of the picture) to the back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.findings import Finding
from benchmark.data.phantom.patient import Pose, Study

Field = NDArray[np.float32]
Points = NDArray[np.float64]  # (n, 2) x, y
Y_TABLE = np.linspace(-1.5, 1.5, 601)
T_TABLE = np.linspace(0.0, 1.0, 65)


@dataclass(frozen=True, slots=True)
class Lung:
    """One lung as a curved square: t from the inner (0) to the outer edge (1), s from the apex (0) to the diaphragm (1).

    inner, outer: (601,) edges over Y_TABLE. base: (65,) height of the diaphragm over T_TABLE. sign: of x, -1 right lung.
    """

    inner: NDArray[np.float64]
    outer: NDArray[np.float64]
    base: NDArray[np.float64]
    apex: float
    sign: float

    def to_body(self, s: NDArray[np.float64], t: NDArray[np.float64]) -> Points:
        """(n,) lung coordinates to (n, 2) body coordinates."""
        y = self.apex + s * (np.interp(t, T_TABLE, self.base) - self.apex)
        inner, outer = np.interp(y, Y_TABLE, self.inner), np.interp(y, Y_TABLE, self.outer)
        return np.stack([self.sign * (inner + t * (outer - inner)), y], axis=1)


@dataclass(frozen=True, slots=True)
class Ellipse:
    """A tilted ellipse: half axes a, b; angle of a from x towards y."""

    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0

    @property
    def half_width(self) -> float:
        """Half of the horizontal extent."""
        return math.hypot(self.a * math.cos(self.angle), self.b * math.sin(self.angle))

    def radius2(self, x: Field, y: Field) -> Field:
        """Squared distance in units of the edge, of fields of any shape."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        u = ((x - self.x) * cosine + (y - self.y) * sine) / self.a
        v = ((y - self.y) * cosine - (x - self.x) * sine) / self.b
        return np.asarray(u * u + v * v, np.float32)

    def outline(self, count: int = 48) -> Points:
        """(n, 2) points of the edge."""
        turn = np.arange(count) * (2 * math.pi / count)
        u, v = self.a * np.cos(turn), self.b * np.sin(turn)
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return np.stack([self.x + u * cosine - v * sine, self.y + u * sine + v * cosine], axis=1)


@dataclass(frozen=True)
class Frontal:
    """The frontal geometry of a study: a pure function of it, cheap enough for a record without pixels."""

    study: Study

    def _find(self, name: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.study.findings if finding.name == name)

    @cached_property
    def floor(self) -> float:
        """Height of the costophrenic angles."""
        patient = self.study.patient
        return 0.36 * patient.length + 0.22 * self.study.breath

    @cached_property
    def lungs(self) -> dict[str, Lung]:
        """Both lungs."""
        return {"right": self._lung("right", -1.0), "left": self._lung("left", 1.0)}

    def _lung(self, side: str, sign: float) -> Lung:
        patient = self.study.patient
        wall = patient.wall * (0.97 + 0.05 * self.study.breath)
        lost = [finding for finding in self._find("Atelectasis") if finding.kind == "lobar" and finding.side == side]
        lift = 0.17 + (0.035 if side == "right" else 0.0) + patient.eventration[0 if side == "right" else 1]
        lift += sum(0.08 + 0.10 * finding.severity for finding in lost)
        apex, floor, crown = -0.80 * patient.length, self.floor, 0.27
        q = np.clip((Y_TABLE - apex) / (floor - apex), 0.0, 1.0)
        outer = crown + (wall - crown) * np.power(1 - np.power(1 - q, 2.2), 0.66) - 0.02 * q**4
        near = np.minimum(q / 0.24, 1.0)
        inner = crown - (crown - 0.085) * np.sqrt(1 - np.square(1 - near))
        rise = np.where(T_TABLE > 0.42, 1 - np.square((T_TABLE - 0.42) / 0.58), 1 - 0.3 * np.square((0.42 - T_TABLE) / 0.42))
        return Lung(inner, outer, floor - lift * rise, apex, sign)

    @cached_property
    def swing(self) -> float:
        """How far structures in front of the spine lie to the patient's left, from rotation and volume."""
        pull = 0.0
        for finding in self.study.findings:
            sign = 1.0 if finding.side == "left" else -1.0
            if finding.name == "Atelectasis" and finding.kind == "lobar":
                pull += sign * (0.03 + 0.05 * finding.severity)
            if finding.name == "Pneumothorax" and finding.severity > 0.75:
                pull -= sign * 0.10
            if finding.name == "Pleural Effusion" and finding.severity > 0.75:
                pull -= sign * 0.05
        return 0.07 * self.study.turn + pull

    @cached_property
    def heart_scale(self) -> float:
        """Size of the heart beside an average one; an AP view magnifies it."""
        large = max((0.17 + 0.36 * finding.severity for finding in self._find("Cardiomegaly")), default=0.0)
        shown = 1.05 if self.study.projection == "AP" else 1.0
        relative = self.study.patient.heart * self.study.patient.wall / 0.69
        return relative * shown * (1 + large) * (1.05 - 0.07 * self.study.breath)

    @cached_property
    def heart(self) -> tuple[Ellipse, Ellipse]:
        """The left ventricle and body of the heart, and the right atrium."""
        size, swing = self.heart_scale, self.swing
        base = float(self.lungs["left"].base[12])
        y = base - 0.20 * size + 0.03
        body = Ellipse(0.105 * size + swing, y, 0.325 * size, 0.235 * size, 0.62)
        return body, Ellipse(-0.055 * size + swing, y + 0.01, 0.135 * size, 0.20 * size, 0.1)

    @cached_property
    def ratio(self) -> float:
        """Cardiothoracic ratio: width of the heart over the inner width of the chest at the base."""
        body, atrium = self.heart
        left = max(body.x + body.half_width, atrium.x + atrium.half_width)
        right = min(body.x - body.half_width, atrium.x - atrium.half_width)
        chest = 2 * float(self.lungs["left"].outer.max())
        return (left - right) / chest

    @cached_property
    def vessels(self) -> tuple[Ellipse, ...]:
        """Aortic knob, pulmonary trunk, superior vena cava, descending aorta; wider in an enlarged mediastinum."""
        patient, swing = self.study.patient, self.swing
        knob = 0.075 + 0.045 * patient.aorta
        found = [
            Ellipse(0.075 + 0.05 * patient.aorta + swing, -0.33, knob, knob * 1.15),
            Ellipse(0.115 + swing, -0.16, 0.085, 0.11),
            Ellipse(-0.075 + swing, -0.33, 0.075, 0.33),
            Ellipse(0.07 + 0.4 * swing, 0.0, 0.075 + 0.02 * patient.aorta, 0.5),
        ]
        return (*found, *self.widening)

    @cached_property
    def widening(self) -> tuple[Ellipse, ...]:
        """The enlarged mediastinum, where there is one."""
        found = []
        for finding in self._find("Enlarged Cardiomediastinum"):
            wide = 0.165 + 0.13 * finding.severity
            offset = {"both": 0.0, "right": -0.07, "left": 0.07}[finding.kind]
            found.append(Ellipse(offset + self.swing, -0.36, wide, 0.31))
        return tuple(found)

    def rib_height(self, rib: float, u: float) -> float:
        """y of the center of posterior rib `rib` (from 1) at fraction u of the way to the chest wall."""
        return self.rib_start + (rib - 1) * self.study.patient.spacing + float(self.rib_curve(np.float64(u)))

    def rib_point(self, side: str, rib: float, u: float) -> tuple[float, float]:
        """(x, y) of a posterior rib at fraction u of the way to the chest wall."""
        y, lung = self.rib_height(rib, u), self.lungs[side]
        return lung.sign * u * float(np.interp(y, Y_TABLE, lung.outer)), y

    @property
    def rib_start(self) -> float:
        """y of the first rib at the spine."""
        return -0.80 * self.study.patient.length

    def rib_curve(self, u: NDArray[np.floating] | np.float64) -> NDArray[np.floating]:
        """Drop of a posterior rib from the spine to fraction u."""
        slope = self.study.patient.slope
        return np.asarray(slope * (-0.10 * u + 0.22 * u * u + 0.10 * u**5))

    @cached_property
    def rib_count(self) -> int:
        """Posterior ribs whose middle projects above the top of the right dome."""
        top = float(self.lungs["right"].base.min())
        return sum(self.rib_height(rib, 0.45) < top for rib in range(1, 13))

    def spine(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """x of the spine."""
        return 0.055 * self.study.patient.scoliosis * np.cos((y + 0.1) * 1.9)


@dataclass(frozen=True)
class Transform:
    """Body coordinates to pixels of a picture and back."""

    pose: Pose
    size: int

    def to_pixels(self, points: Points) -> Points:
        """(n, 2) body to (n, 2) pixels; pixel i spans [i, i + 1)."""
        pose = self.pose
        cosine, sine = math.cos(pose.angle), math.sin(pose.angle)
        x, y = points[:, 0], points[:, 1]
        turned = np.stack([x * cosine - y * sine + pose.shift[0], x * sine + y * cosine + pose.shift[1]], axis=1)
        return (turned * pose.scale + 1.0) * (self.size / 2)

    def grid(self) -> tuple[Field, Field]:
        """(H, W) body coordinates x, y of the centers of the pixels."""
        pose = self.pose
        line = ((np.arange(self.size, dtype=np.float32) + 0.5) * (2 / self.size) - 1) / np.float32(pose.scale)
        x, y = line[None, :] - np.float32(pose.shift[0]), line[:, None] - np.float32(pose.shift[1])
        cosine, sine = np.float32(math.cos(pose.angle)), np.float32(math.sin(pose.angle))
        return x * cosine + y * sine, y * cosine - x * sine
