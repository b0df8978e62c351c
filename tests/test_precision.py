"""fp16: on a GPU only, and with an end to steps that the scaler skips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmark.errors import UserError
from benchmark.training.trainer import Trainer
from tests.conftest import Command
from tests.test_pretrain import Setup


def test_fp16_on_a_cpu_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="precision=fp16 needs a GPU; add --set precision=bf16 or --set precision=fp32"):
        Setup(tmp_path, settings=("precision=fp16",)).train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fp16_on_a_cpu_is_a_row_that_was_not_measured(command: Command) -> None:
    words = ("--batch", "4", "--precision", "fp16", "--device", "cpu", "--one-process", "--set", "image_size=32")
    command("efficiency", "--method", "clip", *words)
    assert "precision=fp16 needs a GPU" in command.output + command.error


def test_a_gradient_that_no_scale_makes_finite_ends_the_training(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    trainer = Trainer(setup.method(), setup.recipe, torch.device("cpu"))
    batch, _ = setup.loader().batch(0)
    terms, norm = {"total": torch.tensor(1.0)}, torch.tensor(float("nan"))
    with pytest.raises(UserError, match="gradient norm of mcr is not finite at step 0"):
        trainer._checked(terms, norm, batch, 0)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    trainer._checked(terms, norm, batch, 0)  # the scaler skips the step
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=0.5)
    with pytest.raises(UserError, match="gradient norm of mcr is not finite at step 0"):
        trainer._checked(terms, norm, batch, 0)
