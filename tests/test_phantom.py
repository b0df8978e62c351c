from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from benchmark.data.contact_sheet import contact_sheet
from benchmark.data.phantom import PhantomSource, open_source, phrases
from benchmark.data.phantom.anatomy import Frontal, Transform
from benchmark.data.phantom.devices import carina_distance
from benchmark.data.phantom.findings import BOXED, CLASSES, PARENTS, Finding
from benchmark.data.phantom.lateral import Lateral
from benchmark.data.phantom.outlines import outline
from benchmark.data.phantom.patient import Study, sample_patient, sample_pose, sample_study
from benchmark.data.phantom.render import ORGANS, boxes, masks, render_frontal
from benchmark.data.phantom.report import CENTIMETERS, write_report
from benchmark.data.sources import SOURCES, SourceOptions
from benchmark.data.splits import check_records
from benchmark.errors import ImageError, UserError
from benchmark.types import Record, Source

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


def one_of_each() -> list[Finding]:
    """Every kind of finding that has an outline, mild, on both sides."""
    found = [
        Finding("Lung Lesion", "nodule", "left", 0.1, (0.3, 0.5)),
        Finding("Lung Lesion", "mass", "right", 0.8, (0.6, 0.5)),
    ]
    found += [Finding("Atelectasis", kind, "right", 0.1, (0.8, 0.5)) for kind in ("linear", "lobar")]
    found += [Finding(name, "", "right", 0.1, (0.3, 0.5)) for name in ("Pneumonia", "Consolidation", "Lung Opacity")]
    found += [Finding("Pneumothorax", "air", "left", 0.1), Finding("Pleural Effusion", "fluid", "right", 0.1)]
    found += [Finding("Pleural Other", kind, "left", 0.1, (0.5, 0.97)) for kind in ("thickening", "plaque", "cap")]
    found += [Finding("Fracture", kind, "left", 0.1, (0.5, 0.8), rib=6) for kind in ("acute", "healed")]
    found += [Finding("Cardiomegaly", "heart", "", 0.1), Finding("Enlarged Cardiomediastinum", "both", "", 0.1)]
    return found


def test_source_satisfies_the_contract_and_splits_by_patient(source: PhantomSource) -> None:
    assert isinstance(source, Source)
    check_records(source)
    assert source.version == "1@128,train=1500,val=60,test=120"
    assert [record.uid for record in source.records] == sorted(record.uid for record in source.records)
    for split, wanted in (("train", 1500), ("val", 60), ("test", 120)):
        assert wanted <= sum(record.split == split for record in source.records) < wanted + 8
    assert SOURCES.load("phantom") is open_source


def test_same_seed_gives_the_same_bytes_in_any_order(source: PhantomSource) -> None:
    again = open_source("train=40,val=1,test=120", SourceOptions(preset="small"))
    by_uid = {record.uid: record for record in source.records}
    shared = [record for record in again.records if record.split != "val"]
    assert [by_uid[record.uid] for record in shared] == shared  # neither sizes nor other patients move a record
    some = shared[:6]
    forwards = {record.uid: source.image(record) for record in some}
    for record in reversed(some):
        assert np.array_equal(again.image(record), forwards[record.uid])
    other = open_source("train=40,val=1,test=1", SourceOptions(seed=1))
    assert other.version.endswith("seed=1")
    assert not np.array_equal(other.image(other.records[0]), forwards[some[0].uid])


def test_images_and_masks_have_the_size_that_was_asked_for() -> None:
    small = open_source("train=30,val=1,test=1,size=96", SourceOptions())
    views = {record.view: record for record in small.records}
    assert {"PA", "AP", "LATERAL"} <= views.keys()
    for view, record in views.items():
        image = small.image(record)
        assert image.shape == (96, 96)
        assert image.dtype == np.uint8
        assert np.ptp(image) > 150
        if view == "LATERAL":
            assert record.boxes is None
            assert not record.masks
            with pytest.raises(ImageError, match="no mask"):
                small.mask(record, "heart")
            continue
        for name in small.mask_names:
            mask = small.mask(record, name)
            assert mask.shape == (96, 96)
            assert set(np.unique(mask)) <= {0, 1}
        lungs, heart = small.mask(record, "lungs") == 1, small.mask(record, "heart") == 1
        assert not (lungs & heart).any()
        assert image[lungs].mean() < image[heart].mean() - 30  # air is dark


