"""The 14 CheXpert observations: what a patient has, on which side, where, and how severe.

Hierarchy, as in the CheXpert paper (Irvin et al. 2019, figure 1): Edema, Consolidation, Pneumonia, Atelectasis and Lung
Lesion count as Lung Opacity; Cardiomegaly counts as Enlarged Cardiomediastinum. No Finding means none of the others
except Support Devices. An opacity whose report says that pneumonia cannot be ruled out has Pneumonia unknown (nan).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmark.data.phantom.draws import Draws

CLASSES = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
PARENTS = {
    "Edema": "Lung Opacity", "Consolidation": "Lung Opacity", "Pneumonia": "Lung Opacity", "Atelectasis": "Lung Opacity",
    "Lung Lesion": "Lung Opacity", "Cardiomegaly": "Enlarged Cardiomediastinum",
}  # fmt: skip
BOXED = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
)  # fmt: skip
SIDES = ("right", "left")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing drawn.

    name: of CLASSES. kind: its variant. side: "right", "left", "bilateral" or "". severity: 0 to 1.
    place: (s, t) in the lung, s from apex 0 to diaphragm 1, t from the mediastinum 0 to the chest wall 1.
    depth: front 0 to back 1, on a lateral view. rib: number of the first broken rib. texture: index of its random field.
    """

    name: str
    kind: str
    side: str = ""
    severity: float = 0.5
    place: tuple[float, float] = (0.5, 0.5)
    depth: float = 0.5
    rib: int = 0
    texture: int = 0
    uncertain: bool = False

    @property
    def grade(self) -> int:
        """0 mild, 1 moderate, 2 severe."""
        return 0 if self.severity < 0.4 else 1 if self.severity < 0.75 else 2

    @property
    def zone(self) -> str:
        """Upper, mid or lower, by thirds of the lung's height."""
        return "upper" if self.place[0] < 0.38 else "mid" if self.place[0] < 0.66 else "lower"


def labels_of(findings: tuple[Finding, ...]) -> tuple[float, ...]:
    """(14,) 1, 0 or nan in the order of CLASSES, parents included."""
    present = {finding.name for finding in findings}
    present |= {PARENTS[name] for name in present if name in PARENTS}
    values = {name: float(name in present) for name in CLASSES}
    values["No Finding"] = float(not present - {"Support Devices"})
    if any(finding.uncertain for finding in findings) and not values["Pneumonia"]:
        values["Pneumonia"] = math.nan
    return tuple(values[name] for name in CLASSES)


def sample_chronic(draws: Draws, age: int) -> tuple[Finding, ...]:
    """What a patient has in every study."""
    old = max(0.0, min(1.0, (age - 40) / 45))
    found: list[Finding] = []
    if draws.chance(0.26):
        return ()
    if draws.chance(0.14 + 0.22 * old):
        found.append(Finding("Cardiomegaly", "heart", "", draws.unit()))
    if draws.chance(0.10):
        found.append(Finding("Enlarged Cardiomediastinum", draws.pick(("both", "right", "left")), "", draws.unit()))
    if draws.chance(0.12):
        found += _lesions(draws)
    if draws.chance(0.12):
        kind = draws.pick(("thickening", "thickening", "plaque", "cap"))
        place = (draws.uniform(0.42, 0.72) if kind != "cap" else 0.05, 0.97 if kind != "cap" else 0.5)
        found.append(Finding("Pleural Other", kind, draws.pick(SIDES), draws.unit(), place, draws.uniform(0.8, 1), texture=3))
    if draws.chance(0.09):
        found.append(_fracture(draws, healed=True))
    if draws.chance(0.05 + 0.08 * old):
        found.append(Finding("Support Devices", "pacemaker", draws.pick(("left", "left", "left", "right")), texture=4))
    return tuple(found)


def sample_acute(draws: Draws, chronic: tuple[Finding, ...], projection: str) -> tuple[Finding, ...]:
    """Everything in a study: the chronic findings and those of the day."""
    names = {finding.name for finding in chronic}
    failing = draws.chance(0.5 if "Cardiomegaly" in names else 0.07)
    found = list(chronic)
    quiet = draws.chance(0.36 if not chronic else 0.22)
    if not quiet:
        if draws.chance(0.62 if failing else 0.05):
            found.append(Finding("Edema", "edema", "bilateral", draws.unit(), texture=5))
        found += _airspace(draws)
        infected = any(finding.name in ("Pneumonia", "Consolidation") for finding in found)
        found += _pleura(draws, 0.62 if failing else 0.26 if infected else 0.13, 0.12)
        if "Fracture" not in names and draws.chance(0.08):
            found.append(_fracture(draws, healed=False))
    found += _devices(draws, found, projection)
    return tuple(found)


