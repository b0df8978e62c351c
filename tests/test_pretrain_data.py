"""--pretrain-data: methods learn from one data set and are scored on others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from benchmark.data.dataset import Dataset
from benchmark.data.families import saw_test
from benchmark.data.sources import SOURCES
from tests.conftest import TINY, TRAINED, Command
from tests.toy import ToySource

SETTINGS = (*TINY, *TRAINED)


class Named(ToySource):
    """The toy under another name and with other patients; `silent` has no reports."""

    def __init__(self, name: str, patients: int = 30, silent: bool = False, prefix: str = "") -> None:
        self.name = name
        super().__init__(patients)
        changes: dict[str, Any] = {"sections": {}} if silent else {}
        self.records = tuple(replace(record, patient=prefix + record.patient, **changes) for record in self.records)


@pytest.fixture
def silent(register: Callable[[Any, str, Any], None]) -> None:
    """The data sets `silent` and `quiet`, images with labels, masks and boxes and without a report."""
    for name in ("silent", "quiet"):
        register(SOURCES, name, lambda location, options, name=name: Named(name, silent=True, prefix=name))


def test_a_set_without_reports_is_scored_with_what_was_learned_on_another(command: Command, silent: None) -> None:
    request = ("--pretrain-data", "toy:20")
    assert command.run("mcr", "zeroshot,classification", *request, settings=SETTINGS, data="silent,quiet") == 0, command.output
    results = command.results()
    assert {(result.spec.dataset, result.status) for result in results} == {("silent", "ok"), ("quiet", "ok")}
    assert len(list((command.out / "pretrained").iterdir())) == 1  # once for both
    assert {result.notes["pretraining_data"] for result in results} == {f"toy {ToySource(20).version}"}
    assert all("on toy" in result.title for result in results)
    assert not any("overlap" in result.flags for result in results)


def test_without_it_the_way_out_is_named(command: Command, silent: None) -> None:
    assert command.run("mcr", "classification", settings=SETTINGS, data="silent") == 0
    (result,) = {result.error for result in command.results()}
    assert result is not None
    assert "no training reports" in result
    assert "--pretrain-data" in result


def test_another_corpus_is_another_pretraining_and_another_vocabulary(command: Command) -> None:
    weights = {}
    for method in ("mcr", "random"):
        for data in ("", "toy:20", "toy:25"):
            words = ("--pretrain-data", data) if data else ()
            assert command.run(method, "classification", "--dry-run", *words, settings=()) == 0
            weights[method, data] = {line.split()[-3] for line in command.output.splitlines() if line.startswith(method)}
    assert len(set().union(*weights.values())) == sum(map(len, weights.values()))  # no key twice


def test_a_checkpoint_leaves_nothing_to_pretrain(command: Command) -> None:
    assert command.run("mcr", "retrieval", "--checkpoint", "x", "--pretrain-data", "toy") == 2
    command.refused("--checkpoint", "--pretrain-data", "leave one of the two out")


def test_an_unknown_corpus_is_refused(command: Command) -> None:
    assert command.run("mcr", "retrieval", "--pretrain-data", "fantom") == 2
    command.refused("unknown dataset 'fantom'", "did you mean phantom?")


@pytest.mark.parametrize(
    ("corpus", "data", "seen"),
    [
        (Named("nih"), Named("rsna"), True),  # RSNA's images are NIH's
        (Named("mimic-cxr"), Named("rsna"), False),
        (Named("mimic-cxr"), Named("mimic-cxr"), False),  # its own split keeps patients apart
    ],
)
def test_a_corpus_that_holds_test_images_is_flagged(corpus: Named, data: Named, seen: bool) -> None:
    assert saw_test(Dataset(corpus), Dataset(data)) is seen


def test_a_corpus_under_another_split_is_flagged_by_its_patients() -> None:
    whole = Named("mimic-cxr")
    turned = Named("mimic-cxr")
    swap = {"train": "test", "test": "train", "val": "val"}
    turned.records = tuple(replace(record, split=swap[record.split]) for record in whole.records)
    assert saw_test(Dataset(turned), Dataset(whole))
