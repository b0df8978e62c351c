"""The report of a study: sentences that are true of the picture, in a random order and wording."""

from __future__ import annotations

from benchmark.data.phantom.anatomy import Frontal
from benchmark.data.phantom.devices import carina_distance, line_tip, line_vein
from benchmark.data.phantom.draws import TEXT, Draws
from benchmark.data.phantom.findings import CLASSES, Finding, labels_of
from benchmark.data.phantom.outlines import broken_ribs, lesion_radius
from benchmark.data.phantom.patient import Study, sample_pose
from benchmark.data.phantom.phrases import (
    BONES,
    BOTH,
    CLEAR,
    DENIALS,
    DEVICES,
    EXTENT,
    HEDGES,
    INCIDENTAL,
    LESION,
    MEDIASTINUM,
    NEGATIVE,
    NO_DEVICES,
    NORMAL,
    ORDINALS,
    POSITIVE,
    UNCERTAIN,
    VOLUME,
)

CENTIMETERS = 20.0  # of one body unit: a chest of 1.4 units is 28 cm wide


def write_report(study: Study, geometry: Frontal) -> dict[str, str]:
    """Findings and impression of a study and its geometry; a pure function of the study."""
    draws = Draws(study.patient.seed, TEXT, *study.key)
    positive = _positives(draws, study, geometry)
    rest = _absent(draws, study) + _normal(draws, study, geometry) + _incidental(draws, study, geometry)
    findings = draws.shuffle([sentence for _, sentence in positive] + rest)
    return {"findings": _text(findings), "impression": _text(_impression(draws, study, geometry))}


def _text(sentences: list[str]) -> str:
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences)


def _positives(draws: Draws, study: Study, geometry: Frontal) -> list[tuple[str, str]]:
    """(observation, sentence) of everything that is there; fluid on both sides may share one sentence."""
    found = []
    findings = list(study.findings)
    fluid = [finding for finding in findings if finding.name == "Pleural Effusion"]
    if len(fluid) == 2 and draws.chance(0.75):
        findings = [finding for finding in findings if finding.name != "Pleural Effusion"]
        volumes = {f"{finding.side}": draws.pick(VOLUME[finding.grade]) for finding in fluid}
        found.append(("Pleural Effusion", draws.pick(BOTH).format(**volumes)))
    for finding in findings:
        sentence = describe(draws, study, geometry, finding)
        if finding.uncertain:
            sentence += draws.pick(UNCERTAIN)
        elif finding.grade == 0 and sentence.startswith(EXTENT[0] + VOLUME[0]) and draws.chance(0.3):
            sentence = f"{draws.pick(HEDGES)} {sentence}"
        found.append((finding.name, sentence))
    return found


def describe(draws: Draws, study: Study, geometry: Frontal, finding: Finding) -> str:
    """One sentence, without its full stop, with true details of a finding."""
    if finding.name == "Support Devices":
        tip = line_tip(finding)
        values = {
            "side": finding.side, "above": f"{carina_distance(finding) * CENTIMETERS:.1f}", "vein": line_vein(finding),
            "tip": "in the superior vena cava" if tip < -0.12 else "near the cavoatrial junction",
        }  # fmt: skip
        return draws.pick(DEVICES[finding.kind]).format(**values)
    if finding.name == "Lung Lesion":
        size = f"{2 * lesion_radius(finding) * CENTIMETERS:.1f}"
        return draws.pick(LESION[finding.kind]).format(size=size, side=finding.side, zone=finding.zone)
    name = finding.name
    if name in ("Atelectasis", "Pleural Other", "Fracture"):
        name = f"{name} {finding.kind}"
    last = finding.rib + broken_ribs(finding) - 1
    ribs = f"{ORDINALS[finding.rib]} rib" if last == finding.rib else f"{ORDINALS[finding.rib]} to {ORDINALS[last]} ribs"
    values = {
        "grade": draws.pick(EXTENT[finding.grade]), "volume": draws.pick(VOLUME[finding.grade]), "side": finding.side,
        "zone": finding.zone, "ratio": f"{geometry.ratio:.2f}", "ribs": ribs, "verb": "is" if last == finding.rib else "are",
        "part": "lateral" if finding.place[1] > 0.68 else "posterior",
        "toward": "" if finding.kind == "both" else f" to the {finding.kind}",
    }  # fmt: skip
    return draws.pick(POSITIVE[name]).format(**values)


