"""The outline of every finding that has a place: the one geometry behind the picture, the mask and the box."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.anatomy import Frontal, Lung, Points
from benchmark.data.phantom.draws import TEXTURE, generator
from benchmark.data.phantom.findings import Finding
from benchmark.data.phantom.patient import Study

COUNT = 40


def lesion_radius(finding: Finding) -> float:
    """Half width of a lung lesion in body coordinates: nodules 0.036 to 0.075 (below 3 cm across), masses from 0.105."""
    return 0.036 + 0.052 * finding.severity + (0.03 if finding.kind != "nodule" else 0.0)


def blob_radius(finding: Finding) -> float:
    """Half height of an area of opacity in lung coordinates."""
    base = {"Pneumonia": 0.15, "Consolidation": 0.10, "Lung Opacity": 0.13}[finding.name]
    return base + 0.09 * finding.severity


def outline(study: Study, finding: Finding, lung: Lung, frontal: Frontal) -> Points | None:
    """(n, 2) closed outline in body coordinates, inside the lung it lies in; None for what has no place of its own."""
    if finding.name == "Lung Lesion":
        return _lesion(study, finding, lung)
    if finding.name in ("Pneumonia", "Consolidation", "Lung Opacity"):
        return _blob(study, finding, lung)
    if finding.name == "Atelectasis":
        return _bands(finding, lung) if finding.kind == "linear" else _lobe(finding, lung)
    if finding.name == "Pneumothorax":
        return _air(finding, lung)
    if finding.name == "Pleural Effusion":
        return _fluid(finding, lung)
    if finding.name == "Pleural Other":
        return _pleura(finding, lung)
    if finding.name == "Fracture":
        return _bone(finding, frontal)
    if finding.name == "Cardiomegaly":
        return np.concatenate([part.outline() for part in frontal.heart])
    if finding.name == "Enlarged Cardiomediastinum":
        return np.concatenate([part.outline() for part in frontal.widening])
    return None


def _wobble(study: Study, finding: Finding, depth: float) -> NDArray[np.float64]:
    phases = generator(study.patient.seed, TEXTURE, *study.key, finding.texture).random(4) * (2 * math.pi)
    turn = np.arange(COUNT) * (2 * math.pi / COUNT)
    waves = sum(np.sin(order * turn + phase) / order for order, phase in zip((2, 3, 4, 5), phases))
    return np.asarray(1 + depth * waves)


def _lesion(study: Study, finding: Finding, lung: Lung) -> Points:
    center = lung.to_body(np.array([finding.place[0]]), np.array([finding.place[1]]))[0]
    turn = np.arange(COUNT) * (2 * math.pi / COUNT)
    radius = lesion_radius(finding) * _wobble(study, finding, 0.07)
    return np.stack([center[0] + radius * np.cos(turn), center[1] + radius * np.sin(turn)], axis=1)


def _blob(study: Study, finding: Finding, lung: Lung) -> Points:
    turn = np.arange(COUNT) * (2 * math.pi / COUNT)
    radius = blob_radius(finding) * _wobble(study, finding, 0.22)
    s = np.clip(finding.place[0] + radius * np.sin(turn), 0.04, 0.985)
    t = np.clip(finding.place[1] + 1.7 * radius * np.cos(turn), 0.02, 0.98)
    return lung.to_body(s, t)


def _bands(finding: Finding, lung: Lung) -> Points:
    long, thick = 0.20 + 0.14 * finding.severity, 0.016 + 0.012 * finding.severity
    line = np.linspace(-1, 1, 12)
    rise = 0.06 * line
    s, t = finding.place[0], finding.place[1]
    edge = thick * np.sqrt(1 - 0.9 * line * line)
    upper, lower = s + rise - edge, s + rise + edge
    across = np.clip(t + long * line, 0.02, 0.98)
    return lung.to_body(np.clip(np.concatenate([upper, lower[::-1]]), 0, 0.99), np.concatenate([across, across[::-1]]))


def _lobe(finding: Finding, lung: Lung) -> Points:
    top, wide = 0.74 - 0.16 * finding.severity, 0.55 + 0.3 * finding.severity
    t = np.linspace(0.0, wide, 14)
    s = top + (1 - top) * np.power(t / wide, 1.5)
    return lung.to_body(np.concatenate([s, np.ones(14)]), np.concatenate([t, t[::-1]]))


def _air(finding: Finding, lung: Lung) -> Points:
    inner_s, inner_t, end = pleural_line(finding)
    s = np.concatenate([inner_s, np.linspace(end, 0.012, 24)])
    t = np.concatenate([inner_t, np.ones(23), [0.5]])
    return lung.to_body(s, t)


def pleural_line(finding: Finding) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """The edge of a collapsed lung, (n,) s and t from the mediastinum to the chest wall, and the s where it ends."""
    gap, width = 0.07 + 0.16 * finding.severity, 0.13 + 0.42 * finding.severity
    end = 0.55 + 0.42 * finding.severity
    rise = np.linspace(0, 1, 12)
    dome_s, dome_t = gap + 0.12 * (1 - np.sqrt(1 - rise * rise)), rise * (1 - width)
    fall = np.linspace(0, 1, 14)[1:]
    side_s = dome_s[-1] + (end - dome_s[-1]) * fall
    side_t = 1 - width * (1 - fall * fall * fall)
    return np.concatenate([dome_s, side_s]), np.concatenate([dome_t, side_t]), end


def _fluid(finding: Finding, lung: Lung) -> Points:
    height, reach = 0.10 + 0.44 * finding.severity, 0.75 + 0.5 * finding.severity
    t = np.linspace(max(0.0, 1 - reach), 1.0, 20)
    rise = (t - (1 - reach)) / reach
    s = 1 - height * (0.35 * rise + 0.65 * rise**4)
    return lung.to_body(np.concatenate([s, np.ones(20)]), np.concatenate([t, t[::-1]]))


def _pleura(finding: Finding, lung: Lung) -> Points:
    if finding.kind == "cap":
        t = np.linspace(0.02, 0.98, 16)
        deep = (0.05 + 0.05 * finding.severity) * (1 + 0.2 * np.sin(9 * t))
        return lung.to_body(np.concatenate([np.full(16, 0.01), deep]), np.concatenate([t, t[::-1]]))
    long, thick = 0.12 + 0.14 * finding.severity, 0.08 + 0.07 * finding.severity
    line = np.linspace(-1, 1, 20)
    s = np.clip(finding.place[0] + long * line, 0.02, 0.99)
    edge = 1 - thick * np.sqrt(1 - line * line) * (1 + 0.25 * np.sin(7 * line + finding.severity * 9))
    return lung.to_body(np.concatenate([s, s[::-1]]), np.concatenate([np.ones(20), edge[::-1]]))


def broken_ribs(finding: Finding) -> int:
    """How many neighboring ribs are broken."""
    return 1 + int(finding.severity * 3.99)


def fracture_points(finding: Finding, frontal: Frontal) -> Points:
    """(n, 2) where each broken rib is broken."""
    u = finding.place[1]
    return np.array([frontal.rib_point(finding.side, finding.rib + number, u) for number in range(broken_ribs(finding))])


def _bone(finding: Finding, frontal: Frontal) -> Points:
    points = fracture_points(finding, frontal)
    margin = np.array([0.06, 0.045])
    low, high = points.min(0) - margin, points.max(0) + margin
    return np.array([(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])])
