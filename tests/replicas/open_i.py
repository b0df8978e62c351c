"""Open-i, the Indiana University collection: a report in XML for each patient, PNG, and the later table of projections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from benchmark.types import Record
from tests.replicas.common import cohort, draw, named, picture, save, shows, split_of

SAME = {  # heading -> the phantom's name
    "Cardiomegaly/mild": "Cardiomegaly", "Pulmonary Atelectasis/base/left": "Atelectasis", "Opacity/lung/base": "Lung Opacity",
    "Pulmonary Edema": "Edema", "Nodule/lung": "Lung Lesion", "Consolidation/lung": "Consolidation", "Pneumonia": "Pneumonia",
    "Pneumothorax/right": "Pneumothorax", "Pleural Effusion/left/small": "Pleural Effusion", "Fractures, Bone/ribs": "Fracture",
    "normal": "No Finding",
}  # fmt: skip
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
            <AbstractText Label="COMPARISON">XXXX</AbstractText>
            <AbstractText Label="INDICATION">XXXX-year-old with cough</AbstractText>
            <AbstractText Label="FINDINGS">{findings}</AbstractText>
            <AbstractText Label="IMPRESSION">{impression}</AbstractText>
         </Abstract>
      </Article>
   </MedlineCitation>
   <MeSH>
{headings}   </MeSH>
{images}</eCitation>
"""


def write(root: Path, patients: int = 12, projections: bool = True) -> Path:
    """The set in ROOT/IU-XRay: each study with its views as a report of its own, and one report without an image."""
    home = root / "IU-XRay"
    (home / "ecgen-radiology").mkdir(parents=True)
    studies: dict[str, list[Record]] = {}
    places: list[str] = []
    for place, records in enumerate(cohort(patients)):
        for record in records:
            places += [split_of(place)] if record.study not in studies else []
            studies.setdefault(record.study, []).append(record)
    lines = ["uid,filename,projection"]
    for number, records in zip(named(_numbers(), _split, places), studies.values()):
        names = [f"{number}_IM-{1000 + int(number):04d}-{1000 * (view + 1) + 1}" for view in range(len(records))]
        for name, record in zip(names, records):
            save(home / f"NLMCXR_png/CXR{name}.png", picture(record))
            lines.append(f"{number},{name}.dcm.png,{'Lateral' if record.view == 'LATERAL' else 'Frontal'}")
        (home / f"ecgen-radiology/{number}.xml").write_bytes(_report(number, records[0], names).encode())
    (home / "ecgen-radiology/9999.xml").write_bytes(_report("9999", records[0], []).encode())
    if projections:
        (home / "indiana_projections.csv").write_bytes("\n".join([*lines, ""]).encode())
    return home


def _numbers() -> Iterator[str]:
    yield from map(str, range(1, 4_000))


def _split(number: str) -> str:
    share = draw("open-i-70-10-20-0", f"CXR{number}")
    return "train" if share < 0.7 else "val" if share < 0.8 else "test"


def _report(number: str, record: Record, images: Sequence[str]) -> str:
    found = [heading for heading, ours in SAME.items() if shows(record, ours)] or ["Implanted Medical Device"]
    return XML.format(
        number=number, findings=escape(record.sections["findings"]), impression=escape(record.sections["impression"]),
        headings="".join(f"      <major>{heading}</major>\n" for heading in found),
        images="".join(IMAGE.format(id=f"CXR{name}") for name in images),
    )  # fmt: skip