@pytest.mark.parametrize("finding", one_of_each(), ids=lambda finding: f"{finding.name} {finding.kind}".strip())
def test_a_mild_finding_shows_inside_its_box_and_not_outside(finding: Finding) -> None:
    """Visible: it changes its outline by more than the noise. Local: pixels elsewhere stay as they were."""
    without = healthy()
    with_it = replace(without, findings=(finding,))
    assert with_it.without(finding.name) == without
    change = np.abs(render_frontal(with_it, 128).astype(float) - render_frontal(without, 128))
    (box,) = boxes(with_it, 128)
    assert box.label == finding.name
    inside = np.zeros((128, 128), bool)
    inside[int(box.y0) : int(np.ceil(box.y1)), int(box.x0) : int(np.ceil(box.x1))] = True
    assert change[inside].mean() > 3 * change[~inside].mean()
    assert np.percentile(change[inside], 90) > 8


def test_edema_and_devices_show(source: PhantomSource) -> None:
    without = healthy()
    edema = replace(without, findings=(Finding("Edema", "edema", "bilateral", 0.1),))
    lungs = masks(without, 128)["lungs"] == 1
    plain = render_frontal(without, 128).astype(float)
    assert (render_frontal(edema, 128) - plain)[lungs].mean() > 4
    for kind in phrases.DEVICES:
        device = replace(without, findings=(Finding("Support Devices", kind, "left"),))
        assert (np.abs(render_frontal(device, 128) - plain) > 20).sum() > 40, kind


def test_boxes_bound_the_lesions_to_a_pixel(source: PhantomSource) -> None:
    checked = 0
    for record in source.records[:200]:
        study = source.study(record)
        for finding in study.findings:
            if finding.name not in BOXED or finding.name in ORGANS or record.boxes is None:
                continue
            alone = replace(study, findings=(finding,))
            rows, columns = np.nonzero(masks(alone, 128)["lesion"])
            (box,) = boxes(alone, 128)
            bounds = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert np.abs(bounds - (box.x0, box.y0, box.x1, box.y1)).max() <= 1.01, finding
            checked += 1
    assert checked > 60


def test_mask_of_the_heart_bounds_the_box_of_cardiomegaly(source: PhantomSource) -> None:
    large = [record for record in source.records if any(box.label == "Cardiomegaly" for box in record.boxes or ())][:10]
    for record in large:
        rows, columns = np.nonzero(source.mask(record, "heart"))
        box = next(box for box in record.boxes or () if box.label == "Cardiomegaly")
        bounds = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(bounds - (box.x0, box.y0, box.x1, box.y1)).max() <= 1.01


def test_labels_follow_the_hierarchy_and_the_boxes(source: PhantomSource) -> None:
    for record in source.records:
        values = dict(zip(CLASSES, record.labels))
        for child, parent in PARENTS.items():
            assert values[child] != 1 or values[parent] == 1
        others = [value for name, value in values.items() if name not in ("No Finding", "Support Devices")]
        assert values["No Finding"] == float(not any(value == 1 for value in others))
        assert all(values[box.label] == 1 for box in record.boxes or ())


def test_every_class_has_enough_positives_and_few_are_unknown(source: PhantomSource) -> None:
    labels = np.array([record.labels for record in source.records])
    rates = np.nanmean(labels, axis=0)
    assert rates.min() > 0.05
    assert rates.max() < 0.50
    assert 0 < np.isnan(labels).sum() <= 0.02 * len(labels)
    unknown = [record for record in source.records if any(value != value for value in record.labels)]
    assert all(re.search("cannot be excluded|may represent|is possible", record.sections["findings"]) for record in unknown)


def test_pneumonia_edema_and_effusion_keep_company(source: PhantomSource) -> None:
    labels = {name: np.nan_to_num([record.labels[place] for record in source.records]) for place, name in enumerate(CLASSES)}
    heart = labels["Cardiomegaly"] == 1
    for name in ("Edema", "Pleural Effusion"):
        assert labels[name][heart].mean() > 1.5 * labels[name][~heart].mean()
    assert (
        labels["Consolidation"][labels["Pneumonia"] == 1].mean() > 3 * labels["Consolidation"][labels["Pneumonia"] == 0].mean()
    )


