"""--split and --label-policy on the command line: keys, notes, the plan, the board, and refusals in one sentence."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from benchmark.options import RunOptions
from benchmark.plan import open_dataset
from benchmark.types import PretrainSpec, RunSpec
from tests.conftest import Command
from tests.split_sets import chexpert, rsna, siim
from tests.toy import ToySource


def keys(command: Command, *words: str) -> set[str]:
    """The keys of a plan."""
    assert command.run("random", "retrieval", "--dry-run", *words) == 0, command.error
    return set(re.findall(r"^random .* ([0-9a-f]{16})  to run$", command.output, re.MULTILINE))


def toy_list(path: Path, patients: int = 30) -> Path:
    """The toy's own split, but for one patient of train, who goes to val."""
    rows = [[record.uid, "val" if record.patient == "p000" else record.split] for record in ToySource(patients).records]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "split"], *rows])
    return path


def test_another_split_is_another_key(command: Command, tmp_path: Path) -> None:
    path = toy_list(tmp_path / "list.csv")
    ways = ((), ("--split", "prior-622:0"), ("--split", "prior-622:1"), ("--split", str(path)))
    found = [keys(command, *words) for words in ways]
    assert all(len(one) == len(found[0]) > 0 for one in found)
    assert len(set().union(*found)) == sum(map(len, found))
    assert found[1] == keys(command, "--split", "prior-622:0")


def test_the_plan_shows_images_patients_and_digests_of_each_part(command: Command) -> None:
    assert command.run("random", "retrieval", "--dry-run", "--split", "prior-622:3") == 0
    data = open_dataset("toy", RunOptions(methods=("random",), data=("toy",), split="prior-622:3"))
    for split in ("train", "val", "test"):
        rows = data.rows(split)
        part = rf"{split} +{len(rows)} +{len(rows) // 2} +{data.splits[split][:8]}\n"
        assert re.search(rf"toy +\S+\+prior-622-3-\w{{8}} +prior-622-3-\w{{8}} +{part}", command.output)
    assert command.run("random", "retrieval", "--dry-run") == 0
    assert re.search(r"toy +1-30 +default +train +36 +18 ", command.output)


def test_a_result_says_its_split_and_so_does_the_board(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    toy_list(path)
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("p001")))
    assert command.run("random", "retrieval", "--split", str(path)) == 0
    note = "2 of 60 images of the set are not in the list and are left out"
    assert f"note: toy, --split {path}: {note}" in command.error
    result = command.results()[0]
    assert result.notes["split_notes"] == note
    split = str(result.notes["split"])
    assert re.fullmatch(r"list-[0-9a-f]{8}", split)
    assert result.spec.dataset_version == f"1-30+{split}"
    assert f"on toy ({split}): " in command.output
    boards = {ending: (command.out / f"leaderboard.{ending}").read_text() for ending in ("md", "html", "csv", "json", "tex")}
    assert all(split in board for board in boards.values())
    assert all(digest in boards["html"] for digest in result.spec.splits.values())
    assert {row.notes["split"] for row in command.results("reference")} == {split}


def test_pretraining_on_another_split_is_another_pretraining(command: Command, tmp_path: Path) -> None:
    settings = ("--set", "steps=2", "--set", "batch_size=4")
    for words in ((), ("--split", "prior-622:0")):
        assert command.run("clip", "retrieval", *settings, *words) == 0, command.error
    records = [json.loads(path.read_text())["spec"] for path in command.out.glob("pretrained/*/config.json")]
    assert len(records) == 2
    assert len({record["split"] for record in records}) == 2
    assert {"dataset_version", "split"} <= set(PretrainSpec.__annotations__) & {*records[0]}
    assert {"dataset_version", "splits"} <= set(RunSpec.__annotations__)


REFUSED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no such rule": (("--split", "mgac"), ("--split mgac: unknown split rule 'mgac'", "no such file or folder")),
    "no such file": (("--split", "lists/mine.csv"), ("unknown split rule 'lists/mine.csv'", "no such file or folder")),
    "a rule of another set": (("--split", "gloria"), ("data set 'toy' has no such rule; it has prior-622:SEED, or give",)),
    "a rule that one of two sets lacks": (
        ("--data", "phantom,siim", "--split", "prior-5fold:0"),
        ("data set 'phantom' has no such rule; it has patient, prior-622:SEED",),
    ),
    "no seed": (("--split", "prior-622"), ("takes a seed from 0 to 4294967295, as in --split prior-622:0",)),
    "a seed that is none": (("--split", "prior-622:x"), ("--split prior-622:x: the rule prior-622 takes a seed",)),
    "a fold that is none": (("--data", "rsna", "--split", "prior-5fold:5"), ("takes a fold from 0 to 4, as in --split prior",)),
    "a seed that PRIOR did not use": (
        ("--data", "chexpert", "--split", "5x200-prior:0"), ("takes a seed from 114514 to 114518",)
    ),
    "a number for a rule without": (("--data", "rsna", "--split", "mgca:1"), ("the rule mgca takes no number; write --split",)),
    "a list for two sets": (("--data", "phantom,csv:x", "--split", "README.md"), ("is a list of one data set", "names 2")),
    "a policy for labels that need none": (("--label-policy", "mgca"), ("labels of data set 'toy' do not come from",)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_split_that_cannot_be_had_is_refused_in_a_sentence(
    name: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    words, said = REFUSED[name]
    assert command.run("random", "retrieval", *words) == 2
    command.refused(*said)
    assert not command.out.exists() or not list(command.out.glob("results/*.json"))


def test_a_policy_is_another_version_and_other_labels(tmp_path: Path) -> None:
    text = chexpert(tmp_path / "set", 40)
    plain, mgca, both = (
        open_dataset(text, RunOptions(methods=("random",), data=(text,), label_policy=policy, split=split))
        for policy, split in (("", ""), ("mgca", ""), ("mgca", "prior-622:0"))
    )
    assert mgca.source.version == f"{plain.source.version}+mgca"
    assert re.fullmatch(rf"{re.escape(mgca.source.version)}\+prior-622-0-\w{{8}}", both.source.version)
    assert mgca.splits != plain.splits
    settled = {record.uid: record.labels for record in mgca.source.records}
    assert {record.uid: record.labels for record in both.source.records} == settled
    assert any(value != value for record in plain.source.records for value in record.labels)


def test_an_unknown_policy_is_refused(command: Command, tmp_path: Path) -> None:
    text = chexpert(tmp_path / "set", 40)
    assert command.run("random", "retrieval", "--label-policy", "mgcaa", data=text) == 2
    command.refused("unknown label policy 'mgcaa'; did you mean mgca?")


def test_one_rule_serves_two_sets(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    texts = (rsna(tmp_path / "rsna", 60), siim(tmp_path / "siim", 60))
    options = RunOptions(methods=("random",), data=texts, split="prior-5fold:1")
    assert [len(open_dataset(text, options).source.records) for text in texts] == [20, 15]


def test_lists_name_splits_and_policies(command: Command) -> None:
    assert command("list", "splits") == 0
    for words in ("5x200-gloria:SEED", "prior-5fold:FOLD", "lovt-sizes", "its sizes, our draw", "images of its code", "114514"):
        assert words in command.output
    assert command("list", "policies") == 0
    for words in ("ignore", "mgca", "chexpert, mimic-cxr", "Atelectasis 1, Cardiomegaly 0"):
        assert words in command.output
