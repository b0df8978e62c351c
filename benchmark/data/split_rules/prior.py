"""PRIOR's ways of splitting with draws of our own, for its code and lists are not public (its author, PRIOR issue #12).

Segmentation on the 2,669 images of SIIM with pneumothorax and detection on the 6,012 of RSNA with pneumonia, both by five-fold
cross-validation; classification by 6:2:2 with five seeds. Which part of a fold selects the checkpoint is not said: here the
fold after the tested one is val, and three are train.
"""

from __future__ import annotations

from benchmark.data.split_rules import SplitRule
from benchmark.data.split_rules.draws import SEEDS, cut_by_patient
from benchmark.data.splits import Drawn
from benchmark.types import SPLITS, Source

FOLDS = 5
SHARES = (6, 2, 2)


def five_fold(source: Source, fold: int) -> Drawn:
    """The images with the one finding of the set; fold 0 to 4 is test, the next one val, the others train."""
    positive = [record for record in source.records if record.labels[0] == 1.0]
    parts = cut_by_patient(positive, (1,) * FOLDS, ["prior-5fold", source.name])
    names = {fold: "test", (fold + 1) % FOLDS: "val"}
    left = len(source.records) - len(positive)
    return Drawn(
        splits={uid: names.get(part, "train") for uid, part in parts.items()},
        notes=(f"{left:,} images without {source.classes[0]} are left out, as in the paper",),
    )


def six_two_two(source: Source, seed: int) -> Drawn:
    """All images of the set, its own splits forgotten, 6:2:2 by patient."""
    parts = cut_by_patient(source.records, SHARES, ["prior-622", seed])
    return Drawn(splits={uid: SPLITS[part] for uid, part in parts.items()})


RULES = (
    SplitRule(
        name="prior-5fold", datasets=("rsna", "siim"), what="images with the finding alone, five folds by patient",
        source="PRIOR, ICCV 2023; QtacierP/PRIOR issue #12", ids="its sizes, our draw", number="fold", numbers=range(FOLDS),
        draw=five_fold, seed="fixed",
    ),
    SplitRule(
        name="prior-622", datasets=(), what="6:2:2 by patient; own splits of the set are forgotten",
        source="PRIOR, ICCV 2023; QtacierP/PRIOR issue #12", ids="its sizes, our draw", number="seed", numbers=SEEDS,
        draw=six_two_two, seed="the number",
    ),
)  # fmt: skip
