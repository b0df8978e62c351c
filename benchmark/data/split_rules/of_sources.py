"""What each source does without `--split`, by a name, so that it can be asked for and is listed beside the others."""

from __future__ import annotations

from benchmark.data.split_rules import SplitRule


def _rule(name: str, datasets: tuple[str, ...], what: str) -> SplitRule:
    source = "its file in benchmark/data/sources"
    return SplitRule(name=name, datasets=datasets, what=f"default: {what}", source=source, ids="the set's own", draw=None)


RULES = (
    _rule("patient", ("chexpert",), "test: valid.csv; val: 5,000/223,414 of the patients of train.csv by their hash"),
    _rule("patient", ("rsna",), "about 60/20/20 by the patient's hash, where RSNA's mapping to NIH lies; else by image"),
    _rule("patient", ("covid-rural",), "about 60/20/20 by the patient's hash"),
    _rule("patient", ("open-i",), "about 70/10/20 by the patient's hash"),
    _rule("patient", ("phantom",), "as it is drawn"),
    _rule("image", ("siim",), "about 60/20/20 by the image's hash; patients are not known"),
    _rule("official", ("mimic-cxr",), "train, validate, test of mimic-cxr-2.0.0-split.csv"),
    _rule("official", ("nih",), "test_list.txt; val: an eighth of the patients of train_val_list.txt"),
    _rule("official", ("vindr-cxr",), "the published test; val: a fifth of train"),
    _rule("official", ("object-cxr",), "test: dev; val: a fifth of train"),
    _rule("official", ("covidx",), "the lists of the release; val, where it has none: a tenth of the patients of train"),
    _rule("official", ("tbx11k",), "test: the official val, whose labels are public; val: about an eighth of train"),
    _rule("table", ("csv",), "the column split of records.csv"),
)
