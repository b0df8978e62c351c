from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from benchmark.data.contact_sheet import contact_sheet
from benchmark.data.phantom import PhantomSource, open_source, phrases
from benchmark.data.phantom.findings import BOXED, CLASSES, PARENTS, Finding
from benchmark.data.phantom.lateral import Lateral
from benchmark.data.phantom.outlines import outline
from benchmark.data.phantom.patient import Study, sample_patient, sample_study
from benchmark.data.phantom.render import ORGANS, boxes, masks, render_frontal
from benchmark.data.sources import SOURCES, SourceOptions
from benchmark.data.splits import check_records
from benchmark.errors import ImageError, UserError
from benchmark.types import Record, Source


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
