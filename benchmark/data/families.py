"""Which data sets share images, judged by their names: for weights that saw a test set, and for sets used together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.data.dataset import Dataset

FAMILIES = {  # a data set -> how its name is written, in letters and digits
    "chestxray14": ("chestxray14", "chestxray8", "cxr14", "nih"),
    "mimic": ("mimic",),
    "chexpert": ("chexpert",),
    "rsna": ("rsna",),
    "siim": ("siim",),
    "open-i": ("openi", "iuxray", "iuxr", "indiana"),
    "vindr": ("vindr",),
    "padchest": ("padchest",),
    "brax": ("brax",),
    "covidx": ("covidx",),
    "tbx11k": ("tbx11k",),
    "object-cxr": ("objectcxr",),
    "imagenet": ("imagenet",),
}
TAKEN_FROM = {"rsna": ("chestxray14",), "siim": ("chestxray14",), "covidx": ("rsna", "chestxray14", "siim")}


def overlaps(pretraining_data: Sequence[str], dataset: str) -> bool:
    """Whether weights were trained on images of a data set, judged by names: RSNA and SIIM took theirs from ChestX-ray14.

    The split does not matter: authors did not always keep the official one.
    """
    return any(shared_families(name, dataset) for name in pretraining_data)


def saw_test(corpus: Dataset, data: Dataset) -> bool:
    """Whether pretraining on one data set may have seen test images of another.

    Of one set under two splits, patients tell; of two sets, their names do, as in `overlaps`.
    """
    if corpus is data:
        return False
    if corpus.name != data.name:
        return overlaps((corpus.name,), data.name)
    taught = {record.patient for record in corpus.rows("train")}
    return any(record.patient in taught for record in data.rows("test"))


def shared_families(one: str, other: str) -> tuple[str, ...]:
    """The families whose images both data sets hold, by their names; a name of no known family is one of its own."""
    return tuple(sorted(_families(one) & _families(other)))


def family(name: str) -> str:
    """The one family that a data set is named after; its own letters and digits where it is none or several."""
    letters = "".join(letter for letter in name.lower() if letter.isalnum())
    named = [item for item, spellings in FAMILIES.items() if any(spelling in letters for spelling in spellings)]
    return named[0] if len(named) == 1 else letters


def _families(name: str) -> set[str]:
    letters = "".join(letter for letter in name.lower() if letter.isalnum())
    named = {family for family, spellings in FAMILIES.items() if any(spelling in letters for spelling in spellings)}
    return named | {source for family in named for source in TAKEN_FROM.get(family, ())} | ({letters} if not named else set())
