"""convert an old pickled checkpoint to safetensors, running nothing of it

Pickles are programs; `run --checkpoint` reads none that needs more than plain tensors. This command is kept apart.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.convert import Found

EXAMPLES = """examples:
  python -m benchmark convert gloria.ckpt gloria.safetensors
  python -m benchmark run --method gloria --checkpoint gloria.safetensors

why a command of its own:
  An old checkpoint is a pickle, which is a program: Python runs it while it reads it. So `run --checkpoint` takes safetensors
  and torch files of plain tensors, and refuses the rest. Some published files hold more (the settings of their training as
  OmegaConf objects, say). This command reads those without carrying them out: no module that the file names is imported,
  nothing in it is called, and whatever is not a tensor, number, text, list or dict becomes an inert placeholder. It is kept
  apart so that somebody looks at what was kept and left out before it is used, and so that results name a file that
  anybody can check. What a file holds as a whole pickled model, without a dict of tensors, it cannot get at.
"""
MOST_LINES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `convert`."""
    parser.add_argument("old", type=Path, metavar="OLD", help="a file of torch 0.1.10 or later (.pt, .pth, .ckpt, .bin, .tar)")
    parser.add_argument("new", type=Path, metavar="NEW.safetensors", help="the file to write; it must not be there yet")


def main(arguments: argparse.Namespace) -> int:
    """Writes the new file and prints what was kept, what was not, and both sha256."""
    from benchmark import store
    from benchmark.convert import read
    from benchmark.errors import UserError
    from benchmark.weights import file_sha256

    old, new = arguments.old, arguments.new
    if new.suffix != ".safetensors":
        raise UserError(f"{new} does not end in .safetensors; name the new file so")
    if new.exists():
        raise UserError(f"{new} is there already and is not written over; choose another name, or move it away")
    found = read(old)
    try:
        store.write(new, found.to_bytes())
    except UserError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise UserError(f"{new} cannot be written ({reason}); choose another place") from error
    print(f"read     {old}  {_mib(old.stat().st_size)}  sha256 {file_sha256(old)}")
    _report(found)
    print(f"written  {new}  {_mib(new.stat().st_size)}  sha256 {file_sha256(new)}")
    return 0


def _report(found: Found) -> None:
    """What was kept by the beginning of its names, what was left out, and the placeholders."""
    counts, sizes = Counter[str](), Counter[str]()
    for name, tensor in found.state.items():
        group = ".".join(name.split(".")[:2])
        counts[group] += 1
        sizes[group] += tensor.numel() * tensor.element_size()
    where = f" of {found.wrapper!r}" if found.wrapper else ""
    print(f"kept     {len(found.state)} tensors{where}, {_mib(sizes.total())}:")
    _lines([f"{_mib(sizes[group])} in {counts[group]} of {group!a}" for group in counts])
    if found.left_out:
        print(f"left out {len(found.left_out)} entries that are no tensors by name:")
        _lines(found.left_out)
    if found.placeholders:
        print(f"the file names {len(found.placeholders)} classes or functions; none was imported or called:")
        _lines([ascii(name)[1:-1] for name in found.placeholders])


def _lines(lines: Sequence[str]) -> None:
    for line in lines[:MOST_LINES]:
        print(f"         {line}")
    if len(lines) > MOST_LINES:
        print(f"         and {len(lines) - MOST_LINES} more")


def _mib(size: int) -> str:
    return f"{size / 1024**2:.1f} MiB"
