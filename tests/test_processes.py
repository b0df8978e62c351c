"""Two processes at half the batch against one: terms, gradients and statistics; sizes that do not divide; a lost process."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmark import weights
from tests.conftest import TINY
from tests.test_pretrain import weights_of
from tests.two_processes import bytes_held, gradients, gradients_of, together, training

SMALL_PRIOR = ("pool_heads=2", "decoder_heads=2", "channel_dropout=0", "prototypes=16")
STEPS = (0, 3, 7)  # of 8: PRIOR has three stages


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    wrong = {
        name: float((item - found[name]).abs().max())
        for name, item in expected.items()
        if not torch.allclose(found[name].double(), item.double(), atol=tolerance * max(1.0, float(item.abs().max())), rtol=0)
    }
    assert wrong == {}


CASES = {
    f"{name} {' '.join(settings)}".strip(): (name, settings)
    for name, settings in (
        ("mcr", ()), ("mcr", ("stream=dual", "backward=sequential")), ("mcr", ("micro_batch=3",)), ("clip", ()),
        ("clip", ("image_encoder=resnet",)), ("prior", SMALL_PRIOR), ("prior", (*SMALL_PRIOR, "image_encoder=resnet")),
        ("convirt", ()), ("medclip", ()), ("cxr_clip", ()), ("mgca", ()), ("simclr", ()), ("mae", ()), ("mrm", ()),
        ("mrm", ("report_labels=real",)),
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def halves(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """Of each case what two processes find together."""
    return found_by_two(cache, tmp_path_factory.mktemp("halves"), sharded=False)


@pytest.fixture(scope="module")
def spread(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """The same of two processes that hold half of each block."""
    return found_by_two(cache, tmp_path_factory.mktemp("spread"), sharded=True)


def found_by_two(cache: Path, folder: Path, sharded: bool) -> dict[str, dict[str, torch.Tensor]]:
    path = folder / "found.pt"
    assert together(gradients, 2, folder, str(cache), CASES, STEPS, str(path), sharded) == [0, 0]
    found: dict[str, dict[str, torch.Tensor]] = weights.load_state(path)  # type: ignore[assignment]
    return found


@pytest.mark.parametrize("case", CASES)
def test_two_processes_at_half_the_batch_are_one(case: str, halves: dict[str, dict[str, torch.Tensor]], cache: Path) -> None:
    found, expected = halves[case], gradients_of(cache, *CASES[case], STEPS)
    assert_equal(found, expected)


@pytest.mark.parametrize("case", CASES)
def test_processes_that_hold_a_part_of_each_block_are_one_too(
    case: str, halves: dict[str, dict[str, torch.Tensor]], spread: dict[str, dict[str, torch.Tensor]]
) -> None:
    assert_equal(spread[case], halves[case])


# ------------------------------------------------------------------------------------------- stops


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["total"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_what_stopped_in_one_process_or_in_two_goes_on_in_either(cache: Path, tmp_path: Path) -> None:
    """Two processes end by a signal to one of them, and by the death of one; another number goes on from the state."""
    words = (str(cache), str(tmp_path / "run"), ())
    assert together(training, 2, tmp_path, *words, (1, 2, signal.SIGUSR1)) == [75, 75]
    assert "stopped after step 2" in (tmp_path / "meeting-0.txt").read_text()
    assert len(losses(tmp_path / "run")) == 3
    assert together(training, 2, tmp_path, *words, (1, 4, signal.SIGKILL)) == [2, -signal.SIGKILL]
    assert "process 0 of 2 lost another one" in (tmp_path / "meeting-0.txt").read_text()
    assert len(losses(tmp_path / "run")) == 4
    assert together(training, 1, tmp_path, *words) == [0]
    assert together(training, 1, tmp_path, str(cache), str(tmp_path / "whole"), ()) == [0]
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)
    assert json.loads((tmp_path / "run" / "record.json").read_text())["processes"] == 1


def test_a_spread_training_stops_goes_on_and_ends_as_one_that_is_whole(cache: Path, tmp_path: Path) -> None:
    """Killed and stopped with blocks in halves, gone on with in two processes, then in one; weights of another are bitwise."""
    settings = ("average=0.9", "gradient_checkpointing=true", "micro_batch=2", "layer_decay=0.8")
    words = (str(cache), str(tmp_path / "run"), settings)
    assert together(training, 2, tmp_path, *words, (1, 2, signal.SIGKILL), True) == [2, -signal.SIGKILL]
    assert "process 0 of 2 lost another one" in (tmp_path / "meeting-0.txt").read_text()
    assert together(training, 2, tmp_path, *words, (0, 4, signal.SIGUSR1), True) == [75, 75]
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    assert together(training, 1, tmp_path, *words) == [0]
    assert together(training, 2, tmp_path, str(cache), str(tmp_path / "other"), settings, None, True) == [0, 0]
    assert together(training, 2, tmp_path, str(cache), str(tmp_path / "spread"), settings, None, True) == [0, 0]
    assert together(training, 1, tmp_path, str(cache), str(tmp_path / "whole"), settings) == [0]
    assert weights_of(tmp_path / "other") == weights_of(tmp_path / "spread")
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)
    assert losses(tmp_path / "spread") == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)
    assert json.loads((tmp_path / "spread" / "record.json").read_text())["fsdp"] is True


def test_processes_hold_their_share_of_weights_gradients_and_moments_of_blocks(cache: Path, tmp_path: Path) -> None:
    held, all_of_it = tmp_path / "held", tmp_path / "all"
    assert together(bytes_held, 2, tmp_path, str(cache), str(held), True) == [0, 0]
    assert together(bytes_held, 2, tmp_path, str(cache), str(all_of_it), False) == [0, 0]
    blocks, others = json.loads(held.read_text())
    whole, same = json.loads(all_of_it.read_text())
    assert 0.5 <= blocks / whole < 0.52
    assert others == same


@pytest.mark.slow
def test_two_processes_killed_at_any_step_go_on_bit_for_bit(cache: Path, tmp_path: Path) -> None:
    assert together(training, 2, tmp_path, str(cache), str(tmp_path / "whole"), ()) == [0, 0]
    for step in range(1, 8):
        words = (str(cache), str(tmp_path / str(step)), ())
        assert together(training, 2, tmp_path, *words, (step % 2, step, signal.SIGKILL))[step % 2] == -signal.SIGKILL
        assert together(training, 2, tmp_path, *words) == [0, 0]
        assert weights_of(tmp_path / str(step)) == weights_of(tmp_path / "whole"), step
        assert losses(tmp_path / str(step)) == losses(tmp_path / "whole")


def test_a_number_of_processes_that_does_not_divide_the_batch_is_refused(cache: Path, tmp_path: Path) -> None:
    words = (str(cache), str(tmp_path / "run"), ("batch_size=7",))
    assert together(training, 2, tmp_path, *words) == [2, 2]
    assert (
        "2 processes do not divide the batch of 7 rows; give another --set batch_size"
        in (tmp_path / "meeting-1.txt").read_text()
    )


LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--nproc-per-node", "2"),
    "accelerate": ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    "accelerate with FSDP": ("accelerate.commands.launch", "--use_fsdp", "--num_processes", "2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_command_under_a_launcher_trains_once_and_prints_once(launcher: str, tmp_path: Path) -> None:
    sets = [part for setting in (*TINY, "steps=3", "batch_size=8") for part in ("--set", setting)]
    words = ["pretrain", "--method", "mcr", "--data", "phantom:train=24,val=8,test=8,size=64", "--device", "cpu"]
    words = ["-m", *LAUNCHERS[launcher], "-m", "benchmark", *words, "--out", str(tmp_path), *sets]
    root = Path(__file__).resolve().parent.parent
    for _ in range(2):  # the second finds it finished
        done = subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 2, done.stdout
    (record,) = tmp_path.glob("pretrained/*/record.json")
    found = json.loads(record.read_text())
    assert (found["processes"], found["fsdp"]) == (2, "FSDP" in launcher)
