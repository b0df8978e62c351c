from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from benchmark.data.phantom import PhantomSource, open_source, phrases
from benchmark.data.phantom.anatomy import Frontal, Transform
from benchmark.data.phantom.devices import carina_distance
from benchmark.data.phantom.findings import CLASSES, Finding
from benchmark.data.phantom.patient import Study, sample_patient, sample_pose, sample_study
from benchmark.data.phantom.render import boxes, masks, render_frontal
from benchmark.data.phantom.report import CENTIMETERS, write_report
from benchmark.data.sources import SourceOptions
from benchmark.data.text import split_sentences
from benchmark.types import Record

RESERVED = ("is observed", "are observed", "is seen", "are seen", "findings consistent with")


@pytest.fixture(scope="module")
def source() -> PhantomSource:
    return open_source("train=1500,val=60,test=120", SourceOptions(preset="small"))


@pytest.fixture(scope="module")
def studies(source: PhantomSource) -> dict[str, Record]:
    return {record.study: record for record in source.records if record.view != "LATERAL"}


def healthy() -> Study:
    study = sample_study(sample_patient(0, 7), 1)
    return replace(study, findings=(), projection="PA")


def test_sides_zones_and_sizes_in_the_report_are_those_of_the_picture(source: PhantomSource) -> None:
    """Every "SIDE ZONE zone" and every size is measured again on a mask that holds that finding alone."""
    checked = 0
    for record in source.records[:500]:
        study = source.study(record)
        lesions = [finding for finding in study.findings if finding.name in ("Lung Lesion", "Consolidation")]
        if record.boxes is None or len(lesions) != 1:
            continue
        alone = replace(study, findings=tuple(lesions))
        text = " ".join(write_report(alone, Frontal(alone)).values())
        transform = Transform(sample_pose(alone, 1), 256)
        rows, columns = np.nonzero(masks(alone, 256)["lesion"])
        x, y = (field[rows, columns] for field in transform.grid())
        side = "left" if x.mean() > 0 else "right"
        words = "nodule|mass|cavity|lesion|consolidat"
        stated = [part for part in map(str.lower, split_sentences(text)) if re.search(words, part)]
        stated = [part for part in stated if re.search(r"\b(upper|mid|lower)\b", part)]
        assert stated
        for part in stated:
            assert set(re.findall(r"\b(left|right)\b", part)) == {side}
            assert set(re.findall(r"\b(upper|mid|lower)\b", part)) == {lesions[0].zone}
        lung = Frontal(alone).lungs[side]
        height = (y.mean() - lung.apex) / (np.interp(0.5, np.linspace(0, 1, 65), lung.base) - lung.apex)
        low, high = {"upper": (0, 0.48), "mid": (0.28, 0.76), "lower": (0.56, 1.1)}[lesions[0].zone]
        assert low < height < high
        for size in re.findall(r"(\d+\.\d) cm", text):
            across = (np.ptp(x) + np.ptp(y)) / 2 * CENTIMETERS
            assert float(size) == pytest.approx(across, rel=0.12, abs=0.25)
        checked += 1
    assert checked > 20


@pytest.mark.parametrize("name", ["Pleural Effusion", "Pneumothorax"])
def test_side_and_volume_of_pleural_findings_grow_in_the_mask(name: str) -> None:
    study = healthy()
    for side, sign in (("left", 1), ("right", -1)):
        areas = []
        for severity, words in zip((0.1, 0.6, 0.95), phrases.VOLUME):
            alone = replace(study, findings=(Finding(name, "", side, severity),))
            text = write_report(alone, Frontal(alone))["impression"].lower()
            assert side in text
            assert {"left": "right", "right": "left"}[side] not in text
            assert any(word in text for word in words)
            lesion = masks(alone, 128)["lesion"]
            x, _ = Transform(sample_pose(alone, 1), 128).grid()
            assert np.sign(x[lesion == 1].mean()) == sign
            areas.append(int(lesion.sum()))
        assert areas == sorted(areas)
        assert areas[0] * 2 < areas[2]


def test_stated_cardiothoracic_ratio_is_that_of_the_masks(source: PhantomSource) -> None:
    checked = 0
    for record in source.records[:300]:
        stated = re.search(r"ratio (?:of )?(0\.\d\d)", " ".join(record.sections.values()))
        if record.boxes is None or not stated:
            continue
        study = source.study(record)
        alone = replace(study, findings=tuple(finding for finding in study.findings if finding.kind == "heart"))
        level = {name: np.nonzero(mask)[1] for name, mask in masks(study, 512).items()}
        pixels = np.ptp(level["heart"]) / np.ptp(level["lungs"])
        assert float(stated[1]) == pytest.approx(pixels, abs=0.04)
        assert ("Cardiomegaly" in {finding.name for finding in alone.findings}) == (record.labels[2] == 1)
        checked += 1
    assert checked > 30


