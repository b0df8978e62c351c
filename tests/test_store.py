"""Files that survive a kill, a full disk, a folder that cannot be written, and a changed byte."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.store import TEMPORARY, Store, predictions_to_bytes, read_predictions, result_from_json, write, write_json
from benchmark.types import Cost, Metric, Predictions, RunResult, plain
from tests.test_keys import RUN

PREDICTIONS = Predictions(
    np.array(["u1", "ü2", "u3"]), np.array(["p1", "p1", "p2"]),
    {"scores": np.arange(6, dtype=np.float32).reshape(3, 2), "targets": np.array([[0, 1], [1, np.nan], [0, 0]])},
    {"classes": ("a", "b")}, (("u4", "cut short"),),
)  # fmt: skip
RESULT = RunResult(
    key=RUN.key, status="ok", spec=RUN, title="MCR (our reading)", primary="recall@10",
    metrics={"recall@10": Metric(0.25, 0.125, 0.5, 9), "auroc/Ödem": Metric(None, None, None, 9)}, n_expected=4, n_used=3,
    skipped=(("u4", "cut short"),), cost=Cost(seconds={"predict": 1.5}, params=12, device="cpu"),
    pretraining=Cost(step_seconds=0.25), environment={"python": "3.11"}, flags=("phantom", "partial"),
    notes={"pool": 3, "c": 0.1, "ok": True, "none": None}, error=None, command="run --method mcr", started="then",
)  # fmt: skip


# ------------------------------------------------------------------------------------------ atomic files

KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from benchmark.store import TEMPORARY, write

def careless(path, data):
    with open(path, "wb") as file:
        file.write(data)

put = write if sys.argv[2] == "write" else careless
path = Path(sys.argv[1]) / "results" / "cell.json"
path.parent.mkdir()
write(path, b"0" * 400_000)
random.seed(0)
for _ in range(20):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"!")
        while True:
            for letter in b"0123456789":
                put(path, bytes([letter]) * 400_000)
    os.read(reader, 1)
    time.sleep(random.random() * 0.03)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    data = path.read_bytes()
    print("whole" if len(data) == 400_000 and len(set(data)) == 1 else "torn", end=" ")
"""


def kill_twenty_writers(folder: Path, how: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", KILLS, str(folder), how], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_file_is_whole_after_each_of_twenty_kills(tmp_path: Path) -> None:
    assert kill_twenty_writers(tmp_path, "write") == ["whole"] * 20
    strays = [path.name for path in (tmp_path / "results").iterdir() if path.name != "cell.json"]
    assert all(name.startswith(TEMPORARY) for name in strays)
    assert [path.name for path in (tmp_path / "results").glob("*.json")] == ["cell.json"]  # what readers of a run list


def test_the_kills_do_tear_a_file_that_is_written_carelessly(tmp_path: Path) -> None:
    assert "torn" in kill_twenty_writers(tmp_path, "careless")


def test_write_replaces_makes_parents_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.json"
    write(path, b"old")
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_write_syncs_the_file_before_and_the_folder_after_the_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    sync, swap = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def move(source: str, target: Path) -> None:
        seen.append("replace")
        swap(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", move)
    write(tmp_path / "file", b"data")
    assert seen == ["file", "replace", "folder"]


@pytest.mark.parametrize("call", ["fsync", "replace", "fdopen"])
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space left to write"),
        (errno.EROFS, "cannot be written"),
        (errno.EDQUOT, "[Qq]uota"),
        (errno.EIO, "output"),
    ],
)
def test_a_failing_disk_is_one_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, words: str
) -> None:
    path = tmp_path / "file.json"
    write(path, b"old")

    def full(*arguments: Any) -> None:
        if call == "fdopen":
            os.close(arguments[0])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match=words) as caught:
        write(path, b"new")
    monkeypatch.undo()
    assert "--out" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.json"]


