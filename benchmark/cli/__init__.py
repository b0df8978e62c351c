"""One module a command: a docstring whose first line is the help, add_arguments(parser), main(arguments) -> exit status."""

from __future__ import annotations

from importlib import import_module
from typing import Any

COMMANDS = {
    "run": "run",
    "pretrain": "pretrain",
    "report": "report",
    "compare": "compare",
    "leaderboard": "leaderboard",
    "efficiency": "efficiency",
    "list": "listing",
    "verify": "verify",
    "show": "show",
    "check-method": "check_method",
    "convert": "convert",
    "doctor": "doctor",
}


def load(name: str) -> Any:
    """The module of a command."""
    return import_module(f"benchmark.cli.{COMMANDS[name]}")
