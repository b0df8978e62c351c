"""Every format of one small board, word for word, so that a change of what people see shows in review.

After a wanted change: BENCHMARK_UPDATE_GOLDEN=1 python -m pytest tests/test_golden_boards.py, then read the difference.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

import leaderboards
from benchmark.types import Cost, Metric, RunResult
from leaderboards.huggingface import huggingface_files
from leaderboards.page import html_page
from tests.test_leaderboards import TRACEBACK, bare, result, rows_of, save
from tests.test_page import data_of

FOLDER = Path(__file__).resolve().parent / "golden_boards"
GPU = Cost(
    seconds={"predict": 2.0, "fit": 30.0}, images_per_second=640.0, step_seconds=0.25, peak_allocated_mib=4096.0,
    peak_reserved_mib=5120.0, peak_device_mib=6144.0, peak_host_mib=2048.0, params=86_000_000, gmacs=17.6, batch_size=64,
    device="GPU",
)  # fmt: skip
LINEAR = {
    "task": "classification",
    "protocol": "linear",
    "protocol_hash": "0a1b2c3d",
    "dataset": "rsna",
    "dataset_version": "2",
}


def linear(title: str, value: float, fraction: float, seed: int = 0, **others: object) -> RunResult:
    """A result of a supervised protocol on a GPU."""
    metrics = {
        "auroc": Metric(value, value - 0.02, value + 0.02, 300), "auroc/Edema": Metric(value + 0.01, None, None, 300),
        "auroc/Fracture": Metric(value - 0.03, value - 0.1, value + 0.04, 300),
    }  # fmt: skip
    changes = {
        **LINEAR,
        "method": title.lower(),
        "label_fraction": fraction,
        "seed": seed,
        "weights": f"{title.lower()}-{seed}",
    }
    made = result(value, title=title, changes=changes, primary="auroc", metrics=metrics, cost=GPU, flags=())
    return replace(made, **others)  # type: ignore[arg-type]


SMALL = (
    result(0.5, title="First", changes={"method": "first"}),
    result(0.25, title="Random ranking", role="reference", changes={"method": "random", "weights": "none"}, cost=Cost()),
    bare("failed", TRACEBACK, method="second", title="Second"),
    bare("unsupported", "it has no text tower", method="third", title="A_B | <c> & $d"),
    *(
        linear("First", 0.9 - 0.125 * seed, 1.0, seed, pretraining=Cost(seconds={"pretrain": 7200.0}, device="GPU"))
        for seed in (0, 1)
    ),
    linear("Second", 0.8, 1.0, flags=("degenerate",)),
    linear("First", 0.7, 0.1),
    linear("Second", 0.75, 0.1, n_used=100),
)


def formats(out: Path) -> dict[str, str]:
    """File name -> text, of every renderer."""
    paths = leaderboards.write_board(save(out, *SMALL))
    groups = leaderboards.group_rows(rows_of(*SMALL))
    found = {path.name: path.read_text() for name, path in paths.items() if name in ("md", "csv", "tex")}
    found["leaderboard.json"] = json.dumps(json.loads(paths["json"].read_text()), indent=1, ensure_ascii=False) + "\n"
    found["page.json"] = json.dumps(data_of(html_page(groups, ())), indent=1, ensure_ascii=False) + "\n"
    found["terminal.txt"] = leaderboards.terminal_groups(groups) + "\n"
    cards = huggingface_files(groups, {"rsna": "owner/name"})
    return found | {f"huggingface-{name.replace('/.', '/').replace('/', '-')}": text for name, text in cards.items()}


def test_every_format_is_as_it_was(tmp_path: Path) -> None:
    found = formats(tmp_path)
    if os.environ.get("BENCHMARK_UPDATE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        for path in FOLDER.iterdir():
            path.unlink()
        for name, text in found.items():
            (FOLDER / name).write_text(text)
        pytest.skip("golden files were written again; read the difference")
    assert set(found) == {path.name for path in FOLDER.iterdir()}
    for name, text in found.items():
        assert text == (FOLDER / name).read_text(), f"{name} changed: see the head of this file"
