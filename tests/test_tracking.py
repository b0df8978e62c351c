"""Live trackers: every line of the log arrives in them, they are closed however a run ends, and a missing one is named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking as accelerated

from benchmark.errors import UserError
from benchmark.tracking import PROJECT, TRACKERS, flat, tracked, tracker_names
from tests.conftest import TINY, TRAINED, Command

LINE = {"step": 4, "seconds": 0.1, "total": 2.5, "memory_mib": None, "note": "text"}


class Recorder(accelerated.GeneralTracker):  # type: ignore[misc]
    """A tracker that keeps what it is given, in the place of one that needs an account."""

    name = "recorder"
    requires_logging_directory = False
    opened: list[Recorder] = []  # noqa: RUF012

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        self.project, self.options, self.calls = run_name, options, list[tuple[str, Any]]()
        self.opened.append(self)

    @property
    def tracker(self) -> list[tuple[str, Any]]:
        return self.calls

    def start(self) -> None:
        self.calls.append(("start", None))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.calls.append(("config", values))

    def log(self, values: dict[str, Any], step: int | None = None, **rest: Any) -> None:
        self.calls.append(("log", (step, values)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setattr(Recorder, "opened", [])
    monkeypatch.setitem(accelerated.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    return Recorder


def test_lines_arrive_with_their_step_and_only_numbers(recorder: type[Recorder], tmp_path: Path) -> None:
    with tracked(("wandb",), "mcr-key", tmp_path, {"method": "mcr", "recipe": {"steps": 3, "stages": None}}) as track:
        track(LINE)
    tracker = recorder.opened[0]
    assert (tracker.project, tracker.options) == (PROJECT, {"name": "mcr-key"})
    assert tracker.calls == [
        ("start", None),
        ("config", {"method": "mcr", "recipe.steps": 3, "recipe.stages": "None"}),
        ("log", (4, {"seconds": 0.1, "total": 2.5})),
        ("finish", None),
    ]


def test_trackers_are_closed_when_a_run_fails(recorder: type[Recorder], tmp_path: Path) -> None:
    with pytest.raises(UserError), tracked(("wandb", "wandb"), "run", tmp_path, {}):
        raise UserError("the loss is not finite")
    assert [tracker.calls[-1][0] for tracker in recorder.opened] == ["finish", "finish"]


def test_nothing_is_opened_where_nothing_is_asked_for(recorder: type[Recorder], tmp_path: Path) -> None:
    with tracked((), "run", tmp_path, {"a": 1}) as track:
        track(LINE)
    assert recorder.opened == []
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_files_hold_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    with tracked(("tensorboard",), "mcr-key", tmp_path, {"method": "mcr", "recipe": {"steps": 3}}) as track:
        for step in range(3):
            track({"step": step, "total": 3.0 - step})
    files = list((tmp_path / "tracking" / "mcr-key").glob("events.out.tfevents.*"))
    assert len(files) == 1
    assert files[0].read_bytes().count(b"total") == 3


def test_a_tracker_that_is_unknown_or_not_installed_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracker_names("") == ()
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    assert command.run("clip", "retrieval", "--track", "mlflow") == 2
    command.refused("--track mlflow", *TRACKERS)
    monkeypatch.setattr("benchmark.tracking.find_spec", lambda name: None)
    assert command.run("clip", "retrieval", "--track", "wandb") == 2
    command.refused("pip install wandb")


def test_nested_settings_have_dotted_names() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": True}) == {"a.b.c": 1, "d": True}


def test_a_pretraining_is_tracked_step_by_step(
    command: Command, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.tracking.find_spec", lambda name: object())
    assert command.run("clip", "retrieval", "--track", "wandb", settings=(*TINY, *TRAINED)) == 0
    assert len(recorder.opened) == 1
    logged = [value for name, value in recorder.opened[0].calls if name == "log"]
    assert [step for step, _ in logged] == [0, 1, 2]
    assert {"total", "learning_rate", "seconds", "images_per_second"} <= set(logged[0][1])
    assert recorder.opened[0].calls[-1] == ("finish", None)
