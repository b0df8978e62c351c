"""The command line from real layouts to a leaderboard: three sets at once, and weights of one set on the others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import TINY, TRAINED, Command
from tests.replicas import REPLICAS

NAMES = ("chexpert", "rsna", "siim")
NO_REPORTS = "has no training reports to learn a vocabulary from; name a set with reports by --pretrain-data"


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    for name in (*NAMES, "mimic-cxr"):
        REPLICAS[name](tmp_path / "sets")
    return tmp_path / "sets"


def statuses(command: Command) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for result in command.results():
        found.setdefault(result.spec.dataset, Counter())[result.status] += 1
    return found


def test_each_set_is_pretrained_on_itself_and_one_without_reports_says_so(command: Command, roots: Path) -> None:
    request = ("mcr", "all", "--labels", "1", "--data-root", str(roots))
    assert command.run(*request, settings=(*TINY, *TRAINED), data=",".join(NAMES)) == 0, command.output
    found = statuses(command)
    assert set(found) == set(NAMES)
    assert set(found["chexpert"]) == {"ok", "unsupported"}
    assert set(found["rsna"]) == set(found["siim"]) == {"unsupported"}
    for result in command.results():
        assert result.status == "ok" or result.error, result.spec
        if result.spec.dataset != "chexpert" and result.spec.task in ("classification", "segmentation"):
            assert NO_REPORTS in str(result.error)
    reasons = {(item.spec.dataset, item.spec.task): item.error for item in command.results() if item.status == "unsupported"}
    assert "has no masks" in str(reasons["chexpert", "segmentation"])
    assert "has no boxes" in str(reasons["siim", "detection"])
    board = (command.out / "leaderboard.md").read_text()
    assert all(name in board for name in NAMES)


def test_weights_of_one_set_are_tested_on_the_others(command: Command, roots: Path) -> None:
    request = ("mcr", "all", "--labels", "1", "--data-root", str(roots), "--pretrain-data", "mimic-cxr")
    assert command.run(*request, settings=(*TINY, *TRAINED), data=",".join(NAMES)) == 0, command.output
    (folder,) = (command.out / "pretrained").iterdir()
    results = command.results()
    assert {result.spec.weights for result in results} == {folder.name}
    done = {(result.spec.dataset, result.spec.task) for result in results if result.status == "ok"}
    assert done == {
        *((name, task) for name in NAMES for task in ("zeroshot", "classification")),
        ("chexpert", "retrieval"), ("rsna", "segmentation"), ("rsna", "detection"), ("siim", "segmentation"),
    }  # fmt: skip
    assert all(result.error for result in results if result.status == "unsupported")
    assert Counter(result.status for result in results).keys() == {"ok", "unsupported"}
