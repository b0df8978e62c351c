"""A run as several processes: who does what, in which order, what is left when one dies, and the same files in the end."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark import __version__
from benchmark.cli.arguments import run_options
from benchmark.cli.launching import words_of
from benchmark.cli.run import add_arguments
from benchmark.errors import UserError
from benchmark.launch import local, slurm
from benchmark.launch.jobs import Job, chosen_keys, jobs_of
from benchmark.launch.slurm import Work
from benchmark.runner import Runner
from benchmark.store import alone
from methods import METHODS
from tasks import TASKS
from tests.conftest import TINY, TRAINED, Command

DONE = ("--version",)  # commands that take no time
REFUSED = ("nothing",)  # status 2


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(list(words))


@pytest.fixture
def runner(command: Command) -> Runner:
    """Two methods of which one is pretrained, two seeds, two data sets that share the pretraining."""
    words = ["--method", "random,clip", "--task", "retrieval", "--data", "toy,toy:20", "--pretrain-data", "toy"]
    settings = [part for setting in (*TINY, *TRAINED) for part in ("--set", setting)]
    fixed = ("--out", str(command.out), "--draws", "0", "--workers", "0", "--no-progress")
    return Runner(run_options(parsed(*words, *settings, *fixed)), METHODS, TASKS, report=lambda result: None)


# ------------------------------------------------------------------------------------------- who does what


def test_a_pretraining_is_one_job_and_everything_that_needs_it_comes_after(runner: Runner) -> None:
    planned = runner.plan()
    for by_cell in (False, True):
        jobs = jobs_of(planned, runner.store, by_cell)
        first, rest = jobs[0], jobs[1:]
        assert [job.pretrains for job in jobs] == [True] + [False] * len(rest)
        waiting = [job for job in rest if job.after]
        assert {job.after for job in waiting} == set(first.keys)
        assert {cell.spec.method for job in waiting for cell in job.cells} == {"clip"}
        assert {cell.spec.key for job in waiting for cell in job.cells} == {cell.spec.key for cell in first.cells}
        cells = [cell for _, found in planned for cell in found]
        assert sorted(key for job in rest for key in job.keys) == sorted(cell.spec.key for cell in cells)
        assert len(rest) == (len(cells) if by_cell else 4)  # two methods on two data sets
        assert len({job.name for job in jobs}) == len(jobs)  # each has its own log


def test_only_names_cells_or_pretrainings(runner: Runner) -> None:
    cells = [cell for _, found in runner.plan() for cell in found]
    trained = [cell for cell in cells if cell.spec.method == "clip"]
    assert chosen_keys((), cells) == {cell.spec.key for cell in cells}
    assert chosen_keys((cells[0].spec.key,), cells) == {cells[0].spec.key}
    assert chosen_keys((trained[0].entrant.pretraining.key,), cells) == {cell.spec.key for cell in trained}  # type: ignore[union-attr]
    with pytest.raises(UserError, match="--only ffff is the key of no cell"):
        chosen_keys(("ffff",), cells)


def test_only_a_pretraining_runs_no_cell_and_only_a_cell_no_other(command: Command) -> None:
    settings = (*TINY, *TRAINED)
    assert command.run("clip", "retrieval", "--only", "0123", settings=settings) == 2
    command.refused("--only 0123")
    assert command.run("clip", "retrieval", "--dry-run", settings=settings) == 0
    key = next(line.split()[-3] for line in command.output.splitlines() if line.endswith(" to run"))
    assert command.run("clip", "retrieval", "--only", key, settings=settings) == 0
    assert [result.key for result in command.results()] == [key]
    assert not (command.out / "leaderboard.md").exists()


def test_only_a_pretraining_leaves_weights_or_the_failure_of_all_that_need_them(command: Command) -> None:
    settings = (*TINY, *TRAINED)
    assert command.run("clip", "retrieval", "--dry-run", settings=settings) == 0
    key = next(line.split()[5] for line in command.output.splitlines() if line.endswith(" to run"))
    assert command.run("clip", "retrieval", "--only", key, settings=(*settings, "learning_rate=1e30")) == 2
    command.refused(f"--only {key}")  # another recipe is another pretraining
    assert command.run("clip", "retrieval", "--only", key, settings=settings) == 0
    assert (command.out / "pretrained" / key / "record.json").is_file()
    assert command.results() == []
    settings = (*settings, "learning_rate=1e30")
    assert command.run("clip", "retrieval", "--dry-run", settings=settings) == 0
    key = next(line.split()[5] for line in command.output.splitlines() if line.endswith(" to run"))
    assert command.run("clip", "retrieval", "--only", key, settings=settings) == 1
    assert {result.status for result in command.results()} == {"failed"}
    assert len(command.results()) == 2  # cells that other processes need not try


def test_the_words_of_a_job_ask_for_the_same_plan() -> None:
    given = ["--method", "mcr,clip", "--set", "steps=3", "--set", "mcr.stream=dual", "--seed", "0,1", "--where", "a=b"]
    arguments = parsed(*given, "--launcher", "slurm", "--slurm", "partition=x", "--jobs", "3", "--no-progress", "--draws", "7")
    words = words_of(arguments)
    assert words[:2] == ["run", "--no-progress"]
    again = vars(parsed(*words[1:]))
    own = ("launcher", "slurm", "jobs")
    assert {name: value for name, value in again.items() if name not in own} == {
        name: value for name, value in vars(arguments).items() if name not in own
    }
    assert (again["launcher"], again["slurm"], again["jobs"]) == ("", [], 0)


# --------------------------------------------------------------------------------------- one at a time


def test_two_processes_never_do_the_same_pretraining(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, events = tmp_path / "pretrained" / "key", []

    def second() -> None:
        with alone(folder):
            events.append("second")

    with alone(folder):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.3)
        events.append("first")
    other.join(10)
    assert events == ["first", "second"]
    assert "waiting for another process" in capsys.readouterr().err


def test_processes_of_one_launch_count_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pretrained" / "key"
    with alone(folder):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(UserError, match="another process is at work"), alone(folder):
            pytest.fail("two launches at once")
        monkeypatch.setenv("RANK", "1")
        with alone(folder):
            pass


# ------------------------------------------------------------------------------------------- on one machine


def job(name: str, after: str = "", pretrains: bool = False) -> Job:
    return Job(name=name, keys=(name,), cells=(), after=after, pretrains=pretrains)


def test_a_failed_job_stops_only_those_that_need_it(tmp_path: Path) -> None:
    ended: list[tuple[str, int]] = []
    jobs = (job("p", pretrains=True), job("q", pretrains=True), job("a", "p"), job("b", "q"), job("c"))
    words = {"p": REFUSED, "q": DONE, "a": DONE, "b": DONE, "c": REFUSED}
    places = local.slots(2, ())
    local.run_queue(
        jobs, places, lambda item: words[item.name], tmp_path, lambda item, status: ended.append((item.name, status))
    )
    assert dict(ended) == {"p": 2, "q": 0, "a": 2, "b": 0, "c": 2}
    order = [name for name, _ in ended]
    assert order.index("q") < order.index("b")
    assert not (tmp_path / "a.log").exists()
    assert "invalid choice" in (tmp_path / "c.log").read_text()
    assert (tmp_path / "b.log").read_text().strip() == __version__


def test_each_process_has_its_gpu_or_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local.slots(0, ("3", "5")) == ({"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"})
    assert [place["CUDA_VISIBLE_DEVICES"] for place in local.slots(3, ("3", "5"))] == ["3", "5", "3"]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert local.slots(2, ()) == ({"OMP_NUM_THREADS": "4"}, {"OMP_NUM_THREADS": "4"})
    assert len(local.slots(0, ())) == 1


def test_no_process_outlives_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def sleeper(*rest: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return started[-1]

    monkeypatch.setattr(local, "_start", sleeper)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        local.run_queue((job("a"),), local.slots(1, ()), lambda item: DONE, tmp_path, lambda item, status: None)
    assert started[0].returncode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_process_that_dies_is_a_failed_cell_and_the_run_ends_with_status_1(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(words: Any, log: Path, added: Any) -> subprocess.Popen[bytes]:
        log.touch()
        return subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])

    monkeypatch.setattr(local, "_start", dying)
    assert command.run("random,clip", "retrieval", "--launcher", "local", settings=(*TINY, *TRAINED)) == 1
    results = command.results()
    assert {result.status for result in results} == {"failed"}
    for result in results:
        assert "was killed by SIGKILL" in (result.error or "")
        log = "logs/random-0-toy" if result.spec.method == "random" else f"logs/pretrain-clip-0-{result.spec.weights[:8]}"
        assert log in (result.error or "")


def test_the_local_launcher_leaves_the_files_of_a_run(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--labels", "1", "--set", "steps=2", "--set", "batch_size=8")
    data = "phantom:train=40,size=32"
    assert command.run("clip,biomedclip", "retrieval", *words, "--launcher", "local", "--jobs", "2", data=data) == 1
    assert "unavailable" in command.output
    found = {result.key: result for result in command.results()}
    whole = Command(command.out.parent / "whole", command.capture)
    assert whole.run("clip,biomedclip", "retrieval", *words, data=data) == 1
    expected = {result.key: result for result in whole.results()}
    assert {key: (item.status, item.metrics, item.predictions) for key, item in found.items()} == {
        key: (item.status, item.metrics, item.predictions) for key, item in expected.items()
    }
    assert len(whole.results("reference")) == len(command.results("reference")) > 0
    boards = [(item.out / "leaderboard.csv").read_text().splitlines() for item in (command, whole)]
    assert len(boards[0]) == len(boards[1]) > 4


# ------------------------------------------------------------------------------------------------- SLURM


def test_settings_of_slurm_are_read_as_sbatch_reads_them() -> None:
    given = ("partition=gpu", "time=1:30:00", "gpus-per-node=2", "--mem_gb=64", "reservation=chest", "array-parallelism=4")
    cluster, found = slurm.parameters(given)
    assert cluster == "slurm"
    assert found == {
        "name": "benchmark", "slurm_partition": "gpu", "timeout_min": 90, "gpus_per_node": 2, "mem_gb": 64.0,
        "slurm_array_parallelism": 4, "slurm_max_num_timeout": 1000, "slurm_additional_parameters": {"reservation": "chest"},
    }  # fmt: skip
    assert slurm.parameters(("max-num-timeout=7",))[1]["slurm_max_num_timeout"] == 7
    times = {"90": 90, "90:01": 91, "1:00:00": 60, "1-12": 2160, "1-12:30:00": 2190}
    assert {text: slurm.parameters((f"time={text}",))[1]["timeout_min"] for text in times} == times


@pytest.mark.parametrize("text", ["partition", "=gpu", "time=soon", "time=0", "gpus-per-node=all", "cluster=pbs"])
def test_settings_that_slurm_cannot_have_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--slurm"):
        slurm.parameters((text,))


def test_without_submitit_or_slurm_one_sentence_says_so(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert command.run("random", "retrieval", "--launcher", "slurm") == 2
    command.refused("no SLURM here", "--launcher local")
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert command.run("random", "retrieval", "--launcher", "slurm") == 2
    command.refused("needs submitit", "[slurm]")


def fake_sbatch(folder: Path) -> Callable[[], list[str]]:
    """An sbatch that keeps the scripts it is given and counts its jobs; returns what reads them."""
    folder.mkdir()
    script = f'#!/bin/sh\nn=$(ls {folder} | wc -l)\ncp "$1" {folder}/script-$n\necho "Submitted batch job $((100 + n))"\n'
    for name in ("sbatch", "srun", "scontrol", "sacct"):
        (folder / name).write_text(script if name == "sbatch" else "#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return lambda: [path.read_text() for path in sorted(folder.glob("script-*"))]


def test_cells_are_an_array_that_waits_for_its_pretraining(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = fake_sbatch(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    words = ("--launcher", "slurm", "--slurm", "partition=gpu", "--slurm", "time=60", "--slurm", "nice=5", "--device", "cuda")
    assert command.run("clip,random", "retrieval", *words, settings=(*TINY, *TRAINED)) == 0, command.error
    found = scripts()
    assert len(found) == 3  # the pretraining, its cells, the cells that need none
    waiting = [text for text in found if "--dependency=afterok:" in text]
    assert len(waiting) == 1
    first = next(text for text in found if text is not waiting[0] and "--array=0-1" not in text)
    number = int(waiting[0].split("--dependency=afterok:")[1].split()[0].split("_")[0])
    assert found.index(first) < found.index(waiting[0])
    assert number in (104, 105, 106)
    assert "--kill-on-invalid-dep=yes" in waiting[0]
    for text in found:
        assert "--partition=gpu" in text
        assert "--nice=5" in text
        assert "--signal=USR2@90" in text  # time to save a state in
        assert "--requeue" in text or "--open-mode=append" in text
    assert "squeue --me" in command.output  # a login node needs no GPU to ask for one
    assert f"report --out {command.out}" in command.output
    assert command.results() == []


def test_a_job_may_run_out_of_time_as_often_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sbatch(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for settings, number in (((), slurm.TIMEOUTS), (("max-num-timeout=7",), 7)):
        executor = slurm._executor(*slurm.parameters(settings)[:1], tmp_path, slurm.parameters(settings)[1])
        assert executor._executor.max_num_timeout == number


def test_work_on_submitits_own_cluster_leaves_results(command: Command) -> None:
    fixed = ("--data", "phantom:train=40,size=32", "--draws", "0", "--workers", "0", "--out", str(command.out))
    arguments = parsed("--method", "random", "--task", "zeroshot", *fixed, "--set", "image_size=32")
    runner = Runner(run_options(arguments), METHODS, TASKS, report=lambda result: None)
    jobs = jobs_of(runner.plan(), runner.store, by_cell=True)
    words = words_of(arguments)
    submitted = slurm.submit(jobs, ("cluster=local",), lambda item: [*words, "--only", *item.keys], command.out / "logs")
    assert [found.result() for _, found in submitted] == [0]
    assert [result.status for result in command.results()] == ["ok"]
    assert runner.store.finished(jobs[0].keys[0]) is not None


def test_work_that_fails_is_a_failed_job() -> None:
    assert Work(DONE)() == 0
    with pytest.raises(subprocess.CalledProcessError):
        Work(REFUSED)()


def test_work_whose_process_left_with_its_state_saved_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    endings, started = ["sys.exit(75)", *(f"os.kill(os.getpid(), {number})" for number in (10, 12, 15)), ""], list[list[str]]()
    real = subprocess.Popen

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        started.append(command)
        return real([sys.executable, "-c", f"import os, sys; {endings[len(started) - 1]}"])

    monkeypatch.setattr(slurm.subprocess, "Popen", start)
    assert Work(DONE)() == 0
    assert len(started) == 5
    assert started[0] == started[4]


def test_work_that_must_leave_saves_its_state_and_is_queued_again() -> None:
    work = Work(DONE)
    work.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process = work.process
    delayed = work.checkpoint()
    assert process.returncode == -signal.SIGTERM
    assert delayed.function == Work(DONE)