def test_sides_zones_and_sizes_in_the_report_are_those_of_the_picture(source: PhantomSource) -> None:
    """Every "SIDE ZONE zone" and every size is measured again on a mask that holds that finding alone."""
    checked = 0
    for record in source.records[:500]:
        study = source.study(record)
        lesions = [finding for finding in study.findings if finding.name in ("Lung Lesion", "Consolidation")]
        if record.boxes is None or len(lesions) != 1:
            continue
        alone = replace(study, findings=tuple(lesions))
        text = " ".join(write_report(alone, Frontal(alone)).values()).lower()
        transform = Transform(sample_pose(alone, 1), 256)
        rows, columns = np.nonzero(masks(alone, 256)["lesion"])
        x, y = (field[rows, columns] for field in transform.grid())
        side = "left" if x.mean() > 0 else "right"
        assert {"left", "right"} & set(re.findall(r"left|right(?= (?:upper|mid|lower) (?:lung )?zone| lung)", text)) <= {
            side,
            "left",
            "right",
        }
        lung = Frontal(alone).lungs[side]
        height = (y.mean() - lung.apex) / (np.interp(0.5, np.linspace(0, 1, 65), lung.base) - lung.apex)
        zones = set(re.findall(r"\b(upper|mid|lower)\b(?! mediast)", text))
        low, high = {"upper": (0, 0.48), "mid": (0.28, 0.76), "lower": (0.56, 1.1)}[lesions[0].zone]
        assert low < height < high
        assert zones == {lesions[0].zone}
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


def test_lateral_views_share_labels_and_report_with_their_study(source: PhantomSource, studies: dict[str, Record]) -> None:
    laterals = [record for record in source.records if record.view == "LATERAL"]
    assert 0.08 < len(laterals) / len(source.records) < 0.25
    for record in laterals:
        partner = studies[record.study]
        assert partner.sections == record.sections
        assert partner.labels == pytest.approx(record.labels, nan_ok=True)


def test_outlines_lie_inside_the_chest_on_lateral_views(source: PhantomSource) -> None:
    for record in source.records[:300]:
        geometry = Lateral.of(source.study(record))
        for finding in geometry.study.findings:
            points = outline(geometry.study, finding, geometry.lungs["right"], geometry)
            assert points is None or np.abs(points).max() < 1.1


def test_settings_in_the_location_are_read_and_checked() -> None:
    made = open_source("train=3,val=1,test=1,size=64,seed=5", SourceOptions())
    assert made.image(made.records[0]).shape == (64, 64)
    assert made.version.endswith("seed=5")
    for location, message in (
        ("trian=4", "train"),
        ("size=5", "from 32 to 1024"),
        ("train=many", "whole number"),
        ("size", "whole"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(location, SourceOptions())
    with pytest.raises(UserError, match="preset"):
        open_source("", SourceOptions(preset="smal"))


def test_where_keeps_matching_rows() -> None:
    women = open_source("train=30,val=5,test=5", SourceOptions(where=(("sex", "F"), ("view", "PA"))))
    assert {(record.sex, record.view) for record in women.records} == {("F", "PA")}
    with pytest.raises(UserError, match="habitus"):
        open_source("train=3,val=1,test=1", SourceOptions(where=(("habitous", "thin"),)))


def test_contact_sheet_shows_pictures_and_names_unreadable_ones(source: PhantomSource) -> None:
    sheet = contact_sheet(source, n=5, seed=1)
    assert sheet.size == (4 * 320, 2 * (320 + 118))
    assert np.asarray(sheet.convert("L"))[:320].std() > 30
    assert contact_sheet(source, n=5, seed=1).tobytes() == sheet.tobytes()
    broken = open_source("train=2,val=1,test=1", SourceOptions())
    broken.records = tuple(replace(record, image="elsewhere.png") for record in broken.records)
    assert contact_sheet(broken, n=2).size == (640, 438)
    with pytest.raises(UserError, match="1 or more"):
        contact_sheet(source, n=0)
