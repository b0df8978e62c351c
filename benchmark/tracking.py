"""Live trackers of a pretraining, by those of Accelerate, and only when asked for; log.jsonl is the record in any case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.types import Scalar

PROJECT = "cxr-vlp-benchmark"
TRACKERS: dict[str, tuple[str, ...]] = {  # name -> packages of which one must be there
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
Track = Callable[[Mapping[str, Any]], None]


def tracker_names(text: str) -> tuple[str, ...]:
    """ "tensorboard,wandb" -> names. Raises UserError for one that is unknown or not installed. Imports no torch."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--track {name}: use {', '.join(TRACKERS)}")
        if not any(map(find_spec, TRACKERS[name])):
            raise UserError(f"--track {name} needs its package; install it by: pip install {TRACKERS[name][0]}")
    return names


@contextmanager
def tracked(names: Sequence[str], run: str, folder: Path, config: Mapping[str, Any]) -> Iterator[Track]:
    """Opens the trackers of a run; what it gives takes each line of log.jsonl, and the block closes them however it ends.

    Call it where an Accelerator is there already: with several processes the trackers write from the first one.

    Args:
        names: of TRACKERS. run: its name, the same when it goes on after a stop. folder: of local trackers, which write to
            folder/tracking. config: of the run; nested names are joined by dots.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(_opened(name, run, folder / "tracking", flat(config))) for name in names]

        def track(line: Mapping[str, Any]) -> None:
            values = {name: value for name, value in line.items() if isinstance(value, int | float) and name != "step"}
            for tracker in opened:
                tracker.log(values, step=int(line["step"]))

        yield track


@contextmanager
def _opened(name: str, run: str, folder: Path, config: Mapping[str, Scalar]) -> Iterator[Any]:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    # what Accelerate calls run_name is a folder to tensorboard, and the project to the others
    tracker = kind(run, logging_dir=folder) if kind.requires_logging_directory else kind(PROJECT, name=run)
    tracker.start()
    try:
        tracker.store_init_configuration(dict(config))
        yield tracker
    finally:
        tracker.finish()


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, Scalar]:
    """{"recipe": {"steps": 3}} -> {"recipe.steps": 3}; None as text, which trackers cannot have otherwise."""
    found: dict[str, Scalar] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value if isinstance(value, str | int | float) else str(value)
    return found
