"""Names that are resolved late, stand for one thing only, and are suggested when misspelled."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from benchmark import registry as registry_module
from benchmark.errors import UserError
from benchmark.registry import Registry, unknown


def points(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, str]) -> list[str]:
    """Installs entry points; returns the groups that were asked for, as they are."""
    asked: list[str] = []

    def entry_points(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint(name, value, group) for name, value in found]

    monkeypatch.setattr(registry_module, "entry_points", entry_points)
    return asked


def test_a_name_is_imported_only_when_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lazy_plugin.py").write_text("class Outer:\n    class Inner:\n        pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lazy_plugin", raising=False)
    names: Registry[Any] = Registry("method", entries={"lazy": "lazy_plugin:Outer", "nested": "lazy_plugin:Outer.Inner"})
    assert list(names) == ["lazy", "nested"]
    assert "lazy" in names
    assert names.origin("lazy") == "lazy_plugin:Outer"
    assert "lazy_plugin" not in sys.modules
    assert names.load("nested") is names.load("lazy").Inner
    assert "lazy_plugin" in sys.modules


def test_an_object_can_be_registered_itself() -> None:
    names: Registry[Any] = Registry("method")
    names.add("counter", Counter)
    assert names.load("counter") is Counter


def test_a_name_stands_for_one_thing_only() -> None:
    names: Registry[Any] = Registry("method", entries={"a": "collections:Counter"})
    names.add("a", "collections:Counter")  # the same again is no collision
    with pytest.raises(UserError, match=r"^method 'a' is registered twice: collections:Counter and collections:deque; rename"):
        names.add("a", "collections:deque")
    assert names.load("a") is Counter


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", "a.b", "a\n", "<b>"])
def test_a_name_that_could_not_be_a_file_name_is_refused(name: str) -> None:
    names: Registry[Any] = Registry("method")
    with pytest.raises(UserError, match="may hold letters"):
        names.add(name, "collections:Counter")
    assert list(names) == []


def test_a_misspelled_name_gets_near_names_and_another_the_list() -> None:
    names: Registry[Any] = Registry("method", entries={"mcr": "a:b", "mgca": "a:b", "random": "a:b"})
    with pytest.raises(UserError, match=r"^unknown method 'mrc'; did you mean mcr"):
        names.load("mrc")
    with pytest.raises(UserError, match=r"^unknown method 'zzzz'; known: mcr, mgca, random$"):
        names.origin("zzzz")
    assert "mrc" not in names
    empty: Registry[Any] = Registry("task")
    with pytest.raises(UserError, match=r"^unknown task 'x'; known: none$"):
        empty.load("x")


def test_a_name_that_is_known_twice_is_suggested_once() -> None:
    assert str(unknown("setting", "step", ["steps", "steps", "stream"])).count("steps") == 1
    assert str(unknown("setting", "qq", ["steps", "steps"])) == "unknown setting 'qq'; known: steps"


@pytest.mark.parametrize(
    "target", ["no_such_module_xyz:A", "collections:NoSuch", "collections", "collections:Counter.nothing", "broken_plugin:A"]
)
def test_a_target_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    (tmp_path / "broken_plugin.py").write_text("from collections import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    names: Registry[Any] = Registry("method", entries={"a": target})
    with pytest.raises(UserError, match=rf"^method 'a' points to '{target}', which cannot be imported: "):
        names.load("a")


def test_entry_points_are_read_once_and_late(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = points(monkeypatch, ("plugin", "collections:Counter"))
    names: Registry[Any] = Registry("method", group="benchmark.methods", entries={"own": "collections:deque"})
    assert asked == []
    assert names.load("plugin") is Counter
    assert list(names) == ["own", "plugin"]
    assert "plugin" in names
    assert asked == ["benchmark.methods"]


def test_an_entry_point_cannot_replace_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    points(monkeypatch, ("own", "collections:Counter"))
    names: Registry[Any] = Registry("method", group="benchmark.methods", entries={"own": "collections:deque"})
    with pytest.raises(UserError, match="registered twice"):
        names.load("own")


def test_the_registries_of_methods_and_tasks_import_none_of_them() -> None:
    code = (
        "import sys; from methods import METHODS; from tasks import TASKS; list(METHODS); list(TASKS); "
        "print([name for name in sys.modules if name.startswith(('methods.', 'tasks.')) or name == 'torch'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
