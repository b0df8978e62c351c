"""Every named split on replicas: sizes, whole patients, the same images as a computation that shares nothing with the rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.dataset import Dataset
from benchmark.data.opening import open_source
from benchmark.data.sources import SOURCES, SourceOptions
from benchmark.data.split_rules import all_rules, choose
from benchmark.data.split_rules.draws import cut_by_patient, two_cuts
from benchmark.errors import UserError
from benchmark.types import Record, Source, digest
from tests.split_sets import BUILDERS, FIVE, chexpert, covidx, rsna, rsna_uid, siim

pytest.importorskip("pydicom")
Opener = Callable[..., Source]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Opens a replica, built once, under a split; what was opened before is given again unless it is to be fresh."""
    texts: dict[str, str] = {}
    kept: dict[tuple[str, str], Source] = {}

    def get(dataset: str, split: str = "", fresh: bool = False, **where: str) -> Source:
        if dataset not in texts:
            texts[dataset] = BUILDERS[dataset](tmp_path_factory.mktemp(dataset) / "set")
        if fresh or where:
            return open_source(texts[dataset], SourceOptions(where=tuple(where.items())), split)
        if (dataset, split) not in kept:
            kept[dataset, split] = open_source(texts[dataset], SourceOptions(), split)
        return kept[dataset, split]

    return get


def parts(source: Source) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for record in source.records:
        found[record.split].append(record.uid)
    return found


def sizes(source: Source) -> tuple[int, ...]:
    return tuple(map(len, parts(source).values()))


def held_out(rows: Sequence[str], share: float) -> list[str]:
    """What scikit-learn's train_test_split with random_state 0 holds out, by numpy alone."""
    order = np.random.RandomState(0).permutation(len(rows))
    return [rows[place] for place in order[: ceil(share * len(rows))]]


# ------------------------------------------------------------------------------------------------------ every rule

CASES = {  # (data set, --split) -> train, val, test of the replica, and the digest that its version carries
    ("rsna", "gloria"): ((210, 45, 45), "66143f6c"),
    ("rsna", "mgca"): ((180, 60, 60), "db9a03b5"),
    ("rsna", "lovt-sizes"): ((179, 60, 61), "a33aca04"),
    ("rsna", "prior-5fold:0"): ((60, 20, 20), "d1e49366"),
    ("rsna", "prior-5fold:4"): ((60, 20, 20), "a64488bf"),
    ("siim", "mgca-by-image"): ((210, 45, 45), "8bb88624"),
    ("siim", "lovt-sizes"): ((180, 60, 60), "7393c666"),
    ("siim", "prior-5fold:2"): ((45, 15, 15), "f5b5ac00"),
    ("chexpert", "gloria:0"): ((838, 5000, 30), "4c68e1d2"),
    ("chexpert", "mgca"): ((880, 5000, 30), "660e77ca"),
    ("chexpert", "5x200-gloria:0"): ((6235, 158, 1000), "db542c8e"),
    ("chexpert", "5x200-mgca"): ((6199, 143, 1000), "e459e5d5"),
    ("chexpert", "5x200-prior:114514"): ((6265, 135, 1000), "0a63a1b8"),
    ("covidx", "mgca"): ((160, 40, 20), "24574540"),
    ("object-cxr", "mgca"): ((180, 20, 20), "594c8997"),
    ("object-cxr", "lovt-sizes"): ((160, 40, 20), "d115d317"),
    ("nih", "lovt-sizes"): ((120, 40, 40), "734d207f"),
    ("covid-rural", "lovt-sizes"): ((32, 13, 12), "f04c478b"),
    ("covid-rural", "prior-622:7"): ((35, 13, 12), "1843d6d9"),
}


@pytest.mark.parametrize(("dataset", "split"), CASES)
def test_a_rule_has_its_sizes_and_never_drifts(dataset: str, split: str, opened: Opener) -> None:
    source = opened(dataset, split)
    Dataset(source)  # refuses a patient in two splits and ids that stand twice
    expected, golden = CASES[dataset, split]
    assert sizes(source) == expected
    assert source.version.endswith(f"+{split.replace(':', '-')}-{golden}")
    assert isinstance(source, Source)


def test_every_rule_that_draws_is_held_to_its_digest() -> None:
    drawn = {(dataset, rule.name) for rule in all_rules() if rule.draw for dataset in rule.datasets}
    assert drawn == {(dataset, split.partition(":")[0]) for dataset, split in CASES if not split.startswith("prior-622")}


