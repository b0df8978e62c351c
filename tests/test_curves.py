"""What `report` shows of pretrainings: curves of every log, also of one that is unfinished, of an older layout, or damaged."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leaderboards.curves import POINTS, curves_text, sparkline, thinned, write_curves
from leaderboards.curves_figure import write_curves_figure
from tests.conftest import TINY, TRAINED, Command


def log(out: Path, key: str, rows: list[dict[str, Any]], spec: dict[str, Any] | None = None) -> Path:
    folder = out / "pretrained" / key
    folder.mkdir(parents=True)
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if spec is not None:
        (folder / "record.json").write_text(json.dumps({"key": key, "spec": spec}))
    return path


def rows(steps: int) -> list[dict[str, Any]]:
    return [{"step": n, "seconds": 0.5, "learning_rate": 1e-3, "total": 4.0 - n / steps, "mlm": 1.0} for n in range(steps)]


SPEC = {"method": "mcr", "seed": 3, "dataset": "phantom", "recipe": {"steps": 1000, "batch_size": 32}}


def test_a_log_becomes_a_few_points_a_term_and_a_line(tmp_path: Path) -> None:
    log(tmp_path, "aa", rows(1000), SPEC)
    paths = write_curves(tmp_path)
    run = json.loads(paths["curves"].read_text())["runs"][0]
    names = ("key", "method", "seed", "steps", "of", "finished")
    assert [run[name] for name in names] == ["aa", "mcr", 3, 1000, 1000, True]
    assert set(run["series"]) == {"seconds", "learning_rate", "total", "mlm"}
    assert all(len(points) == POINTS for points in run["series"].values())
    assert run["series"]["total"][-1][0] == 999
    assert run["images_per_second"] == 64  # 32 rows in half a second
    assert run["first_total"] > run["last_total"]
    assert (run["waiting_for_data"], run["peak_memory_mib"]) == (None, None)  # not logged is not 0
    line = next(csv.DictReader(paths["curves csv"].read_text().splitlines()))
    assert (line["method"], line["peak_memory_mib"]) == ("mcr", "")
    assert "mcr: 1000 of 1000 steps, total 3.99 █" in curves_text(tmp_path)


def test_what_is_logged_of_time_and_memory_is_summed_up(tmp_path: Path) -> None:
    more = {"data_seconds": 0.1, "images_per_second": 60.0, "memory_mib": 100.0, "gradient_norm": None}
    log(tmp_path, "aa", [{**row, **more, "memory_mib": 100.0 + row["step"]} for row in rows(20)], SPEC)
    run = json.loads(write_curves(tmp_path)["curves"].read_text())["runs"][0]
    assert run["waiting_for_data"] == pytest.approx(0.2)
    assert run["images_per_second"] == 60
    assert run["peak_memory_mib"] == 119
    assert "gradient_norm" not in run["series"]  # unknown at every step


def test_an_unfinished_or_damaged_log_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    path = log(tmp_path, "aa", rows(7))
    path.write_text(path.read_text() + '{"step": 7, "total": NaN}\n{"step": 8, "tot')
    log(tmp_path, "bb", [])
    found = json.loads(write_curves(tmp_path)["curves"].read_text())["runs"]
    assert [run["key"] for run in found] == ["aa"]
    assert (found[0]["method"], found[0]["finished"], found[0]["of"], found[0]["steps"]) == (None, False, None, 8)
    assert len(found[0]["series"]["total"]) == 7
    assert curves_text(tmp_path).startswith("aa: 8 steps")


def test_a_folder_without_logs_has_no_curves(tmp_path: Path) -> None:
    assert write_curves(tmp_path) == {}
    assert write_curves_figure(tmp_path) is None
    assert curves_text(tmp_path) == ""


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=60), st.integers(1, 50))
def test_thinned_curves_keep_their_range_and_their_end(values: list[float | None], most: int) -> None:
    found = thinned(list(enumerate(values)), most)
    known = [value for value in values if value is not None]
    assert len(found) == min(most, len(known))
    if known:
        assert min(known) - 1e-6 <= min(value for _, value in found if value is not None)
        assert max(value for _, value in found if value is not None) <= max(known) + 1e-6
        assert found[-1][0] == max(step for step, value in enumerate(values) if value is not None)
    assert len(sparkline(found)) == min(24, len(found))


def test_titles_of_the_board_name_the_curves_and_hostile_ones_are_text(tmp_path: Path) -> None:
    log(tmp_path, "aa", rows(5), SPEC)
    title = "=HYPERLINK(1) $x_1$ <script>\x1b[31m"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "r.json").write_text(json.dumps({"title": title, "spec": {"weights": "aa"}}))
    paths = write_curves(tmp_path)
    assert paths["curves csv"].read_text().splitlines()[1].split(",")[2].startswith("'=")
    drawn = write_curves_figure(tmp_path)
    assert drawn is not None
    assert "<script>" not in drawn.read_text()
    assert "\x1b" not in curves_text(tmp_path)


def test_report_shows_the_curves_of_a_run(command: Command) -> None:
    assert command.run("clip", "retrieval", settings=(*TINY, *TRAINED)) == 0
    assert "curves.json" in command.output
    assert command("report", "--out", str(command.out), "--draws", "0") == 0
    assert "3 of 3 steps, total" in command.output
    run = json.loads((command.out / "curves.json").read_text())["runs"][0]
    assert [step for step, _ in run["series"]["total"]] == [0, 1, 2]
    assert run["title"].startswith("CLIP")
    assert (command.out / "curves.svg").read_text().count("</svg>") == 1
