"""Measured steps on generated input: the corners of MCR's ablation, the largest batch, and the record that is kept of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.__main__ import main
from benchmark.cli import efficiency, measurement
from benchmark.efficiency.generated import generated_batch, word_tokenizer
from benchmark.efficiency.hardware import EnergyCounter, matmul_tflops, peak_tflops
from benchmark.efficiency.jobs import CORNERS, Job, gpu_programme
from benchmark.efficiency.largest import is_out_of_memory, largest_batch
from benchmark.efficiency.record import Record
from benchmark.efficiency.step import Bench, NotMeasured, Sizes, measure
from benchmark.efficiency.table import printed, ratio_rows
from benchmark.errors import UserError
from benchmark.training import faults
from benchmark.types import Recipe, Step, plain
from methods import METHODS
from tests.conftest import Command

TINY = ["--set", "image_width=16", "--set", "image_heads=2", "--set", "image_depth=1", "--set", "text_width=16",
        "--set", "text_heads=2", "--set", "text_layers=1", "--set", "image_size=32"]  # fmt: skip
QUICKLY = ["--tokens", "12", "--vocabulary", "40", "--steps", "2", "--device", "cpu", "--one-process", *TINY]
SIZES = Sizes(tokens=12, vocabulary=40, steps=1, warm_up=0)
SETTINGS = (("", "image_width", "16"), ("", "image_heads", "2"), ("", "image_depth", "1"), ("", "text_width", "16"),
            ("", "text_heads", "2"), ("", "text_layers", "1"), ("", "image_size", "32"))  # fmt: skip
JOB = Job(method="clip", settings=SETTINGS, batch_size=4, tokens=12, vocabulary=40, steps=2, warm_up=1, device="cpu")


def test_reports_have_the_length_that_is_asked_for() -> None:
    method = METHODS.load("clip")
    config, _ = method.preset("quick")
    built = method.build(config, word_tokenizer(50))
    batch = generated_batch(built, 3, 12, 50, torch.device("cpu"))
    tokens = built.prepare_text(batch.texts)
    assert tuple(tokens.ids.shape) == (3, 12)
    assert bool(tokens.mask.all())
    unknown = built.tokenizer.token_to_id("[UNK]")
    assert not bool((tokens.ids == unknown).any())
    assert tuple(batch.images.shape) == (3, 1, config.image_size, config.image_size)
    assert int(tokens.sentences.max()) == 1  # ten words in sentences of eight
    assert batch.targets["labels"].shape == (3, 14)


def test_corners_are_measured_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "record.json"
    assert main(["efficiency", "--method", "mcr", "--corners", "--batch", "4", "--record", str(record), *QUICKLY]) == 0
    output = capsys.readouterr().out
    assert "stream=dual" in output
    assert "single stream over dual" in output
    stored = json.loads(record.read_text())
    assert [row["settings"] for row in stored["rows"]] == [dict(corner) for corner in CORNERS]
    assert stored["environment"]["torch"]
    for row in stored["rows"]:
        assert row["seconds"] > 0
        unknown = ("peak_allocated_mib", "peak_device_mib", "above_static_mib", "of_peak", "joules_per_1000_images")
        assert [row[name] for name in unknown] == [None] * 5  # no GPU, no figure
        assert row["tflops"] == pytest.approx(6e-3 * row["gmacs"] * 4 / row["seconds"])
        assert row["of_matmul"] == pytest.approx(row["tflops"] / row["matmul_tflops"])
        assert sum(row["phase_seconds"].values()) > 0
        assert set(row["phase_seconds"]) == {"forward", "backward", "optimizer"}
    single, dual = (next(row for row in stored["rows"] if row["settings"]["stream"] == name) for name in ("single", "dual"))
    assert dual["gmacs"] > 1.2 * single["gmacs"]  # a second, unmasked pass
    assert dual["params"] == single["params"]
    assert len(ratio_rows(stored["rows"])) == 4
    assert float(ratio_rows(stored["rows"])[0][3]) == pytest.approx(single["gmacs"] / dual["gmacs"], abs=1e-3)
    page = record.with_suffix(".md").read_text()
    assert "single stream over dual" in page
    assert record.with_suffix(".svg").read_text().count("</svg>") == 1


def test_what_is_measured_is_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["efficiency", "--method", "clip", "--record", str(tmp_path / "record.json"), *QUICKLY]
    assert main([*words, "--batch", "4"]) == 0
    first = json.loads((tmp_path / "record.json").read_text())["rows"]
    assert main([*words, "--batch", "4,6"]) == 0
    rows = json.loads((tmp_path / "record.json").read_text())["rows"]
    assert rows[0] == first[0]
    assert [row["batch_size"] for row in rows] == [4, 6]
    assert "1/2 clip, quick" not in capsys.readouterr().err.splitlines()


def test_figures_of_two_machines_are_never_in_one_record(tmp_path: Path) -> None:
    path, here = tmp_path / "record.json", {"machine": "one", "torch": "2"}
    row = NotMeasured(method="clip", settings={}, batch_size=4, precision="fp32", error="out of memory")
    Record(path, "command", here).add(JOB, row)
    assert len(Record(path, "command", here).rows) == 1
    assert Record(path, "command", here).row(JOB) is None  # what did not fit is tried again
    with pytest.raises(UserError, match="measured with machine one, and this is other"):
        Record(path, "command", {**here, "machine": "other"})
    path.write_text("{}")
    with pytest.raises(UserError, match="is not a record of `efficiency`"):
        Record(path, "command", here)


def test_methods_that_are_not_trained_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["efficiency", "--method", "random", "--one-process"]) == 0
    assert "random is not trained" in capsys.readouterr().out
    assert plain(Recipe())["steps"] == 0


def test_a_method_in_stages_is_measured_in_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    method, config, recipe, _ = measurement.resolve(JOB)
    bench = Bench(method, config, replace(recipe, stages="20:1,30:1,100:0.5"), torch.device("cpu"), SIZES)
    taken: list[Step] = []
    real = bench.method.loss
    monkeypatch.setattr(bench.method, "loss", lambda batch, step: taken.append(step) or real(batch, step))
    bench.step(bench.batch(4), 0)
    assert [step.stage for step in taken] == [3]


def test_pieces_of_a_batch_are_measured_as_they_are_trained() -> None:
    job = replace(JOB, settings=(*SETTINGS, ("", "micro_batch", "2"), ("", "gradient_checkpointing", "true")))
    row = measurement.measured(job)
    assert row["seconds"] > 0
    assert row["phase_seconds"] == {}


@pytest.mark.parametrize(("most", "start"), [(1000, 64), (64, 64), (63, 64), (1, 64), (5, 4), (100, 1)])
def test_the_largest_batch_is_found_within_a_sixteenth(most: int, start: int) -> None:
    found, tries = largest_batch(lambda size: size <= most, start)
    assert most - max(1, most // 16) <= found <= most
    assert found in dict(tries)
    assert all(fitted == (size <= most) for size, fitted in tries)
    assert len({size for size, _ in tries}) == len(tries)  # nothing is tried twice


def test_nothing_that_fits_is_a_batch_of_zero() -> None:
    assert largest_batch(lambda size: False, 8) == (0, ((8, False), (4, False), (2, False), (1, False)))


def test_running_out_of_memory_is_told_from_other_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    for words in ("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "CUDNN_STATUS_ALLOC_FAILED"):
        assert is_out_of_memory(RuntimeError(f"cuDNN error: {words}"))
        assert faults.is_out_of_memory(RuntimeError(f"CUDA error: {words}"))
    assert faults.is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive"))  # only under a limit
    assert not is_out_of_memory(ValueError("out of memory"))


class Greedy(torch.nn.Module):
    """Takes `gib` for each row of a batch, as a method with large activations does."""

    name = "greedy"

    def __init__(self, method: Any, gib: float) -> None:
        super().__init__()
        self.method, self.gib = method, gib
        self.input = method.input

    def loss(self, batch: Any, step: Any) -> Any:
        torch.empty(int(len(batch.uids) * self.gib * 1024**3), dtype=torch.uint8)
        yield from self.method.loss(batch, step)


def test_the_batch_that_a_real_allocation_refuses_does_not_fit() -> None:
    method, config, recipe, _ = measurement.resolve(JOB)
    bench = Bench(method, config, recipe, torch.device("cpu"), Sizes(tokens=12, vocabulary=40, steps=1, warm_up=0))
    assert bench.fits(6)
    bench.trainer.method = Greedy(bench.method, gib=1 << 17)  # 2^47 bytes a row: more than any address space
    assert not bench.fits(4)
    assert measure(Bench(method, config, recipe, torch.device("cpu"), bench.sizes)).batch_size == 4


def test_a_limit_of_the_process_is_where_the_largest_batch_ends() -> None:
    job = replace(JOB, settings=(*SETTINGS[:-1], ("", "image_size", "64")), largest=True, batch_size=256, memory_limit_gib=0.1)
    row = measurement.measured_apart(job)
    sizes = dict(row["tried"])
    assert set(sizes.values()) == {True, False}
    assert sizes[row["batch_size"]]
    assert min(size for size, fitted in sizes.items() if not fitted) > row["batch_size"]
    assert row["peak_host_mib"] > row["host_idle_mib"] > 0
    assert "(largest)" in printed([row])


def test_a_batch_that_fitted_but_for_the_longer_measurement_is_told_as_tried() -> None:
    def measure_at(size: int) -> dict[str, Any]:
        return {"batch_size": size} | ({"error": "out of memory"} if size > 90 else {})

    row = measurement._stepping_down(JOB, (96, ((64, True), (96, True), (128, False))), measure_at)
    assert row["batch_size"] <= 90
    assert {64: True, 96: False, 128: False, row["batch_size"]: True}.items() <= dict(row["tried"]).items()


def die(job: Job) -> Mapping[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def test_a_measurement_that_dies_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "measured", die)
    row = measurement.measured_apart(JOB)
    assert row["error"] == "killed by SIGKILL, as the system does when memory runs out"
    assert "killed by SIGKILL" in printed([row])


def test_weights_that_cannot_be_had_fail_their_row_alone(command: Command) -> None:
    words = ["efficiency", "--method", "clip,mae", "--set", "clip.text_weights=/nowhere", "--batch", "4", *QUICKLY]
    assert command(*words) == 1
    assert "'/nowhere' is not there" in command.output
    assert "mae" in command.output
    assert command.output.count("fp32") == 2


def test_the_programme_of_a_gpu_is_listed_anywhere_and_measured_on_one_only(command: Command) -> None:
    trained = [name for name in METHODS if hasattr(METHODS.load(name), "loss")]
    jobs = gpu_programme(trained)
    assert len({job.key for job in jobs}) == len(jobs) == len(CORNERS) + 2 * len(trained)
    assert {job.preset for job in jobs} == {"paper"}
    for job in jobs:
        measurement.resolve(job)
    assert command("efficiency", "--programme", "gpu", "--dry-run") == 0
    assert f"{len(jobs)} measurements; nothing was measured" in command.output
    if not torch.cuda.is_available():
        assert command("efficiency", "--programme", "gpu") == 2
        command.refused("--device cuda", "no CUDA device")


def test_a_programme_names_its_record_after_the_gpu_and_goes_on_where_it_stopped(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = (JOB, replace(JOB, method="mae"), replace(JOB, batch_size=2, largest=True, memory_limit_gib=0.5))
    monkeypatch.setattr(efficiency, "_programme", lambda: tiny[:2])
    monkeypatch.setattr(measurement, "environment_apart", lambda device: {"gpu": "NVIDIA Toy 1", "torch": "2"})
    monkeypatch.chdir(tmp_path)
    words = ("efficiency", "--programme", "gpu", "--one-process")
    assert command(*words) == 0
    path = tmp_path / "leaderboards" / "measured" / "nvidia-toy-1.json"
    first = json.loads(path.read_text())["rows"]
    assert [row["method"] for row in first] == ["clip", "mae"]
    assert path.with_suffix(".md").read_text().startswith("# Training steps on NVIDIA Toy 1")
    monkeypatch.setattr(efficiency, "_programme", lambda: tiny)
    monkeypatch.setattr(measurement, "measured", lambda job: {**first[0], "batch_size": job.batch_size, "tried": [[2, True]]})
    assert command(*words) == 0
    rows = json.loads(path.read_text())["rows"]
    assert rows[:2] == first  # not measured again
    assert (len(rows), rows[2]["job"]["largest"]) == (3, True)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--batch", "64,x"), "expected numbers"),
        (("--batch", "1"), "a contrastive loss needs 2 rows"),
        (("--steps", "0"), "--steps 0 is too small"),
        (("--memory-limit-gib", "-1"), "--memory-limit-gib -1.0 is too small"),
        (("--device", "cpu", "--largest-batch"), "--memory-limit-gib 4"),
        (("--record", "steps.csv"), "must end in .json"),
        (("--set", "no_such=1"), "no_such"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(words: tuple[str, ...], parts: str, command: Command) -> None:
    assert command("efficiency", "--method", "clip", *words) == 2
    command.refused(parts)


def test_a_slice_of_a_card_and_an_unknown_one_have_no_peak() -> None:
    assert peak_tflops("NVIDIA H100 80GB HBM3", "bf16") == 989.5
    assert peak_tflops("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16") is None
    assert peak_tflops("Tesla T4", "bf16") is None
    assert peak_tflops("cpu", "fp32") is None
    assert matmul_tflops(torch.device("cpu"), "fp32", repeats=1) > 0
    counter = EnergyCounter(torch.device("cpu"))
    counter.start()
    assert counter.stop() is None
