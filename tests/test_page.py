"""The page as a file: what it holds, how large it gets, and that no text of a result can become markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import leaderboards
from benchmark.types import Metric, RunResult, plain
from leaderboards.counterparts import COUNTERPARTS, Counterpart
from leaderboards.page import html_page
from leaderboards.page.analysis import read_analysis
from leaderboards.page.curves import read_curves
from leaderboards.page.document import ASSETS, LIMIT
from tests import board
from tests.test_leaderboards import HOSTILE, SAMPLES, bare, groups_of, hostile, result, save


class Page(HTMLParser):
    """Tags, attributes and the text of each script of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)


def data_of(text: str) -> Any:
    """The data block of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def page_of(*results: RunResult, analysis: Any = None) -> Any:
    """The data of a page of these results, with the ranks of an analysis joined as `report` does."""
    return data_of(html_page(leaderboards.with_standings(groups_of(*results), analysis), (), analysis))


def test_the_page_holds_all_it_needs_and_names_no_other_place() -> None:
    text = html_page(groups_of(*SAMPLES), ())
    page = Page(text)
    policy = next(value or "" for key, value in page.attributes if key == "content" and value and "default-src" in value)
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not {"link", "img", "iframe", "object", "form"} & set(page.tags)
    assert not [
        value for key, value in page.attributes if key == "src" or (key == "href" and not (value or "").startswith("#"))
    ]
    assert not [key for key, _ in page.attributes if key.startswith("on") or key == "style"]
    assert len(text.encode()) < LIMIT


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_leaves_the_tags_of_the_page_as_they_are(name: str) -> None:
    friendly, page = Page(html_page(groups_of(hostile("name")), ())), Page(html_page(groups_of(hostile(name)), ()))
    assert page.tags == friendly.tags
    assert [key for key, _ in page.attributes] == [key for key, _ in friendly.attributes]
    (entry,) = data_of(html_page(groups_of(hostile(name)), ()))["groups"][0]["entries"]
    assert entry["label"] == leaderboards.text.clean(name)


def test_details_hold_spec_environment_command_and_predictions() -> None:
    data = page_of(result())
    (entry,) = data["groups"][0]["entries"]
    (run,) = entry["runs"]
    table = data["table"]
    assert run["predictions"] == "f" * 64
    assert table[run["command"]] == "python -m benchmark run --method mcr --task retrieval"
    assert table[run["environment"]]["torch"] == "2.13.0"
    assert table[run["config"]] == {"stream": "single"}
    assert run["weights"] == "0123456789abcdef"
    assert run["seconds"] == {"predict": 2.0, "fit": 1.5}
    assert dict(zip(data["groups"][0]["metrics"], run["metrics"])) == {"R@10": [0.5, 0.4, 0.625], "median rank": 12.5}


def test_what_was_not_measured_is_not_there_and_never_zero() -> None:
    (entry,) = page_of(result())["groups"][0]["entries"]
    assert "peak_allocated_mib" not in entry["cost"]
    assert "pretraining" not in entry
    (entry,) = page_of(bare("failed", "RuntimeError: no"))["groups"][0]["entries"]
    assert (entry["status"], entry["value"], entry["reason"]) == ("failed", None, "RuntimeError: no")


def test_groups_of_one_protocol_at_several_fractions_are_one_series() -> None:
    parts = [result(changes={"label_fraction": share}) for share in (0.01, 0.1, 1.0)]
    groups = page_of(*parts, result(changes={"protocol_hash": "ffffffff"}))["groups"]
    assert sorted(group["label_fraction"] for group in groups if group["series"] == groups[0]["series"]) == [0.01, 0.1, 1.0]
    assert len({group["series"] for group in groups}) == 2


def test_the_analysis_is_joined_by_group_and_key() -> None:
    found = list(board.results(methods=3, seeds=2))
    data = page_of(*found, analysis=board.analysis(found))
    linear = next(group for group in data["groups"] if group["task"] == "classification")
    best, second = (entry for entry in linear["entries"] if entry["kind"] == "method" and entry["standing"]["rank"] < 3)
    assert best["standing"]["difference"] is None
    assert second["standing"]["difference"]["value"] < 0
    assert {part["by"] for part in best["subgroups"]} == {"sex", "age", "view"}
    assert len(best["calibration"]["bins"]) == 10
    assert (best["subgroups_seed"], best["calibration_seed"]) == (0, 0)  # of two: the page says of which one it is
    (single,) = (
        entry
        for group in page_of(*(item for item in found if item.spec.seed == 0), analysis=board.analysis(found))["groups"]
        for entry in group["entries"]
        if entry["keys"] == best["keys"][:1]
    )
    assert single["subgroups"] == best["subgroups"]
    assert "subgroups_seed" not in single
    other, late = board.analysis(found), board.analysis(found[:-1])
    for group in other["groups"]:
        group["group"][4] = "another hash"
    ranked = [
        [entry for entry in group["entries"] if "standing" in entry] for group in page_of(*found, analysis=late)["groups"]
    ]
    assert [bool(entries) for entries in ranked] == [True] * 10 + [False]  # the last table has a result that was not analysed
    assert not [
        entry for group in page_of(*found, analysis=other)["groups"] for entry in group["entries"] if "standing" in entry
    ]


@pytest.mark.parametrize(
    "text", ['{"schema": 1, "gro', '{"schema": 9, "groups": []}', "[1]", '{"schema": 1}', '{"schema": 1, "groups": NaN}']
)
def test_a_broken_analysis_is_named_and_the_board_appears(tmp_path: Path, text: str) -> None:
    save(tmp_path, result())
    (tmp_path / "analysis.json").write_text(text)
    assert read_analysis(tmp_path)[0] is None
    data = data_of(leaderboards.write_board(tmp_path)["html"].read_text())
    assert data["left_out"][0].startswith("analysis.json ")
    assert data["groups"][0]["entries"][0]["label"] == "MCR"


def with_counterpart(monkeypatch: pytest.MonkeyPatch) -> RunResult:
    """A result of MGCA for which, in this test alone, the published family of MGCA is a counterpart."""
    same = Counterpart(
        protocol_hash="ab12cd34", family="mgca", task="classification", setting="linear", metrics={"auroc": "AUROC"},
        datasets={"rsna": "RSNA", "phantom": "RSNA"},
    )  # fmt: skip
    monkeypatch.setitem(COUNTERPARTS, "pair", same)
    changes = {"method": "mgca", "task": "classification", "dataset": "rsna", "config": {"image_encoder": "resnet50"}}
    return result(0.88, changes=changes, primary="auroc", metrics={"auroc": Metric(0.88, 0.87, 0.89, 50)}, flags=())


def test_curves_are_joined_to_the_methods_that_used_the_pretraining(tmp_path: Path) -> None:
    found = list(board.results(methods=2, seeds=2))
    (tmp_path / "curves.json").write_text(json.dumps(board.curves(found)))
    data = data_of(html_page(groups_of(*found), (), None, read_curves(tmp_path)))
    variants = {entry["label"]: entry["variant"] for group in data["groups"] for entry in group["entries"]}
    labels = {(run["label"], run["variant"]) for run in data["curves"]}
    assert labels == {(f"{name}, seed {seed}", variants[name]) for name in ("Aster", "Birch") for seed in (0, 1)}
    assert {len(run["series"]["total"]) for run in data["curves"]} == {70}


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        '{"runs": NaN}',
        '{"runs": [{}]}',
        '{"runs": [{"key": "a", "title": "b", "seed": 0, "series": {"x": [1]}}]}',
        "{",
    ],
)
def test_broken_curves_are_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "curves.json").write_text(text)
    assert read_curves(tmp_path) == []


def test_a_published_range_stands_beside_its_counterpart_and_never_beside_the_phantom(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = with_counterpart(monkeypatch)
    (entry,) = page_of(ours)["groups"][0]["entries"]
    assert 0.8 < entry["published"]["low"] <= entry["published"]["high"] < 1
    assert any("sources disagree" in badge for badge in entry["published"]["badges"])
    assert any("reprint" in source for source in entry["published"]["sources"])
    for flag in ("phantom", "development"):
        (entry,) = page_of(replace(ours, flags=(flag,)))["groups"][0]["entries"]
        assert "published" not in entry


def test_a_board_that_is_too_large_says_what_it_leaves_out() -> None:
    groups = groups_of(*board.results(methods=6, seeds=2))
    whole = data_of(html_page(groups, ()))
    assert whole["runs"]
    assert whole["lines"] == whole["all_lines"]
    frame = len(html_page((), ()).encode())
    fewer = html_page(groups, (), limit=frame + 60_000)
    assert len(fewer.encode()) <= frame + 60_000
    data = data_of(fewer)
    assert not data["runs"]
    assert data["results"] == whole["results"]
    least = html_page(groups, (), limit=frame + 36_000)
    data = data_of(least)
    assert data["lines"] < data["all_lines"] == whole["all_lines"]
    assert all(
        group["entries"][0]["label"] == before["entries"][0]["label"] for group, before in zip(data["groups"], whole["groups"])
    )


def test_vendored_files_are_those_that_were_recorded() -> None:
    folder = ASSETS / "vendor"
    records = json.loads((folder / "vendored.json").read_text())
    files = {record["file"] for record in records} | {record["licence_file"] for record in records}
    assert files | {"vendored.json"} == {path.name for path in folder.iterdir()}
    for record in records:
        assert sha256((folder / record["file"]).read_bytes()).hexdigest() == record["sha256"]
        assert record["version"]
        assert (folder / record["licence_file"]).read_text().strip()


def test_every_script_of_ours_is_in_the_page() -> None:
    from leaderboards.page.document import SCRIPTS

    assert set(SCRIPTS) == {path.stem for path in (ASSETS / "js").glob("*.js")}


def test_the_same_results_give_the_same_bytes() -> None:
    found = [json.loads(json.dumps(plain(item))) for item in board.results(methods=2, seeds=1)]
    pages = {
        html_page(leaderboards.group_rows([leaderboards.make_row(item) for item in order]), ())
        for order in (found, found[::-1])
    }
    assert len(pages) == 1
