"""Measured steps on generated input: the corners of MCR's ablation, and the record that is kept of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmark.__main__ import main
from benchmark.efficiency import CORNERS, generated_batch, word_tokenizer
from benchmark.types import Recipe, plain
from methods import METHODS

TINY = ["--set", "image_width=16", "--set", "image_heads=2", "--set", "image_depth=1", "--set", "text_width=16",
        "--set", "text_heads=2", "--set", "text_layers=1", "--set", "image_size=32"]  # fmt: skip


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
    arguments = ["efficiency", "--method", "mcr", "--corners", "--batch", "4", "--tokens", "12", "--vocabulary", "40"]
    assert main([*arguments, "--steps", "2", "--device", "cpu", "--record", str(record), *TINY]) == 0
    assert "stream=dual" in capsys.readouterr().out
    stored = json.loads(record.read_text())
    assert [row["settings"] for row in stored["rows"]] == [dict(corner) for corner in CORNERS]
    assert stored["environment"]["torch"]
    for row in stored["rows"]:
        assert row["seconds"] > 0
        assert (row["peak_allocated_mib"], row["peak_device_mib"], row["above_static_mib"]) == (None, None, None)
    single, dual = (next(row for row in stored["rows"] if row["settings"]["stream"] == name) for name in ("single", "dual"))
    assert dual["gmacs"] > 1.2 * single["gmacs"]  # a second, unmasked pass
    assert dual["params"] == single["params"]


def test_methods_that_are_not_trained_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["efficiency", "--method", "random"]) == 0
    assert "random is not trained" in capsys.readouterr().out
    assert plain(Recipe())["steps"] == 0


def test_a_method_in_stages_is_measured_in_its_last() -> None:
    from benchmark.efficiency import _late

    assert _late(Recipe(steps=12, stages="20:1,30:1,100:0.5"), 0).stage == 3
    assert _late(Recipe(), 0).stage == 1
