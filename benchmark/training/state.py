"""The state of an unfinished pretraining: weights, optimizer, scaler and a step number; two are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmark import weights
from benchmark.errors import UserError
from benchmark.training.trainer import Trainer

NAMES = ("state.pt", "state-previous.pt")


def save(folder: Path, key: str, trainer: Trainer, step: int, seconds: float) -> None:
    """Writes the state before a step; the one before it is kept. `seconds`: spent so far, for the record."""
    path, previous = (folder / name for name in NAMES)
    if path.exists():
        os.replace(path, previous)
    scaler = trainer.accelerator.scaler
    state = {"key": key, "step": step, "seconds": seconds, "model": trainer.method.state_dict()}
    scaled = {} if scaler is None else dict(scaler.state_dict())
    weights.save_state(path, {**state, "optimizer": trainer.optimizer.state_dict(), "scaler": scaled})


def restore(folder: Path, key: str, trainer: Trainer) -> tuple[int, float]:
    """Puts back the newest state that can be read; its step, and the seconds spent before. (0, 0.0) where there is none.

    Raises:
        UserError: the state belongs to another pretraining.
    """
    for path in (folder / name for name in NAMES):
        if not path.exists():
            continue
        try:
            state: dict[str, Any] = weights.load_state(path)
        except UserError:
            path.unlink()  # or the next save would move it over the one before it, which is good
            continue
        if state["key"] != key:
            raise UserError(f"{path} belongs to another pretraining ({state['key']}); move it away")
        weights.apply(trainer.method, state["model"], str(path))
        trainer.optimizer.load_state_dict(state["optimizer"])
        if trainer.accelerator.scaler is not None and state["scaler"]:
            trainer.accelerator.scaler.load_state_dict(state["scaler"])
        return int(state["step"]), float(state["seconds"])
    return 0, 0.0


def remove(folder: Path) -> None:
    """Deletes the states of a pretraining that is finished."""
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)
