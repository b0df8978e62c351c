"""LoVT's sizes with draws of our own: `lovt-sizes`. `--split FOLDER` reads its lists, datasets/SET of philip-mueller/lovt.

Sizes: arXiv:2112.02889 and the lists of the repository @87b9a30: RSNA 16,010/5,337/5,337, SIIM 7,229/2,409/2,409, Object-CXR
6,400/1,600/1,000, COVID Rural 133/44/44 by patient, NIH 588/196/196 of the 880 images with boxes and 100 without a finding.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.data.split_rules import SplitRule
from benchmark.data.split_rules.draws import cut_by_patient
from benchmark.data.splits import Drawn
from benchmark.errors import UserError
from benchmark.types import SPLITS, Record, Source, digest

SIZES = {"rsna": (16_010, 5_337, 5_337), "siim": (7_229, 2_409, 2_409), "covid-rural": (133, 44, 44), "nih": (588, 196, 196)}
OBJECTS = (6_400, 1_600)  # train and val of Object-CXR, whose dev is the test
NO_FINDING = 100  # images of NIH


def _cut(source: Source, records: Sequence[Record]) -> dict[str, str]:
    parts = cut_by_patient(records, SIZES[source.name], ["lovt-sizes", source.name])
    return {uid: SPLITS[part] for uid, part in parts.items()}


def whole(source: Source) -> Drawn:
    """Every image, by patient as the source knows patients."""
    return Drawn(splits=_cut(source, source.records))


def covid_rural(source: Source) -> Drawn:
    """The images whose opacities were outlined, or that were looked at and have none."""
    return Drawn(splits=_cut(source, [record for record in source.records if record.masks]))


def nih(source: Source) -> Drawn:
    """Images with boxes, and 100 without a finding, which count as annotated with no box.

    Raises:
        UserError: no boxes, or fewer images without a finding.
    """
    boxed = [record for record in source.records if record.boxes]
    clear = [record for record in source.records if not any(record.labels)]
    if not boxed or len(clear) < NO_FINDING:
        raise UserError(
            f"lovt-sizes needs BBox_List_2017.csv and {NO_FINDING} images without a finding; {len(boxed)} images have boxes "
            f"and {len(clear)} no finding; use the whole set"
        )
    clear = sorted(clear, key=lambda record: digest(["lovt-sizes nih", record.uid], 32))[:NO_FINDING]
    return Drawn(splits=_cut(source, [*boxed, *clear]), empty=frozenset(record.uid for record in clear))


def object_cxr(source: Source) -> Drawn:
    """Train and val from train.csv; dev is the test."""
    rows = [record for record in source.records if record.attributes["official_split"] == "train"]
    parts = cut_by_patient(rows, OBJECTS, "lovt-sizes object-cxr")
    return Drawn(splits={record.uid: "test" for record in source.records} | {uid: SPLITS[part] for uid, part in parts.items()})


def _rule(dataset: str, what: str) -> SplitRule:
    draw = {"covid-rural": covid_rural, "nih": nih, "object-cxr": object_cxr}.get(dataset, whole)
    return SplitRule(
        name="lovt-sizes", datasets=(dataset,), what=what, source="LoVT, ECCV 2022; philip-mueller/lovt",
        ids="its sizes, our draw", draw=lambda source, _: draw(source), seed="fixed",
    )  # fmt: skip


RULES = (
    _rule("rsna", "16,010/5,337/5,337 by patient, where patients are known"),
    _rule("siim", "7,229/2,409/2,409 by image"),
    _rule("object-cxr", "6,400/1,600 of train.csv; test: dev"),
    _rule("covid-rural", "133/44/44 of the annotated images, by patient"),
    _rule("nih", "588/196/196 by patient, of images with boxes and 100 without a finding"),
)
