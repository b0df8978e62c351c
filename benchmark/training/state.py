"""The state of an unfinished pretraining: weights, optimizer, scaler, average and a step number; two are kept.

Nothing in it depends on how many processes wrote it, so that any number goes on from it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmark import collectives, weights
from benchmark.errors import UserError
from benchmark.training import faults, shards
from benchmark.training.optimizers import load_moments, moments_of
from benchmark.training.trainer import Trainer

NAMES = ("state.pt", "state-previous.pt")
GOOD, BAD = b"+", b"-"


def save(folder: Path, key: str, trainer: Trainer, step: int, seconds: float) -> None:
    """Writes the state before a step, from process 0; the one before it is kept. `seconds`: spent so far, for the record.

    Where the method is spread over processes, all of them call it.
    """
    if collectives.rank() > 0 and not trainer.sharded:
        return
    scaler, average = trainer.accelerator.scaler, trainer.average
    state: dict[str, Any] = {"key": key, "step": step, "seconds": seconds, "model": shards.whole_state(trainer.method)}
    state |= {"moments": moments_of(trainer.optimizer, trainer.method)}
    state |= {"scaler": {} if scaler is None else dict(scaler.state_dict())}
    state |= {} if average is None else {"average": {name: shards.whole(item) for name, item in average.values.items()}}
    if collectives.rank() > 0:
        return
    path, previous = (folder / name for name in NAMES)
    if path.exists():
        os.replace(path, previous)
    weights.save_state(path, state)


def restore(folder: Path, key: str, trainer: Trainer) -> tuple[int, float]:
    """Puts back the newest state that can be read; its step, and the seconds spent before. (0, 0.0) where there is none.

    Process 0 reads it and sends it to the others, whose disk may be another.

    Raises:
        UserError: the state belongs to another pretraining, or cannot be read for now: the disk or memory fails. One that is
            damaged is renamed to NAME.damaged, and the one before it is used.
    """
    found = collectives.share_bytes(_newest(folder, key) if collectives.rank() == 0 else b"", trainer.device)
    if not found:
        return 0, 0.0
    if found[:1] == BAD:
        raise UserError(found[1:].decode())
    state: dict[str, Any] = weights.read_state(found[1:], str(folder))
    weights.apply(trainer.method, shards.placed_state(trainer.method, state["model"]), str(folder))
    load_moments(trainer.optimizer, trainer.method, state["moments"])
    if trainer.accelerator.scaler is not None and state["scaler"]:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    if trainer.average is not None:
        trainer.average.load(state["average"])
    return int(state["step"]), float(state["seconds"])


def _newest(folder: Path, key: str) -> bytes:
    """GOOD and the bytes of the newest state that can be read, BAD and a message, or nothing."""
    for path in (folder / name for name in NAMES):
        if not path.exists():
            continue
        try:
            data = path.read_bytes()
            state = weights.read_state(data, str(path))
        except OSError as error:
            return BAD + f"{path} cannot be read now ({error.strerror or error}); see to the disk, then start again".encode()
        except (UserError, MemoryError) as error:
            if faults.is_out_of_memory(error.__cause__ or error):
                return BAD + f"{path} does not fit into memory beside what is there; free some, then start again".encode()
            os.replace(path, path.with_name(f"{path.name}.damaged"))  # or the next save would move it over the good one
            continue
        if state["key"] != key:
            return BAD + f"{path} belongs to another pretraining ({state['key']}); move it away".encode()
        if "moments" not in state:
            return BAD + f"{path} was written by an earlier version and cannot be gone on from; move it away".encode()
        return GOOD + data
    return b""


def remove(folder: Path) -> None:
    """Deletes the states of a pretraining that is finished."""
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)
