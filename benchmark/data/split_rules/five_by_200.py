"""CheXpert 5x200: of each of five classes, 200 frontal images of train.csv that have this class alone.

The rule, of gloria/datasets/preprocess_datasets.py (marshuang80/gloria@416466a) and mgca/preprocess/chexpert.py
(HKU-MedAI/MGCA@680fe4a): blanks count as 0; the class is 1 and every other class but "No Finding" is exactly 0, so that -1
fails; of these rows, in the order of train.csv, pandas' sample(200).

Whose images: `5x200-mgca` is the paper's, for its code has a seed. GLoRIA's code has none: `5x200-gloria:SEED` is what it
gives after numpy.random.seed(SEED), not the list behind the paper. PRIOR names five seeds and no sampler (QtacierP/PRIOR, issue
#10): `5x200-prior:SEED` is MGCA's sampler with these seeds, and whether it gives PRIOR's images is not known (the order of the
one list that PRIOR published fits none of the five). `--split FILE` reads that list.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from benchmark.data.split_rules import SplitRule
from benchmark.data.split_rules.draws import SEEDS, with_test
from benchmark.data.splits import Drawn
from benchmark.errors import UserError
from benchmark.types import Record, Source

FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")  # in the order of the papers' code
PER_CLASS = 200
PRIOR_SEEDS = range(114514, 114519)
Seeding = Literal["each class", "one after the other"]


def table_rows(source: Source) -> list[Record]:
    """The records of train.csv in the order of the table."""
    return [record for record in source.records if record.attributes.get("official_split") == "train"]


def sample(source: Source, seed: int, seeding: Seeding) -> tuple[list[str], Any]:
    """The uids of the 1,000 images, class by class, and numpy's legacy generator after the draw.

    Args:
        source: CheXpert, whole.
        seed: of numpy's legacy generator.
        seeding: "each class": every class is drawn with this seed; "one after the other": from one stream.

    Raises:
        UserError: fewer than 200 such images of a class.
    """
    import pandas
    from sklearn.utils import check_random_state

    stream = check_random_state(seed)
    rows = [record for record in table_rows(source) if record.view != "LATERAL"]
    found: list[str] = []
    for name in FIVE:
        alone = pandas.Series([record.uid for record in rows if _alone(record, source.classes, name)], dtype=object)
        if len(alone) < PER_CLASS:
            raise UserError(
                f"CheXpert 5x200 needs {PER_CLASS} frontal images of train.csv with {name} alone, and {len(alone)} are there; "
                "use the whole train.csv"
            )
        found += alone.sample(n=PER_CLASS, random_state=seed if seeding == "each class" else stream).tolist()
    return found, stream


def _alone(record: Record, classes: Sequence[str], wanted: str) -> bool:
    """Whether the wanted class is 1 and no other but "No Finding" is 1 or uncertain; blank counts as 0."""
    unsure = record.attributes.get("uncertain", "").split(";")
    named = {name for name, value in zip(classes, record.labels) if value == 1.0 or name in unsure}
    return named - {"No Finding"} == {wanted} and wanted not in unsure


def _draw(source: Source, seed: int, seeding: Seeding) -> Drawn:
    return with_test(source, sample(source, seed, seeding)[0])


RULES = (
    SplitRule(
        name="5x200-gloria", datasets=("chexpert",), what="test: 5x200; train and val without its patients",
        source="GLoRIA, ICCV 2021; marshuang80/gloria", ids="its code, our seed", number="seed", numbers=SEEDS,
        draw=partial(_draw, seeding="one after the other"), seed="none in its code",
    ),
    SplitRule(
        name="5x200-mgca", datasets=("chexpert",), what="test: 5x200; train and val without its patients",
        source="MGCA, NeurIPS 2022; HKU-MedAI/MGCA", ids="images of its code", seed="0",
        draw=lambda source, _: _draw(source, 0, "each class"),
    ),
    SplitRule(
        name="5x200-prior", datasets=("chexpert",), what="test: 5x200; train and val without its patients",
        source="PRIOR, ICCV 2023; QtacierP/PRIOR issue #10", ids="its seeds, MGCA's code", number="seed", numbers=PRIOR_SEEDS,
        draw=partial(_draw, seeding="each class"), seed="114514 to 114518",
    ),
)  # fmt: skip