def test_every_set_has_one_default_by_name_which_changes_nothing(opened: Opener) -> None:
    defaults = {dataset: rule.name for rule in all_rules() if rule.draw is None for dataset in rule.datasets}
    assert defaults.keys() == set(SOURCES)
    for dataset, name in defaults.items():
        assert choose(dataset, name) is None
        assert choose(dataset, "prior-622:0") is not None  # of any set
    assert opened("rsna", "patient").version == opened("rsna").version


@pytest.mark.parametrize(("dataset", "split"), CASES)
def test_a_draw_is_the_same_again_and_moves_no_image_under_a_filter(dataset: str, split: str, opened: Opener) -> None:
    whole = opened(dataset, split)
    again = opened(dataset, split, fresh=True)
    assert (again.records, again.version) == (whole.records, whole.version)
    column, value = {
        "rsna": ("Target", "1"), "siim": ("positive", "1"), "chexpert": ("AP/PA", "AP"), "covidx": ("class", "normal"),
        "object-cxr": ("official_split", "train"), "nih": ("Finding Labels", "Mass"), "covid-rural": ("SEX", "F"),
    }[dataset]  # fmt: skip
    some = opened(dataset, split, **{column: value})
    records = {record.uid: record for record in whole.records}
    assert all(record == records[record.uid] for record in some.records)
    assert 0 < len(some.records) <= len(records)
    assert some.version != whole.version


# ------------------------------------------------------------------------------------ against other computations


@pytest.mark.parametrize(("rule", "share", "held"), [("gloria", 0.3, (4003, 4003)), ("mgca", 0.4, (5337, 5337))])
def test_rsna_of_the_papers_by_numpy(rule: str, share: float, held: tuple[int, int], opened: Opener) -> None:
    """The sizes that the papers print, and the draws done by hand: a permutation of which the first part is held out."""
    uids = sorted(rsna_uid(number) for number in range(26684))
    splits = two_cuts(uids, share)
    assert Counter(splits.values()) == {"train": 26684 - sum(held), "test": held[0], "val": held[1]}
    for found, names in ((splits, uids), (None, sorted(rsna_uid(number) for number in range(300)))):
        drawn = found or {record.uid: record.split for record in opened("rsna", rule).records}
        rest = held_out(names, share)
        val = held_out(rest, 0.5)
        assert {uid for uid, split in drawn.items() if split == "val"} == set(val)
        assert {uid for uid, split in drawn.items() if split == "test"} == set(rest) - set(val)


def test_rsna_of_the_papers_shares_patients_and_says_so(opened: Opener, tmp_path: Path) -> None:
    source = opened("rsna", "gloria")
    assert "split-by-image" in source.flags
    assert all(record.patient == record.uid for record in source.records)
    known = {record.uid: record.patient for record in opened("rsna").records}
    homes: dict[str, set[str]] = {}
    for record in source.records:
        homes.setdefault(known[record.uid], set()).add(record.split)
    assert max(map(len, homes.values())) > 1  # the defect that the flag tells
    unknown = open_source(rsna(tmp_path / "set", mapped=False), SourceOptions(), "gloria")
    assert "split-by-image" in unknown.flags
    assert "patients-unknown" not in unknown.flags  # it says less
    assert parts(unknown) == parts(source)
    assert "split-by-image" not in opened("rsna", "lovt-sizes").flags


def exclusive(table: pandas.DataFrame) -> Mapping[str, list[int]]:
    """Rows of train.csv by class, by the words of the papers: frontal, blanks 0, this class 1 and twelve others exactly 0."""
    others = ["Enlarged Cardiomediastinum", "Lung Lesion", "Lung Opacity", "Pneumonia", "Pneumothorax", "Pleural Other",
              "Fracture", "Support Devices"]  # fmt: skip
    frontal = table[table["Frontal/Lateral"] == "Frontal"].fillna(dict.fromkeys((*FIVE, *others), 0.0))
    found = {}
    for name in FIVE:
        zeros = frontal[[*(other for other in FIVE if other != name), *others]].abs().sum(axis=1) == 0
        found[name] = frontal.index[zeros & (frontal[name] == 1)].tolist()
    return found


def read_train(source: Source) -> tuple[pandas.DataFrame, list[str]]:
    table = pandas.read_csv(source.root / "train.csv")  # type: ignore[attr-defined]
    return table, [path.partition("/")[2] for path in table["Path"]]


