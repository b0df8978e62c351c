"""Arguments that several commands share, and their way into RunOptions."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.options import RunOptions

T = TypeVar("T")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides a pretraining: method, data, size, seeds, device and folders."""
    parser.add_argument("--method", required=True, metavar="NAME[,NAME]", help="methods, or all; see `list methods`")
    parser.add_argument("--data", default="phantom", metavar="NAME[,NAME]", help="phantom, csv:DIR, ... (default: phantom)")
    parser.add_argument("--data-root", type=Path, default=None, help="folder of the real sets (default: $BENCHMARK_DATA)")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="keep matching rows; repeatable")
    parser.add_argument("--split", default="", metavar="NAME[:N]|FILE", help="a rule of `list splits`, or a list of images")
    parser.add_argument("--label-policy", default="", metavar="NAME", help="for blank and uncertain; see `list policies`")
    parser.add_argument("--preset", default="quick", choices=("quick", "small", "paper"), help="sizes (default: quick)")
    parser.add_argument("--seed", default="0", metavar="N[,N]", help="of weights and pretraining (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of results (default: runs)")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="[METHOD.]KEY=VALUE",
                        help="change a value of a method's configuration or recipe; repeatable")  # fmt: skip
    parser.add_argument("--vocabulary", default="", metavar="FILE|FOLDER|hub:NAME",
                        help="WordPiece words of drawn text towers (default: learned from training reports)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=64, help="images at once at inference (default: 64)")
    parser.add_argument("--workers", type=int, default=_cores(), help="processes that decode images (default: %(default)s)")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    parser.add_argument("--track", default="", metavar="NAME[,NAME]",
                        help="pretraining live in tensorboard, trackio or wandb (default: log.jsonl alone)")  # fmt: skip


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides an evaluation."""
    parser.add_argument("--task", default="all", metavar="NAME[,NAME]", help="families, or all; see `list tasks`")
    parser.add_argument("--protocol", default="", metavar="NAME[,NAME]", help="these alone, of any size; see `list protocols`")
    parser.add_argument("--checkpoint", type=Path, default=None, help="weights of the one named method; a file or folder")
    parser.add_argument(
        "--pretrain-data",
        default="",
        metavar="NAME",
        help="pretrain on this set, score on --data (default: each on its own rows)",
    )
    parser.add_argument("--eval-seed", default="0", metavar="N[,N]", help="of subsets and heads (default: 0)")
    parser.add_argument("--labels", default="", metavar="F[,F]", help="label fractions (default: the protocol's)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"), help="of evaluation (default: fp32)")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap; 0 = no intervals (default: 1000)")


def _cores() -> int:
    """Cores that this process may use, which on a cluster are fewer than the node has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """The typed request. Raises UserError for a value that cannot be read."""
    from benchmark.options import RunOptions, parse_settings
    from benchmark.tracking import tracker_names

    for name in ("batch_size", "draws", "workers"):
        if getattr(arguments, name, 1) < (1 if name == "batch_size" else 0):
            raise UserError(f"--{name.replace('_', '-')} must not be below {1 if name == 'batch_size' else 0}")
    labels = _numbers(getattr(arguments, "labels", ""), float, "labels")
    if not all(0 < fraction <= 1 for fraction in labels):
        raise UserError(f"--labels {arguments.labels}: fractions lie above 0 and go up to 1, for example 0.01,0.1,1")
    return RunOptions(
        methods=_names(arguments.method, "method"),
        tasks=_names(getattr(arguments, "task", "all"), "task"),
        protocols=_names(arguments.protocol, "protocol") if getattr(arguments, "protocol", "") else (),
        data=data_names(arguments.data),
        data_root=data_root(arguments.data_root),
        vocabulary=arguments.vocabulary.strip(),
        pretrain_data=getattr(arguments, "pretrain_data", "").strip(),
        where=tuple(pair(text) for text in arguments.where),
        split=arguments.split,
        label_policy=arguments.label_policy,
        preset=arguments.preset,
        checkpoint=getattr(arguments, "checkpoint", None),
        seeds=_seeds(arguments.seed, "seed"),
        eval_seeds=_seeds(getattr(arguments, "eval_seed", "0"), "eval-seed"),
        labels=labels,
        precision=getattr(arguments, "precision", "fp32"),
        device=arguments.device,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        draws=getattr(arguments, "draws", 0),
        out=arguments.out,
        settings=parse_settings(arguments.settings),
        progress=not arguments.no_progress,
        track=tracker_names(arguments.track),
        fsdp=getattr(arguments, "fsdp", False) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true",
        only=_names(arguments.only, "only") if getattr(arguments, "only", "") else (),
        command=f"python -m benchmark {shlex.join(sys.argv[1:])}",
    )


def _names(text: str, kind: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise UserError(f"--{kind} names nothing")
    return names


def data_root(given: Path | None) -> Path | None:
    """The folder of the real sets: as given, or $BENCHMARK_DATA. Raises UserError if it is none."""
    root = given or (Path(os.environ["BENCHMARK_DATA"]) if os.environ.get("BENCHMARK_DATA") else None)
    if root is not None and not root.is_dir():
        raise UserError(f"data root {root} is not a folder; set --data-root or BENCHMARK_DATA to where the sets lie")
    return root


def data_names(text: str) -> tuple[str, ...]:
    """Splits at commas; "phantom:train=400,size=64" is one name, whose later pieces are of the form key=value."""
    found: list[str] = []
    for piece in _names(text, "data"):
        if found and "=" in piece and ":" not in piece and ":" in found[-1]:
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return tuple(found)


def _numbers(text: str, kind: Callable[[str], T], name: str) -> tuple[T, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UserError(f"--{name} {text!r}: expected numbers separated by commas") from error


def _seeds(text: str, name: str) -> tuple[int, ...]:
    seeds = tuple(dict.fromkeys(_numbers(text, int, name)))
    if not seeds or min(seeds) < 0:
        raise UserError(f"--{name} {text!r}: give whole numbers from 0 on, separated by commas")
    return seeds


def pair(text: str) -> tuple[str, str]:
    """(column, value) of --where. Raises UserError for another form."""
    column, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--where {text!r} is not of the form column=value")
    return column.strip(), value.strip()
