"""Open-i in its official layout: XML reports and PNG images, sections, headings, the drawn split, and planted defects."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.open_i import CLASSES, OpenI, open_source
from benchmark.errors import ImageError, UserError
from benchmark.types import Source

IMAGE = """   <parentImage id="{id}">
      <figureId>F1</figureId>
      <caption>Xray Chest PA and Lateral</caption>
      <panel type="single"><url>/hadoop/storage/radiology/extract/{id}.jpg</url><imgModality>7</imgModality></panel>
   </parentImage>
"""
XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <meta type="rr"/>
   <uId id="CXR{number}"/>
   <pmcId id="{number}"/>
   <IUXRId id="{number}"/>
   <MedlineCitation Owner="Indiana University" Status="supplied by publisher">
      <Article PubModel="Electronic">
         <Abstract>
            <AbstractText Label="COMPARISON">{comparison}</AbstractText>
            <AbstractText Label="INDICATION">Positive TB test</AbstractText>
            <AbstractText Label="FINDINGS">{findings}</AbstractText>
            <AbstractText Label="IMPRESSION">{impression}</AbstractText>
         </Abstract>
      </Article>
   </MedlineCitation>
   <MeSH>
{headings}
   </MeSH>
{images}</eCitation>
"""


def report(number: int, headings: list[str], images: list[str], findings: str = "No effusion.", impression: str = "") -> str:
    major = "".join(f"      <major>{heading}</major>\n" for heading in headings)
    return XML.format(
        number=number, comparison="" if number % 2 else "None.", findings=findings, impression=impression,
        headings=f"{major}      <automatic>pneumonia</automatic>",
        images="".join(IMAGE.format(id=image) for image in images),
    )  # fmt: skip


REPORTS = {
    1: report(
        1, ["normal"], ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"], "Heart size &lt; 1/2. There are no XXXX.\n  Clear."
    ),
    2: report(2, ["Cardiomegaly/borderline", "Pleural Effusion/left/small"], ["CXR2_IM-0652-1001"], "", "Effusion\u00e9."),
    3: report(3, ["No Indexing"], ["CXR3_IM-1384-1001"]),
    4: report(4, ["Pulmonary Emphysema", "Technical Quality of Image Unsatisfactory "], ["CXR4_IM-2050-1001"]),
    5: report(5, ["Subcutaneous Emphysema"], ["CXR5_IM-2117-1003002"]),
    6: report(6, ["normal"], []),
}
PROJECTIONS = """uid,filename,projection
1,1_IM-0001-3001.dcm.png,Lateral
1,1_IM-0001-4001.dcm.png,Frontal
2,2_IM-0652-1001.dcm.png,Frontal
"""


def write(root: Path, folder: str = "NLMCXR_png") -> Path:
    (root / "ecgen-radiology").mkdir(parents=True)
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number, text in REPORTS.items():
        (root / f"ecgen-radiology/{number}.xml").write_text(text, encoding="utf-8")
    for number, name in enumerate(images()):
        Image.new("RGB", (14, 12), (20 * number,) * 3).save(root / folder / f"{name}.png")
    return root


def images() -> list[str]:
    return ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001", "CXR2_IM-0652-1001", "CXR3_IM-1384-1001", "CXR4_IM-2050-1001",
            "CXR5_IM-2117-1003002"]  # fmt: skip


def opened(root: Path, *where: tuple[str, str]) -> OpenI:
    return open_source(str(root), SourceOptions(where=where))


def positive(source: OpenI, index: int) -> set[str]:
    return {name for name, value in zip(CLASSES, source.records[index].labels) if value == 1}


@pytest.mark.parametrize("folder", ["NLMCXR_png", "images", "."])
def test_a_replica_gives_every_field(tmp_path: Path, folder: str) -> None:
    source = opened(write(tmp_path / "iu", folder))
    assert isinstance(source, Source)
    assert (source.name, source.classes, source.mask_names, source.box_classes) == ("open-i", CLASSES, (), ())
    assert [record.uid for record in source.records] == images()  # the report without an image gives no record
    first, second, third = source.records[:3]
    assert (first.patient, first.study, first.view) == ("CXR1", "CXR1", "")
    assert (second.patient, second.split) == (first.patient, first.split)
    assert first.sections == {"indication": "Positive TB test", "findings": "Heart size < 1/2. There are no XXXX. Clear."}
    assert third.sections == {"comparison": "None.", "indication": "Positive TB test", "impression": "Effusion\u00e9."}
    assert [int(source.image(record)[0, 0]) for record in source.records] == [0, 20, 40, 60, 80, 100]
    assert third.attributes["mesh"] == "Cardiomegaly/borderline; Pleural Effusion/left/small"
    assert Dataset(source).texts([first], ("findings",)) == ("Heart size < 1/2. There are no XXXX. Clear.",)
    with pytest.raises(ImageError, match=r"has no mask"):
        source.mask(first, "lungs")