@pytest.mark.parametrize(
    ("split", "seed", "stream"),
    [("5x200-mgca", 0, False), ("5x200-gloria:0", 0, True), ("5x200-gloria:9", 9, True),
     *((f"5x200-prior:{seed}", seed, False) for seed in range(114514, 114519))],
)  # fmt: skip
def test_5x200_by_numpy(split: str, seed: int, stream: bool, opened: Opener) -> None:
    source = opened("chexpert", split)
    table, uids = read_train(source)
    state = np.random.RandomState(seed)
    expected: set[str] = set()
    for rows in exclusive(table).values():
        assert len(rows) > 200
        generator = state if stream else np.random.RandomState(seed)
        expected |= {uids[rows[place]] for place in generator.permutation(len(rows))[:200]}
    found = parts(source)
    assert set(found["test"]) == expected
    assert len(expected) == 1000
    names = [source.classes.index(name) for name in FIVE]
    tested = [record for record in source.records if record.split == "test"]
    assert [sum(record.labels[place] == 1 for record in tested) for place in names] == [200] * 5


def test_patients_of_5x200_leave_train_and_val_and_that_is_counted(opened: Opener, capsys: pytest.CaptureFixture[str]) -> None:
    default = {record.uid: record for record in opened("chexpert").records}
    capsys.readouterr()
    source = opened("chexpert", "5x200-mgca", fresh=True)
    tested = {record.patient for record in source.records if record.split == "test"}
    for record in source.records:
        assert record.split == "test" or (record.patient not in tested and record.split == default[record.uid].split)
    lost = [r for r in default.values() if r.patient in tested and r.uid not in {record.uid for record in source.records}]
    notes = capsys.readouterr().err
    assert f"{len(lost):,} other images of the {len(tested):,} test patients are left out of train and val" in notes
    assert "30 images of the set's own test are left out" in notes
    assert Dataset(source).notes["split"] in source.version
    assert f"{len(lost):,} other images" in str(Dataset(source).notes["split_notes"])


@pytest.mark.parametrize(("split", "removed", "seed"), [("mgca", "5x200-mgca", None), ("gloria:3", "5x200-gloria:3", 3)])
def test_chexpert_of_the_papers_by_numpy(split: str, removed: str, seed: int | None, opened: Opener) -> None:
    source, gone = opened("chexpert", split), set(parts(opened("chexpert", removed))["test"])
    table, uids = read_train(source)
    state = np.random.RandomState(0 if seed is None else seed)
    if seed is not None:  # the stream has drawn 5x200 before
        for rows in exclusive(table).values():
            state.permutation(len(rows))
    left = [uid for uid in uids if uid not in gone]
    val = {left[place] for place in state.permutation(len(left))[:5000]}
    found = parts(source)
    assert set(found["val"]) == val
    patients = {uid.split("/")[1] for uid in val}
    assert set(found["train"]) == {uid for uid in left if uid.split("/")[1] not in patients}
    assert found["test"] == [record.uid for record in opened("chexpert").records if record.split == "test"]


def test_covidx_and_object_cxr_of_mgca_by_numpy(opened: Opener) -> None:
    for dataset, share in (("covidx", 0.2), ("object-cxr", 0.1)):
        table = [record.uid for record in opened(dataset).records if record.uid.startswith("train/")]
        found = parts(opened(dataset, "mgca"))
        assert set(found["val"]) == set(held_out(table, share))
        assert set(found["train"]) | set(found["val"]) == set(table)
        assert found["test"] == [record.uid for record in opened(dataset).records if record.split == "test"]
    records = opened("covidx", "mgca").records
    assert "split-by-image" in opened("covidx", "mgca").flags
    assert {record.patient == record.uid for record in records if record.split != "test"} == {True}
    assert {record.patient.partition(":")[0] for record in records if record.split == "test"} == {"ricord"}


def test_siim_is_drawn_by_image_where_the_papers_draw_rows(opened: Opener) -> None:
    source = opened("siim", "mgca-by-image")
    lines = (source.root / "train-rle.csv").read_text().splitlines()[1:]  # type: ignore[attr-defined]
    rows = [line.partition(",")[0] for line in lines]
    images = list(dict.fromkeys(rows))
    rest = held_out(images, 0.3)
    found = parts(source)
    assert (set(found["val"]), set(found["test"])) == (set(held_out(rest, 0.5)), set(rest) - set(held_out(rest, 0.5)))
    held = set(map(int, held_out([str(place) for place in range(len(rows))], 0.3)))
    in_both = {rows[place] for place in held} & {rows[place] for place in set(range(len(rows))) - held}
    assert in_both  # why the draw of the papers is not offered