def test_an_interrupt_leaves_the_old_file_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write(path, b"old")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_at_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "file", b"old")

    def full(prefix: str, dir: Path) -> tuple[int, str]:
        return os.open("/dev/full", os.O_WRONLY), str(dir / f"{prefix}x")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(UserError, match=r"^no space left to write .*file; free some, or choose another folder with --out$"):
        write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


@contextmanager
def without_root() -> Iterator[None]:
    """Permissions bind this process for a while, also where tests run as root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_that_cannot_be_written_is_named_before_any_work(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir(mode=0o555)
    with without_root(), pytest.raises(UserError, match=r"cannot be written; choose another folder with --out$") as caught:
        Store(folder).check_writable()
    assert str(tmp_path) in str(caught.value)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("inside", ["", "results", "results/deeper"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path, inside: str) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"out.* is not a folder; choose another one with --out"):
        write(tmp_path / "out" / inside / "file.json", b"new")
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_a_folder_where_a_file_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file.json").mkdir()
    with pytest.raises(UserError, match=r"file\.json cannot be written"):
        write(tmp_path / "file.json", b"new")
    assert os.listdir(tmp_path) == ["file.json"]


def test_checking_a_folder_leaves_nothing_in_it(tmp_path: Path) -> None:
    Store(tmp_path / "new").check_writable()
    assert os.listdir(tmp_path / "new") == []


# -------------------------------------------------------------------------------- results and predictions


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(RESULT)
    assert store.read(RUN.key) == RESULT
    assert result_from_json(json.loads(json.dumps(plain(RESULT)))) == RESULT
    failed = replace(RESULT, status="failed", pretraining=None, error="ValueError: ü\n\ntraceback", metrics={})
    store.save(failed)
    assert store.read(RUN.key) == failed


def test_a_name_of_odd_bytes_can_be_written(tmp_path: Path) -> None:
    odd = os.fsdecode(b"r\xf6ntgen.png")
    store = Store(tmp_path)
    store.save(replace(RESULT, error=f"image {odd}", skipped=((odd, "reason"),)))
    found = store.read(RUN.key)
    assert found is not None
    assert found.skipped == ((odd, "reason"),)


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64("nan"), np.float32("-inf")])
def test_a_value_that_is_not_a_number_is_refused(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "file.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"a": {"b": [value]}})
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": 1}


def finished_store(folder: Path) -> Store:
    store = Store(folder)
    store.save(replace(RESULT, predictions=store.save_predictions(RUN.key, PREDICTIONS)))
    return store


def test_a_finished_cell_is_found(tmp_path: Path) -> None:
    found = finished_store(tmp_path).finished(RUN.key)
    assert found is not None
    assert found.metrics == RESULT.metrics


def test_a_cell_whose_predictions_changed_by_one_byte_is_not_finished(tmp_path: Path) -> None:
    store = finished_store(tmp_path)
    path = store.predictions_path(RUN.key)
    data = path.read_bytes()
    for place in (0, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert store.finished(RUN.key) is None
    path.write_bytes(data)
    assert store.finished(RUN.key) is not None
    path.unlink()
    assert store.finished(RUN.key) is None


@pytest.mark.parametrize("status", ["failed", "unsupported", "unavailable"])
def test_a_cell_that_is_not_ok_runs_again(tmp_path: Path, status: Any) -> None:
    store = finished_store(tmp_path)
    found = store.finished(RUN.key)
    assert found is not None
    store.save(replace(found, status=status))
    assert store.finished(RUN.key) is None


def test_a_result_under_another_cells_name_is_not_finished(tmp_path: Path) -> None:
    store, other = finished_store(tmp_path), replace(RUN, seed=1)
    for path in (store.result_path, store.predictions_path):
        write(path(other.key), path(RUN.key).read_bytes())
    assert store.finished(other.key) is None
    edited = store.result_path(RUN.key).read_text().replace('"eval_seed": 0', '"eval_seed": 1')
    store.result_path(RUN.key).write_text(edited)
    assert store.finished(RUN.key) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"spec": null}', "\xff", '{"key": 1}'])
def test_a_damaged_result_is_as_if_it_were_not_there(tmp_path: Path, text: str) -> None:
    store = finished_store(tmp_path)
    store.result_path(RUN.key).write_bytes(text.encode("latin-1"))
    assert store.read(RUN.key) is None
    assert store.finished(RUN.key) is None


@pytest.mark.parametrize("name", ["spec", "metrics", "cost", "skipped", "flags", "pretraining", "key"])
@pytest.mark.parametrize("value", [3, "text", [1], {"a": 1}])
def test_a_result_of_another_layout_never_stops_a_run(tmp_path: Path, name: str, value: Any) -> None:
    store = finished_store(tmp_path)
    changed = json.loads(store.result_path(RUN.key).read_text()) | {name: value}
    store.result_path(RUN.key).write_text(json.dumps(changed))
    store.finished(RUN.key)  # raises nothing
    del changed[name]
    store.result_path(RUN.key).write_text(json.dumps(changed))
    assert store.read(RUN.key) is None


def same(first: Predictions, second: Predictions) -> bool:
    if first.arrays.keys() != second.arrays.keys() or (first.names, first.skipped) != (second.names, second.skipped):
        return False
    pairs = [(first.uids, second.uids), (first.patients, second.patients)]
    pairs += [(first.arrays[name], second.arrays[name]) for name in first.arrays]
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() and a.shape == b.shape for a, b in pairs)


def test_predictions_come_back_and_give_the_same_bytes_each_time(tmp_path: Path) -> None:
    data = predictions_to_bytes(PREDICTIONS)
    backwards = replace(PREDICTIONS, arrays=dict(reversed(list(PREDICTIONS.arrays.items()))))
    assert predictions_to_bytes(backwards) == data
    write(tmp_path / "p.npz", data)
    found = read_predictions(tmp_path / "p.npz")
    assert same(found, PREDICTIONS)
    assert predictions_to_bytes(found) == data


def test_predictions_without_rows_names_or_skipped_come_back(tmp_path: Path) -> None:
    empty = Predictions(np.array([], str), np.array([], str), {"x": np.zeros((0, 2))}, {"classes": ()})
    write(tmp_path / "p.npz", predictions_to_bytes(empty))
    found = read_predictions(tmp_path / "p.npz")
    assert (len(found.uids), found.arrays["x"].shape, found.names, found.skipped) == (0, (0, 2), {"classes": ()}, ())


def test_predictions_never_hold_pickled_objects() -> None:
    with pytest.raises(ValueError, match="'array/x'"):
        predictions_to_bytes(replace(PREDICTIONS, arrays={"x": np.array([{}, [], None], object)}))


def test_damaged_predictions_are_refused_or_read_right(tmp_path: Path) -> None:
    data, path = predictions_to_bytes(PREDICTIONS), tmp_path / "p.npz"
    damaged = [data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :] for place in range(0, len(data), 3)]
    reasons: list[str] = []
    for changed in [*damaged, *(data[:place] for place in range(0, len(data), 20)), b"", b"PK", b"\x93NUMPY", b"{}"]:
        path.write_bytes(changed)
        try:
            assert same(read_predictions(path), PREDICTIONS)  # a date in the archive, say
        except UserError as error:
            reasons.append(str(error))
    assert len(reasons) > len(damaged) / 2
    assert set(reasons) == {f"{path} is not a readable file of predictions; delete it and run the cell again"}


def test_predictions_that_are_another_kind_of_file_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.arange(3))
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    np.savez(tmp_path / "objects.npz", uids=np.array([{}], object), patients=np.array(["p"]), skipped=np.zeros((0, 2), str))
    for name in ("array.npy", "other.npz", "objects.npz", "absent.npz", "."):
        with pytest.raises(UserError, match="not a readable file of predictions"):
            read_predictions(tmp_path / name)
