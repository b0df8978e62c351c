"""Every protocol on every replica and on real radiographs: each cell is ok, or says why it cannot be. Run with -m slow -s."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from os import environ
from pathlib import Path
from typing import Any

import pytest

from benchmark.types import Protocol, RunResult
from tasks import detection, segmentation
from tasks.published import classification as of_classification
from tasks.published import detection as of_detection
from tasks.published import segmentation as of_segmentation
from tests.conftest import TINY, TRAINED, Command
from tests.replicas import REPLICAS, chexpert, covidx
from tests.test_protocols import EVERY

MOMENT: dict[str, Any] = {
    "batch_size": 4, "convolutions": 1, "decoder_channels": "16,12,8,8,8", "epochs": 1, "evaluations": 1, "frozen_steps": 1,
    "hidden": 16, "neck_channels": "16,8,8", "pyramid_width": 8, "reference_size": 32, "round_steps": 1, "rounds": 1,
    "setr_channels": "16,12,8,8", "setr_width": 16, "steps": 2, "train_rows": 8,
}  # fmt: skip
METHODS = ("mcr", "random", "imagenet")
NEVER = {  # of no replica as it splits itself: 1,000 pairs, and lists that a user brings
    "retrieval-pool-1000": "needs 1000 pairs",
    "retrieval-8x200-image": "--split FOLDER",
    "retrieval-8x200-text": "--split FOLDER",
    "probe-mgca-covidx": "lacks Normal",
    "finetune-linear-covidx": "lacks Normal",
}


REAL = environ.get("BENCHMARK_DEV_DATA", "")  # a folder of radiographs with reports, labels, masks and boxes
NOT_REAL = {  # what that folder lacks: classes of CheXpert and NIH, 1,000 pairs, lists
    "retrieval-pool-1000", "retrieval-8x200-image", "retrieval-8x200-text", "zeroshot-chexpert-14", "zeroshot-nih-14",
    "probe-mgca-covidx", "finetune-linear-covidx", "finetune-benchx-nih",
}  # fmt: skip


def moment(protocol: Protocol) -> Protocol:
    """The literal with a narrow head and a fit that takes a moment."""
    stated = {name: value for name, value in protocol.settings if value is not None}
    changed = {name: value for name, value in MOMENT.items() if name in stated and _alike(value, stated[name])}
    return replace(protocol, settings=tuple(sorted({**dict(protocol.settings), **changed}.items())))


def _alike(value: Any, stated: Any) -> bool:
    """Lists of channels are shortened where they have as many."""
    return str(value).count(",") == str(stated).count(",")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (of_classification, of_detection, of_segmentation):
        monkeypatch.setattr(module, "PROTOCOLS", tuple(map(moment, module.PROTOCOLS)))
    for module, name in ((segmentation, "SEGMENTATION"), (detection, "DETECTION")):
        presets = {preset: tuple(map(moment, found)) for preset, found in getattr(module, name).items()}
        monkeypatch.setattr(module, name, presets)


def outcome(result: RunResult) -> str:
    """The status; anything but ok must say why, in words that no traceback follows."""
    reason = str(result.error or "")
    assert result.status in ("ok", "unsupported", "unavailable"), (result.spec.protocol, result.spec.dataset, reason)
    assert (result.status == "ok") == (result.error is None)
    assert "Traceback" not in reason
    if result.status == "ok":
        assert result.primary in result.metrics
    return result.status


def show(results: list[RunResult]) -> None:
    """protocol, then for each set the first letters of the statuses of the three methods."""
    letters = {"ok": "o", "unsupported": "-", "unavailable": "u"}
    sets = sorted({result.spec.dataset for result in results})
    cells = {(item.spec.protocol, item.spec.dataset, item.spec.method): letters[item.status] for item in results}
    print(f"\n{'':32}" + " ".join(f"{name[:7]:7}" for name in sets))
    for name in EVERY:
        row = ("".join(cells.get((name, data, method), " ") for method in METHODS) for data in sets)
        print(f"{name:32}" + " ".join(f"{part:7}" for part in row))


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_every_cell_of_every_protocol_is_ok_or_says_why(command: Command, tmp_path: Path) -> None:
    root = tmp_path / "sets"
    for write in REPLICAS.values():
        write(root)
    words = ("--labels", "1", "--data-root", str(root), "--pretrain-data", "mimic-cxr", "--protocol", ",".join(EVERY))
    status = command.run(",".join(METHODS), "all", *words, settings=(*TINY, *TRAINED), data=",".join(REPLICAS))
    results = command.results()
    show(results)
    counts = Counter((result.spec.method, outcome(result)) for result in results)
    assert len(results) == len(METHODS) * len(REPLICAS) * len(EVERY)
    print(counts)
    assert status == 1, command.error  # imagenet was named and has no weights here
    assert {result.status for result in results if result.spec.method == "imagenet"} <= {"unsupported", "unavailable"}
    done = {result.spec.protocol for result in results if result.status == "ok"}
    assert set(EVERY) - done == set(NEVER)
    for name, words in NEVER.items():
        assert any(words in str(result.error) for result in results if result.spec.protocol == name), name


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_protocols_of_lists_and_of_three_classes_run_on_what_they_are_for(command: Command, tmp_path: Path) -> None:
    root = tmp_path / "sets"
    REPLICAS["mimic-cxr"](root)
    home = chexpert.write(root, patients=24)
    uids = [f"train/{path.relative_to(home / 'train')}" for path in sorted((home / "train").rglob("*_frontal.jpg"))]
    lists = chexpert.write_queries(root / "convirt", uids[4:20], dict.fromkeys(uids[:4], "Edema"), [("Edema", "Wet lungs.")])
    covidx.write_three(root, patients=24)
    shared = ("--labels", "1", "--data-root", str(root), "--pretrain-data", "mimic-cxr")
    requests = (
        ("chexpert", "retrieval", "retrieval-8x200-image,retrieval-8x200-text", str(lists)),
        ("covidx", "classification", "probe-mgca-covidx,finetune-linear-covidx", "mgca"),
    )
    for data, task, names, split in requests:
        words = (*shared, "--protocol", names, "--split", split)
        assert command.run("mcr,random", task, *words, settings=(*TINY, *TRAINED), data=data) == 0, command.error
    found = Counter((result.spec.protocol, outcome(result)) for result in command.results())
    assert found == {(name, "ok"): 2 for name in set(NEVER) - {"retrieval-pool-1000"}}


@pytest.mark.slow
@pytest.mark.usefixtures("short")
@pytest.mark.skipif(not REAL, reason="set BENCHMARK_DEV_DATA to the folder of development radiographs")
def test_every_protocol_that_real_radiographs_serve_runs_on_them(command: Command) -> None:
    words = ("--labels", "1", "--protocol", ",".join(EVERY))
    status = command.run("mcr,random", "all", *words, settings=(*TINY, *TRAINED), data=f"csv:{REAL}")
    results = command.results()
    print({result.spec.protocol: f"{outcome(result)} {result.error or ''}" for result in results})
    assert status == 1, command.error  # the lists of 8x200 are unavailable
    assert {result.spec.protocol for result in results if result.status == "ok"} == set(EVERY) - NOT_REAL
    assert len(results) == 2 * len(EVERY)