# ----------------------------------------------------------------------------------------------- LoVT's and PRIOR's


def test_five_folds_test_each_positive_once(opened: Opener) -> None:
    for dataset in ("rsna", "siim"):
        positive = {record.uid for record in opened(dataset).records if record.labels == (1.0,)}
        folds = [parts(opened(dataset, f"prior-5fold:{fold}")) for fold in range(5)]
        tested = [set(fold["test"]) for fold in folds]
        assert set().union(*tested) == positive
        assert sum(map(len, tested)) == len(positive)
        for fold, after in zip(folds, tested[1:] + tested[:1]):
            assert set(fold["val"]) == after
            assert set(fold["train"]) == positive - set(fold["test"]) - after


def test_nih_without_finding_counts_as_without_box(opened: Opener) -> None:
    source = opened("nih", "lovt-sizes")
    clear = [record for record in source.records if not any(record.labels)]
    assert len(clear) == 100
    assert {record.boxes for record in clear} == {()}
    assert all(record.boxes for record in source.records if any(record.labels))
    assert {frozenset(record.masks) for record in clear} == {frozenset(source.mask_names)}
    assert len(source.records) == 200


def test_covid_rural_leaves_out_what_nobody_annotated(opened: Opener) -> None:
    assert len(opened("covid-rural").records) - len(opened("covid-rural", "lovt-sizes").records) == 3


def test_a_seed_of_six_two_two_is_another_split(opened: Opener) -> None:
    one, other = (opened("rsna", f"prior-622:{seed}") for seed in (0, 1))
    assert parts(one) != parts(other)
    assert sizes(one) == pytest.approx((180, 60, 60), abs=3)
    assert one.version != other.version
    assert digest(parts(one)) == digest(parts(opened("rsna", "prior-622:0")))


counts = st.lists(st.integers(1, 6), min_size=12, max_size=60)  # images of each patient


@given(counts, st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(0, 9))
def test_patients_stay_whole_and_parts_have_their_sizes(images: list[int], shares: list[int], seed: int) -> None:
    rows = [
        Record(uid=f"{patient}-{image}", patient=str(patient), study="", split="", image="")
        for patient, count in enumerate(images)
        for image in range(count)
    ]
    try:
        found = cut_by_patient(rows, shares, seed)
    except UserError:
        assert min(shares) / sum(shares) * len(rows) < 2 * max(images)  # a part so small that no patient fell into it
        return
    assert found == cut_by_patient(rows[::-1], shares, seed)
    homes: dict[str, set[int]] = {}
    for row in rows:
        homes.setdefault(row.patient, set()).add(found[row.uid])
    assert {len(home) for home in homes.values()} == {1}
    for part, share in enumerate(shares):
        assert abs(Counter(found.values())[part] - share / sum(shares) * len(rows)) <= max(images) + 1


# --------------------------------------------------------------------------------------------------- refused sets


def four(root: Path) -> str:
    text = covidx(root, 40)
    for name in ("train", "test"):
        (root / f"{name}_COVIDx9A.txt").rename(root / f"{name}.txt")
    (root / "val.txt").write_text("9999 v.png normal rsna\n")
    return text


def clear(root: Path) -> str:
    text = BUILDERS["nih"](root, 90)
    (root / "BBox_List_2017.csv").unlink()
    return text


REFUSED: dict[str, tuple[Callable[[Path], str], str, str]] = {
    "5x200 of a part of the table": (lambda root: chexpert(root, 40), "5x200-mgca", "200 frontal images of train.csv with At"),
    "val of a part of the table": (lambda root: chexpert(root, 5500), "mgca", "5,000 images of train.csv as val, and it has"),
    "a release with val": (four, "mgca", "releases of COVIDx without a list of val; use --split official"),
    "two images": (lambda root: rsna(root, 3), "gloria", "needs 4 images or more and the set has 3"),
    "fewer positives than folds": (lambda root: siim(root, 16), "prior-5fold:0", "4 images of 4 patients are too few"),
    "no boxes": (clear, "lovt-sizes", "lovt-sizes needs BBox_List_2017.csv and 100 images"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_set_that_is_too_small_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    builder, split, words = REFUSED[name]
    text = builder(tmp_path / "set")
    with pytest.raises(UserError, match=words) as caught:
        open_source(text, SourceOptions(), split)
    assert "\n" not in str(caught.value)