def test_stated_ribs_lie_above_the_diaphragm(studies: dict[str, Record], source: PhantomSource) -> None:
    for record in list(studies.values())[:200]:
        stated = re.search(r"(\d+) posterior ribs", record.sections["findings"])
        if stated:
            geometry = Frontal(source.study(record))
            top = geometry.lungs["right"].base.min()
            assert geometry.rib_height(int(stated[1]), 0.45) < top <= geometry.rib_height(int(stated[1]) + 1, 0.45)


def test_stated_fractures_are_in_their_box(source: PhantomSource) -> None:
    study = replace(healthy(), findings=(Finding("Fracture", "acute", "left", 0.6, (0.5, 0.85), rib=5),))
    text = write_report(study, Frontal(study))["findings"].lower()
    assert "fifth to seventh ribs" in text
    assert "lateral" in text
    (box,) = boxes(study, 128)
    transform = Transform(sample_pose(study, 1), 128)
    for rib in (5, 6, 7):
        ((x, y),) = transform.to_pixels(np.array([Frontal(study).rib_point("left", rib, 0.85)]))
        assert box.x0 < x < box.x1
        assert box.y0 < y < box.y1


def test_stated_tube_distance_is_that_of_the_drawing() -> None:
    study = replace(healthy(), findings=(Finding("Support Devices", "endotracheal tube", place=(0.5, 0.5)),))
    text = " ".join(write_report(study, Frontal(study)).values())
    stated = re.search(r"(\d\.\d) cm", text)
    assert stated
    assert float(stated[1]) == pytest.approx(carina_distance(study.findings[0]) * CENTIMETERS, abs=0.05)
    change = render_frontal(study, 256).astype(float) - render_frontal(study.without("Support Devices"), 256)
    _, y = Transform(sample_pose(study, 1), 256).grid()
    end = y[np.abs(change) > 25].max()
    assert (-0.20 - end) * CENTIMETERS == pytest.approx(float(stated[1]), abs=0.6)


def test_absent_observations_are_never_stated_as_present(studies: dict[str, Record]) -> None:
    for record in studies.values():
        text = re.sub(
            r"\b(no|without|negative for|not)\b[^.]*\.|[^.]*\bis absent\.", "", " ".join(record.sections.values()).lower()
        )
        values = dict(zip(CLASSES, record.labels))
        for name, word in (
            ("Pneumothorax", "pneumothorax"),
            ("Pleural Effusion", "effusion"),
            ("Edema", "edema"),
            ("Fracture", "fracture"),
        ):
            assert values[name] == 1 or word not in text, (record.uid, text)
        if values["Lung Opacity"]:
            assert "lungs are clear" not in text
        if values["Enlarged Cardiomediastinum"]:
            assert "normal mediastinum" not in text


def test_present_observations_are_never_denied(studies: dict[str, Record]) -> None:
    denial = re.compile(r"^(?:no|there is no|without|negative for)\b|is absent")
    checked = 0
    for record in studies.values():
        values = dict(zip(CLASSES, record.labels))
        for sentence in map(str.lower, split_sentences(" ".join(record.sections.values()))):
            if not denial.search(sentence):
                continue
            for name, words in phrases.NEGATIVE.items():
                if any(re.search(rf"\b{word}\b", sentence) for word in words):
                    assert values[name] == 0, (record.uid, sentence)
                    checked += 1
    assert checked > 1000


def test_different_patients_seldom_share_a_report(source: PhantomSource) -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for record in source.records:
        owners[" ".join(record.sections.values())].add(record.patient)
    shared = sum(len(patients) for patients in owners.values() if len(patients) > 1)
    assert shared < 0.02 * len(owners)


def test_reports_never_hold_the_wording_of_prompts(source: PhantomSource) -> None:
    for record in source.records:
        text = " ".join(record.sections.values()).lower()
        assert not any(words in text for words in RESERVED)
        assert not re.search(r"[{}]|\s{2}|\.\.|none", text), text
    tables = repr([value for name, value in vars(phrases).items() if name.isupper()]).lower()
    assert not any(words in tables for words in RESERVED)