def _lesions(draws: Draws) -> list[Finding]:
    count = draws.pick((1, 1, 1, 2, 3))
    kind = draws.pick(("nodule", "nodule", "mass", "cavity")) if count == 1 else "nodule"
    found = []
    for number in range(count):
        place = (draws.uniform(0.15, 0.86), draws.uniform(0.25, 0.85))
        # a mass is more than three centimeters, a nodule less
        severity = draws.uniform(0.0, 0.74) if kind == "nodule" else draws.uniform(0.75, 1.0)
        found.append(
            Finding("Lung Lesion", kind, draws.pick(SIDES), severity, place, draws.uniform(0.2, 0.8), texture=10 + number)
        )
    return found


def _fracture(draws: Draws, *, healed: bool) -> Finding:
    kind = "healed" if healed else "acute"
    return Finding(
        "Fracture", kind, draws.pick(SIDES), draws.unit(), (0.5, draws.uniform(0.45, 0.93)), draws.uniform(0.3, 0.9),
        rib=4 + int(draws.unit() * 5), texture=20,
    )  # fmt: skip


def _airspace(draws: Draws) -> list[Finding]:
    found: list[Finding] = []
    side = draws.pick(SIDES)
    place = (draws.uniform(0.18, 0.84), draws.uniform(0.25, 0.75))
    depth = draws.uniform(0.25, 0.85)
    pneumonia = draws.chance(0.17)
    if pneumonia:
        found.append(Finding("Pneumonia", "patchy", side, draws.unit(), place, depth, texture=30))
        if draws.chance(0.25):
            other = (draws.uniform(0.18, 0.84), draws.uniform(0.3, 0.7))
            far = "left" if side == "right" else "right"
            found.append(Finding("Pneumonia", "patchy", far, draws.unit(), other, depth, texture=31))
    if draws.chance(0.5 if pneumonia else 0.10):
        found.append(Finding("Consolidation", "airspace", side, draws.unit(), place, depth, texture=32))
    if not pneumonia and draws.chance(0.10):
        far = draws.pick(SIDES)
        spot = (draws.uniform(0.18, 0.84), draws.uniform(0.3, 0.7))
        unsure = draws.chance(0.15)
        found.append(Finding("Lung Opacity", "hazy", far, draws.unit(), spot, depth, texture=33, uncertain=unsure))
    return found


def _pleura(draws: Draws, effusion: float, pneumothorax: float) -> list[Finding]:
    found: list[Finding] = []
    wet = draws.chance(effusion)
    sides = draws.pick((("right",), ("left",), ("right", "left"))) if wet else ()
    found += [Finding("Pleural Effusion", "fluid", side, draws.unit(), (0.9, 0.8), 0.95) for side in sides]
    if draws.chance(0.34 if wet else 0.16):
        kind = draws.pick(("linear", "linear", "lobar"))
        side = draws.pick(sides) if sides and kind == "lobar" else draws.pick(SIDES)
        place = (draws.uniform(0.70, 0.88), draws.uniform(0.35, 0.7))
        found.append(Finding("Atelectasis", kind, side, draws.unit(), place, 0.6, texture=34))
    if draws.chance(pneumothorax):
        side = draws.pick([side for side in SIDES if side not in sides] or SIDES)
        found.append(Finding("Pneumothorax", "air", side, draws.unit(), (0.12, 0.9), 0.4, texture=35))
    return found


def _devices(draws: Draws, found: list[Finding], projection: str) -> list[Finding]:
    names = {finding.name: finding for finding in found}
    devices = []
    ill = projection == "AP"
    if "Pneumothorax" in names and draws.chance(0.4):
        devices.append(Finding("Support Devices", "chest tube", names["Pneumothorax"].side, draws.unit(), texture=40))
    if draws.chance(0.22 if ill else 0.0):
        devices.append(Finding("Support Devices", "endotracheal tube", "", place=(draws.unit(), draws.unit()), texture=41))
    if draws.chance(0.24 if ill else 0.0):
        devices.append(Finding("Support Devices", "nasogastric tube", "", draws.unit(), texture=42))
    if draws.chance(0.3 if ill else 0.06):
        devices.append(
            Finding("Support Devices", "central line", draws.pick(SIDES), 0.5, (draws.unit(), draws.unit()), texture=43)
        )
    return devices
