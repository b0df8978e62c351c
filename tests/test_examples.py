"""Retrieval examples: written for synthetic data alone, from the scores that gave the ranks, the same rows for all methods."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.store import Store
from benchmark.types import InputSpec, RunResult
from leaderboards.page import html_page
from leaderboards.page.examples import read_examples
from tasks.examples import chosen_rows, scores_of, write_examples
from tasks.ranking import BlockScores, PooledScores
from tests import board
from tests.conftest import Command
from tests.test_cli_files import own_folder
from tests.test_leaderboards import groups_of
from tests.test_page import data_of
from tests.toy import ToySource

PHANTOM = "phantom:train=8,val=4,test=12,size=64"


def examples_of(out: Path) -> dict[str, Any]:
    """Key of a cell -> what its file holds."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "examples").glob("*.json"))}


def test_examples_of_the_phantom_agree_with_the_ranks_of_the_same_cell(command: Command) -> None:
    assert command.run("random", "retrieval", "--seed", "0,1", data=PHANTOM) == 0
    found, store = examples_of(command.out), Store(command.out)
    results = command.results()
    assert {result.key for result in results} == set(found)
    assert len({tuple(query["uid"] for query in item["queries"]) for item in found.values()}) == 1
    for key, item in found.items():
        with np.load(store.predictions_path(key)) as arrays:
            uids, counts = arrays["uids"].tolist(), arrays["array/i2t"]
        assert [query["uid"] for query in item["queries"]] == [uids[row] for row in chosen_rows(len(uids))]
        for query in item["queries"]:
            above, tied, _ = counts[uids.index(query["uid"])]
            assert (query["rank"], query["tied"]) == (above + 1, tied)
            scores = [line["score"] for line in query["found"]]
            assert len(scores) == 3
            assert scores == sorted(scores, reverse=True)
            assert [line["right"] for line in query["found"]] == [line["report"] == query["report"] for line in query["found"]]
            if not tied:
                assert [line["right"] for line in query["found"]] == [place == above for place in range(3)]
            image = Image.open(BytesIO(b64decode(query["image"].removeprefix("data:image/png;base64,"))))
            assert image.mode == "L"
            assert max(image.size) <= 96


def test_no_example_of_a_folder_of_ones_own_leaves_it(command: Command, tmp_path: Path) -> None:
    assert command.run("random", "retrieval", data=f"csv:{own_folder(tmp_path / 'own')}") == 0
    assert all(result.status == "ok" for result in command.results())
    assert not (command.out / "examples").exists()


def test_nothing_is_written_for_other_data_even_where_a_caller_names_a_file(tmp_path: Path) -> None:
    data, path = Dataset(ToySource()), tmp_path / "examples.json"
    records, context = data.rows("test"), Context(torch.device("cpu"), tmp_path / "cache", examples=path, progress=False)
    n = len(records)
    scores, ranks = PooledScores(np.eye(n, dtype=np.float32), np.eye(n, dtype=np.float32)), np.zeros((n, 3), np.int64)
    gallery = (data, records, np.array([str(row) for row in range(n)]))
    write_examples(gallery, scores, (np.arange(n), ranks), InputSpec(32), context, n)
    assert not path.exists()
    data.source.flags = ("phantom",)  # type: ignore[misc]
    write_examples(gallery, scores, (np.arange(n), ranks), InputSpec(32), context, n)
    assert [query["report"] for query in json.loads(path.read_text())["queries"]] == [str(row) for row in chosen_rows(n)]


def test_rows_are_evenly_spaced_and_never_twice() -> None:
    assert chosen_rows(101) == [0, 20, 40, 60, 80, 100]
    assert chosen_rows(2) == [0, 1]


def test_scores_are_those_that_decide_ranks_whatever_the_similarity() -> None:
    rng = np.random.default_rng(0)
    images, texts = (rng.normal(size=(n, 8)).astype(np.float32) for n in (5, 7))
    pooled = PooledScores(images, texts)
    expected = np.array([[pooled.exact(np.array([row]), np.array([text]))[0] for text in range(7)] for row in (1, 4)])
    np.testing.assert_array_equal(scores_of(pooled, [1, 4]), expected)
    blocks = BlockScores((5, 7), lambda rows, columns: -(images[rows] @ texts[columns].T))
    np.testing.assert_array_equal(scores_of(blocks, [4]), -(images @ texts.T)[4:])


def test_examples_are_joined_to_lines_of_synthetic_data_alone(tmp_path: Path) -> None:
    found = list(board.results(methods=2, seeds=2))
    board.save_examples(tmp_path, board.examples(found))
    data = page_with_examples(tmp_path, *found)
    shown = [group for group in data["groups"] if "examples" in group]
    assert [group["task"] for group in shown] == ["retrieval"]
    assert [query["uid"] for query in shown[0]["examples"]] == [f"phantom-{query:04d}" for query in range(6)]
    best = shown[0]["entries"][0]["examples"]["4"]
    assert best["rank"] == [1, 0, 430]
    text, _, right = best["found"][0]
    assert (data["table"][text], right) == ("Clear lungs, study 4.", True)
    assert "examples" not in json.dumps(page_with_examples(tmp_path, *(replace(item, flags=()) for item in found)))
    assert "examples" not in json.dumps(page_with_examples(tmp_path / "none", *found))


def page_with_examples(out: Path, *found: RunResult) -> Any:
    """The data of a page with the examples of a folder."""
    groups = groups_of(*found)
    return data_of(html_page(groups, (), None, (), read_examples(out, groups)))


@pytest.mark.parametrize(
    "change",
    [
        {"image": "https://example.org/a.png"},
        {"image": "data:image/svg+xml;base64,AAAA"},
        {"image": None},
        {"rank": "1"},
        {"found": [{"report": "a", "score": "high", "right": True}]},
        {"found": 3},
    ],
)
def test_broken_examples_are_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    found = list(board.results(methods=1, seeds=1))
    told = board.examples(found)
    board.save_examples(tmp_path, told)
    assert set(read_examples(tmp_path, groups_of(*found))) == set(told)
    for item in told.values():
        item["queries"][0] |= change
    board.save_examples(tmp_path, told)
    assert read_examples(tmp_path, groups_of(*found)) == {}
    for path in (tmp_path / "examples").glob("*.json"):
        path.write_text('{"schema": 1, "que')
    assert read_examples(tmp_path, groups_of(*found)) == {}


def test_a_page_without_room_leaves_examples_out_and_says_so() -> None:
    found = list(board.results(methods=2, seeds=1))
    groups = groups_of(*found)
    examples = {
        key: [{"uid": "a", "report": "b" * 90_000, "image": "", "rank": [1, 0, 2], "found": []}] for key in keys_of(found)
    }
    limit = len(html_page(groups, ()).encode()) + 60_000
    text = html_page(groups, (), None, (), examples, limit=limit)
    assert len(text.encode()) <= limit
    assert not data_of(text)["runs"]


def keys_of(found: list[RunResult]) -> list[str]:
    return [item.key for item in found if item.spec.task == "retrieval"]