def _absent(draws: Draws, study: Study) -> list[str]:
    """Denials of some of what is not there."""
    values = dict(zip(CLASSES, labels_of(study.findings)))
    free = [name for name in NEGATIVE if values[name] == 0]
    if values["Pneumonia"] != 0 or values["Lung Opacity"]:  # an opacity that is no pneumonia is still no clear lung
        free = [name for name in free if name not in ("Consolidation", "Pneumonia") or draws.chance(0.3)]
    wanted = draws.shuffle(
        [name for name in free if draws.chance(0.75 if name in ("Pleural Effusion", "Pneumothorax") else 0.4)]
    )
    found = []
    while wanted:
        group = [draws.pick(NEGATIVE[wanted.pop()]) for _ in range(min(len(wanted), draws.pick((1, 2, 2, 3))))]
        denial = draws.pick(DENIALS if len(group) == 1 else DENIALS[:5])
        found.append(denial.format(what=" or ".join((", ".join(group[:-1]), group[-1])) if len(group) > 1 else group[0]))
    return found


def _normal(draws: Draws, study: Study, geometry: Frontal) -> list[str]:
    values = dict(zip(CLASSES, labels_of(study.findings)))
    found = []
    if not values["Cardiomegaly"]:
        ratio = f"{geometry.ratio:.2f}"
        if geometry.ratio < 0.43:
            options = (
                "the heart is small",
                f"small heart with a cardiothoracic ratio of {ratio}",
                "slender cardiac silhouette",
            )
        elif geometry.ratio < 0.50:
            options = ("heart size is normal", f"normal heart size, cardiothoracic ratio {ratio}", "normal cardiac silhouette")
        else:
            options = (
                "heart size is at the upper limit of normal",
                f"borderline heart size, ratio {ratio}",
                "heart not definitely enlarged",
            )
        found.append(draws.pick(options))
    if not values["Enlarged Cardiomediastinum"] and draws.chance(0.6):
        found.append(draws.pick(MEDIASTINUM))
    if not values["Lung Opacity"] and draws.chance(0.8):
        found.append(draws.pick(CLEAR))
    straight = not study.patient.osteophytes and abs(study.patient.scoliosis) < 0.4
    if straight and not values["Fracture"] and draws.chance(0.35):
        found.append(draws.pick(BONES))
    if not values["Support Devices"] and draws.chance(0.2):
        found.append(draws.pick(NO_DEVICES))
    return found


def _incidental(draws: Draws, study: Study, geometry: Frontal) -> list[str]:
    """True details of build, breath, position and technique, a random choice of them."""
    patient, pose = study.patient, sample_pose(study, 1)
    way = "left" if study.turn > 0 else "right"
    bend = "left" if patient.scoliosis > 0 else "right"
    views = "PA and lateral views" if study.lateral else f"single {study.projection} view"
    lobar = any(finding.kind == "lobar" for finding in study.findings)
    chances = [
        ("inspiration", 0.5), ("turned", 0.8 * (abs(study.turn) > 0.4)), ("bend", 0.9 * (abs(patient.scoliosis) > 0.4)),
        ("spurs", 0.7 * patient.osteophytes), ("aorta", 0.6 * (patient.aorta > 0.6)), ("arch", 0.35 * (patient.aorta < 0.25)),
        ("right dome", 0.85 * (patient.eventration[0] > 0 and not lobar)),
        ("left dome", 0.85 * (patient.eventration[1] > 0 and not lobar)), ("gas", 0.3 * study.bubble),
        (patient.habitus, 0.6 * (patient.habitus != "average")), ("bright", 0.5 * (pose.exposure > 0.035)),
        ("dark", 0.5 * (pose.exposure < -0.035)), ("marker", 0.2 * bool(pose.marker)), ("views", 0.35),
    ]  # fmt: skip
    values = {
        "count": geometry.rib_count, "way": way, "bend": bend, "views": views, "projection": study.projection,
        "letter": "left" if pose.marker == "L" else "right",
    }  # fmt: skip
    return [draws.pick(INCIDENTAL[name]).format(**values) for name, chance in chances if draws.chance(chance)]


def _impression(draws: Draws, study: Study, geometry: Frontal) -> list[str]:
    found = _positives(draws, study, geometry)
    lines = [sentence for name, sentence in found if name != "Support Devices"]
    devices = [sentence for name, sentence in found if name == "Support Devices" and draws.chance(0.5)]
    return (draws.shuffle(lines) if lines else [draws.pick(NORMAL)]) + devices