def test_headings_become_labels_and_uncoded_reports_stay_unknown(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "iu"))
    assert set(source.records[0].labels) == {0.0}  # normal
    assert positive(source, 2) == {"Cardiomegaly", "Pleural Effusion"}
    assert source.records[2].labels.count(0.0) == len(CLASSES) - 2
    assert all(map(math.isnan, source.records[3].labels))  # No Indexing; "automatic" terms are not read
    assert positive(source, 4) == {"Emphysema"}  # a heading of the same finding, in a report that was not coded in full
    assert sum(map(math.isnan, source.records[4].labels)) == len(CLASSES) - 1
    assert positive(source, 5) == set()  # air under the skin is another finding
    assert set(source.records[5].labels) == {0.0}


def test_views_come_from_the_later_table_where_it_is_there(tmp_path: Path) -> None:
    root = write(tmp_path / "iu")
    without = opened(root)
    (root / "indiana_projections.csv").write_text(PROJECTIONS)
    source = opened(root)
    assert [record.view for record in source.records] == ["LATERAL", "FRONTAL", "FRONTAL", "OTHER", "OTHER", "OTHER"]
    assert source.version != without.version
    assert [record.uid for record in opened(root, ("view", "FRONTAL")).records] == images()[1:3]
    assert len(opened(root, ("report", "CXR1")).records) == 2
    (root / "indiana_projections.csv").write_text(PROJECTIONS.replace("Lateral", "Oblique"))
    with pytest.raises(UserError, match=r"has the projection 'Oblique' beside Frontal and Lateral"):
        opened(root)


def test_the_split_is_drawn_by_patient_and_a_filter_moves_none(tmp_path: Path) -> None:
    root = write(tmp_path / "iu")
    for number in range(10, 610):
        names = [f"CXR{number}_IM-{image}" for image in (1, 2)]
        (root / f"ecgen-radiology/{number}.xml").write_text(report(number, ["normal"], names))
    source = opened(root)
    Dataset(source)  # no patient in two splits
    splits = {record.patient: record.split for record in source.records}
    shares = [sum(value == split for value in splits.values()) / len(splits) for split in ("train", "val", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.06)
    assert opened(root, ("report", "CXR77")).records[0].split == splits["CXR77"]


def test_the_version_covers_every_report(tmp_path: Path) -> None:
    root = write(tmp_path / "iu")
    before = opened(root).version
    path = root / "ecgen-radiology/2.xml"
    path.write_text(path.read_text().replace("small", "large"))
    assert opened(root).version != before


PLANTED = {
    "truncated": (b"</eCitation>", b"", "2.xml is not a report in XML"),
    "not UTF-8": ("\u00e9".encode(), b"\xe9", "2.xml is not a report in XML"),
    "no uid": (b'<uId id="CXR2"/>', b"", "2.xml has no uId"),
    "uid of another": (b'<uId id="CXR2"/>', b'<uId id="CXR1"/>', "has 6 files of 5 reports; keep one copy of each"),
    "path": (b'parentImage id="CXR2', b'parentImage id="../CXR2', "2.xml has no uId, or a parentImage .* without a plain id"),
    "no image id": (b'parentImage id="CXR2_IM-0652-1001"', b"parentImage", "2.xml has no uId, or a parentImage"),
    "entities": (b"<eCitation>", b'<!DOCTYPE x [<!ENTITY a "b">]><eCitation>', "2.xml declares entities"),
    "encoding": (b'encoding="utf-8"', b'encoding="klingon"', "2.xml is not a report in XML"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_defects_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    old, new, words = PLANTED[name]
    root = write(tmp_path / "iu")
    path = root / "ecgen-radiology/2.xml"
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new))
    with pytest.raises(UserError, match=words) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_missing_images_and_wrong_folders(tmp_path: Path) -> None:
    root = write(tmp_path / "up/IU-XRay")
    with pytest.raises(UserError, match=r"one level off; use --data open-i:.*IU-XRay "):
        opened(tmp_path / "up")
    with pytest.raises(UserError, match=r"one level off; use --data open-i:.*IU-XRay "):
        opened(root / "ecgen-radiology")
    (root / "NLMCXR_png/CXR2_IM-0652-1001.png").unlink()
    with pytest.raises(ImageError, match=r"CXR2_IM-0652-1001.png cannot be read"):
        opened(root).image(opened(root).records[2])
    for path in [*root.glob("*/*.png")]:
        path.unlink()
    with pytest.raises(UserError, match=r"has none of the 6 images in NLMCXR_png or images; unpack NLMCXR_png.tgz"):
        opened(root)
    for path in [*root.glob("*/*.xml")]:
        path.unlink()
    with pytest.raises(UserError, match=r"has no \*.xml; unpack NLMCXR_reports.tgz of https://openi.nlm.nih.gov/faq"):
        opened(root)
