"""The splits that GLoRIA's and MGCA's preprocessing draws: RSNA, SIIM, CheXpert, COVIDx, Object-CXR.

Facts: gloria/datasets/preprocess_datasets.py (marshuang80/gloria@416466a), mgca/preprocess/{rsna,siim,chexpert,covidx,
object_cxr}.py (HKU-MedAI/MGCA@680fe4a). Both draw images, not patients. Given the whole tables as published, images are those
of their code where a rule says so; what was changed, so that no patient is in two splits, is said at each draw.
"""

from __future__ import annotations

from typing import Any

from benchmark.data.split_rules import SplitRule
from benchmark.data.split_rules.draws import SEEDS, two_cuts
from benchmark.data.split_rules.five_by_200 import sample, table_rows
from benchmark.data.splits import Drawn
from benchmark.errors import UserError
from benchmark.types import Source

VALIDATION = 5_000  # images of CheXpert's train.csv
GLORIA, MGCA = "GLoRIA, ICCV 2021; marshuang80/gloria", "MGCA, NeurIPS 2022; HKU-MedAI/MGCA"


def rsna(source: Source, held: float) -> Drawn:
    """RSNA by image: ids sorted and cut twice. 0.3: 18,678/4,003/4,003, 0.4: 16,010/5,337/5,337 of the whole set.

    Images of one patient are in several splits, so that images count as patients.
    """
    uids = sorted(record.uid for record in source.records)
    return Drawn(splits=two_cuts(uids, held), by_image=frozenset(uids))


def siim_by_image(source: Source) -> Drawn:
    """SIIM: the two cuts of both papers, over images in the order of train-rle.csv.

    Their code cuts the rows of the table, and an image has a row for each of its masks, so that it may be in train and in test.
    That draw cannot be had without the leak; this one has their shares, 8,432/1,808/1,807 of 12,047 (MGCA prints
    8,433/1,807/1,807).
    """
    return Drawn(splits=two_cuts([record.uid for record in source.records], 0.3))


def chexpert_mgca(source: Source) -> Drawn:
    """CheXpert as MGCA: 5x200-mgca leaves train.csv, 5,000 others by numpy with seed 0 are val, and test is valid.csv."""
    from sklearn.utils import check_random_state

    return _chexpert(source, sample(source, 0, "each class")[0], check_random_state(0))


def chexpert_gloria(source: Source, seed: int) -> Drawn:
    """CheXpert as GLoRIA after numpy.random.seed(seed), which its code never calls: 5x200 and val come from one stream."""
    return _chexpert(source, *sample(source, seed, "one after the other"))


def _chexpert(source: Source, removed: list[str], stream: Any) -> Drawn:
    """Val as drawn. Their train keeps patients of val, and even images of val, which it drops by the wrong index: here it keeps
    neither. Frontal and lateral rows alike; test are the rows of valid.csv, of which protocols take the frontal ones.
    """
    gone = set(removed)
    rows = [record for record in table_rows(source) if record.uid not in gone]
    if len(rows) <= VALIDATION:
        raise UserError(
            f"the split takes {VALIDATION:,} images of train.csv as val, and it has {len(rows):,}; use the whole set"
        )
    val = {rows[place].uid for place in stream.choice(len(rows), size=VALIDATION, replace=False)}
    patients = {record.patient for record in rows if record.uid in val}
    splits = {record.uid: "val" for record in rows if record.uid in val}
    splits |= {record.uid: "train" for record in rows if record.patient not in patients}
    lost = len(rows) - len(splits)
    splits |= {record.uid: "test" for record in source.records if record.attributes.get("official_split") == "valid"}
    return Drawn(
        splits=splits,
        notes=(
            f"{len(gone):,} images of 5x200 are left out of train, as in the paper",
            f"{lost:,} other images of the {len(patients):,} patients of val are left out of train; the paper keeps them",
        ),
    )


def covidx(source: Source) -> Drawn:
    """COVIDx as MGCA: a fifth of the train list, by train_test_split with random_state 0, is val; test as published.

    The paper's images where the list names each once (23,988/5,998/400). Patients of train are in val: there, images count as
    patients.
    """
    from sklearn.model_selection import train_test_split

    lists = {record.uid: record.attributes["list"] for record in source.records}
    uids = [uid for uid, name in lists.items() if name == "train"]
    if "val" in lists.values():
        raise UserError("the rule mgca is of releases of COVIDx without a list of val; use --split official")
    if len(uids) < 2:
        raise UserError(f"the split needs 2 images or more in the train list and there are {len(uids)}; use the whole set")
    train, val = train_test_split(uids, train_size=0.8, random_state=0)
    splits = {**dict.fromkeys(train, "train"), **dict.fromkeys(val, "val")}
    return Drawn(splits={uid: splits.get(uid, "test") for uid in lists}, by_image=frozenset(uids))


def object_cxr(source: Source) -> Drawn:
    """Object-CXR as MGCA's code: a tenth of train.csv, by train_test_split with random_state 0, is val; dev is test.

    7,200/800/1,000; the paper prints 6,400/1,600/1,000.
    """
    from sklearn.model_selection import train_test_split

    uids = [record.uid for record in source.records if record.attributes["official_split"] == "train"]
    if len(uids) < 2:
        raise UserError(f"the split needs 2 images or more in train.csv and there are {len(uids)}; use the whole set")
    val = set(train_test_split(uids, test_size=0.1, random_state=0)[1])
    splits = {record.uid: "test" for record in source.records} | {uid: "val" if uid in val else "train" for uid in uids}
    return Drawn(splits=splits)


RULES = (
    SplitRule(
        name="gloria", datasets=("rsna",), what="70/15/15 by image; patients are shared", source=f"{GLORIA}; MGCA's linear",
        ids="images of its code", seed="0", draw=lambda source, _: rsna(source, 0.3),
    ),
    SplitRule(
        name="mgca", datasets=("rsna",), what="60/20/20 by image; patients are shared", source=MGCA,
        ids="images of its code", seed="0", draw=lambda source, _: rsna(source, 0.4),
    ),
    SplitRule(
        name="mgca-by-image", datasets=("siim",), what="70/15/15 by image; the papers cut rows, and share images",
        source=f"{MGCA}; {GLORIA}", ids="its sizes, our draw", seed="0", draw=lambda source, _: siim_by_image(source),
    ),
    SplitRule(
        name="gloria", datasets=("chexpert",), what="val: 5,000 images of train.csv without 5x200; train: other patients",
        source=GLORIA, ids="its code, our seed", number="seed", numbers=SEEDS, draw=chexpert_gloria, seed="none in its code",
    ),
    SplitRule(
        name="mgca", datasets=("chexpert",), what="val: 5,000 images of train.csv without 5x200; train: other patients",
        source=MGCA, ids="images of its code", seed="0", draw=lambda source, _: chexpert_mgca(source),
    ),
    SplitRule(
        name="mgca", datasets=("covidx",), what="val: a fifth of the train list by image; patients are shared", source=MGCA,
        ids="images of its code", seed="0", draw=lambda source, _: covidx(source),
    ),
    SplitRule(
        name="mgca", datasets=("object-cxr",), what="val: a tenth of train.csv; the paper prints a fifth", source=MGCA,
        ids="images of its code", seed="0", draw=lambda source, _: object_cxr(source),
    ),
)  # fmt: skip
