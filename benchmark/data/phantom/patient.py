"""Who is in the picture: a patient's build, and a study's projection, breath and findings. No pixels."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.data.phantom.draws import CHRONIC, PATIENT, STUDY, VIEW, Draws
from benchmark.data.phantom.findings import Finding, sample_acute, sample_chronic

HABITUS = ("thin", "average", "large")


@dataclass(frozen=True, slots=True)
class Patient:
    """What stays the same over the studies of a patient. Lengths are in half image widths at scale 1.

    fat: 0 thin to 1 large. wall: half width of the chest. length: height of the lungs. heart: relative size.
    aorta: prominence of the aortic knob, 0 to 1. scoliosis: sideways bend of the spine, positive to the patient's left.
    osteophytes: degenerative spine. spacing: between ribs. slope: of the ribs. eventration: extra height of a dome, by side.
    """

    seed: int
    index: int
    age: int
    sex: str
    fat: float
    wall: float
    length: float
    heart: float
    aorta: float
    scoliosis: float
    osteophytes: bool
    spacing: float
    slope: float
    eventration: tuple[float, float]  # right, left
    breast: float
    hilum: float
    studies: int
    chronic: tuple[Finding, ...]

    @property
    def habitus(self) -> str:
        """Thin, average or large."""
        return HABITUS[0 if self.fat < 0.27 else 1 if self.fat < 0.66 else 2]


@dataclass(frozen=True, slots=True)
class Study:
    """One examination. projection: "PA" or "AP". breath: 0 poor to 1 deep. turn: rotation of the patient, -1 (right) to 1."""

    patient: Patient
    number: int
    projection: str
    lateral: bool
    breath: float
    turn: float
    bubble: bool
    findings: tuple[Finding, ...]

    @property
    def key(self) -> tuple[int, int]:
        """(patient index, study number), the tail of every seed."""
        return self.patient.index, self.number

    def without(self, name: str) -> Study:
        """The same study with one observation not drawn; to show what a finding does to the picture."""
        kept = tuple(finding for finding in self.findings if finding.name != name)
        return Study(self.patient, self.number, self.projection, self.lateral, self.breath, self.turn, self.bubble, kept)


@dataclass(frozen=True, slots=True)
class Pose:
    """How one image was taken: placing on the detector, exposure, contrast, noise, blur, marker."""

    angle: float  # radians
    shift: tuple[float, float]
    scale: float
    exposure: float  # added to the display value: above 0 is underexposed, brighter
    contrast: float
    gamma: float
    noise: float
    blur: float  # of the picture's size
    marker: str  # "L", "R" or ""
    collimation: float


def sample_patient(seed: int, index: int) -> Patient:
    """The patient of an index; a pure function of (seed, index)."""
    draws = Draws(seed, PATIENT, index)
    age = int(min(95, max(18, draws.bell(60, 17))))
    sex = draws.pick(("F", "M"))
    fat = min(1.0, max(0.0, draws.bell(0.47, 0.26)))
    old = max(0.0, (age - 50) / 45)
    bend = draws.uniform(-1, 1)
    lifted = draws.pick(((0.0, 0.0),) * 5 + ((0.11, 0.0), (0.0, 0.11)))
    return Patient(
        seed=seed, index=index, age=age, sex=sex, fat=fat,
        wall=draws.bell(0.715 if sex == "M" else 0.675, 0.03), length=draws.bell(1.0, 0.04), heart=draws.bell(1.0, 0.055),
        aorta=min(1.0, max(0.0, 0.15 + 0.6 * old + draws.uniform(-0.15, 0.35))),
        scoliosis=bend if draws.chance(0.22 + 0.1 * old) else 0.12 * bend, osteophytes=draws.chance(0.05 + 0.55 * old),
        spacing=draws.bell(0.118, 0.006), slope=draws.bell(1.0, 0.16), eventration=lifted,
        breast=draws.uniform(0.4, 1.0) if sex == "F" else 0.0, hilum=draws.uniform(0.6, 1.4),
        studies=draws.pick((1, 1, 1, 1, 2, 2, 2, 3, 3, 4)), chronic=sample_chronic(Draws(seed, CHRONIC, index), age),
    )  # fmt: skip


def sample_study(patient: Patient, number: int) -> Study:
    """A study (number from 1) of a patient; a pure function of the patient and the number."""
    draws = Draws(patient.seed, STUDY, patient.index, number)
    sick = 0.25 + 0.3 * bool(patient.chronic)
    projection = "AP" if draws.chance(sick) else "PA"
    breath = draws.uniform(0.15, 0.75) if projection == "AP" else draws.uniform(0.35, 1.0)
    turn = draws.uniform(-1, 1) * (1.0 if draws.chance(0.3) else 0.25)
    lateral = projection == "PA" and draws.chance(0.27)
    bubble = draws.chance(0.6)
    findings = sample_acute(draws, patient.chronic, projection)
    return Study(patient, number, projection, lateral, breath, turn, bubble, findings)


def sample_pose(study: Study, view: int) -> Pose:
    """How the view (1 frontal, 2 lateral) was taken."""
    draws = Draws(study.patient.seed, VIEW, *study.key, view)
    spread = 1.5 if study.projection == "AP" else 1.0
    return Pose(
        angle=draws.bell(0.0, 0.025 * spread), shift=(draws.bell(0, 0.03 * spread), draws.bell(0.09, 0.03 * spread)),
        scale=draws.uniform(1.0, 1.22), exposure=draws.bell(0.0, 0.045), contrast=draws.uniform(0.82, 1.15),
        gamma=draws.uniform(0.85, 1.2), noise=draws.uniform(0.008, 0.022), blur=draws.uniform(0.0022, 0.0042),
        marker=draws.pick(("L", "R", "L", "R", "")), collimation=draws.uniform(0.0, 0.05) if draws.chance(0.35) else 0.0,
    )  # fmt: skip
