"""What a command line asks for, typed; and `--set key=value`: overrides of a method's configuration and recipe."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.registry import unknown
from benchmark.types import Recipe

Setting = tuple[str, str, str]  # (method or "" for all, key, text of the value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The command line of `run`, typed. Names may be ("all",)."""

    methods: tuple[str, ...]
    tasks: tuple[str, ...] = ("all",)
    protocols: tuple[str, ...] = ()  # names; empty: what each family runs at the preset
    data: tuple[str, ...] = ("phantom",)
    vocabulary: str = ""  # a file, a folder or hub:NAME; "": learned from the training reports
    pretrain_data: str = ""  # "": every data set is scored with methods pretrained on its own training rows
    data_root: Path | None = None
    where: tuple[tuple[str, str], ...] = ()
    split: str = ""  # a rule or a file; empty: as each source splits
    label_policy: str = ""  # empty: what reports leave open stays unknown
    preset: str = "quick"
    checkpoint: Path | None = None
    seeds: tuple[int, ...] = (0,)
    eval_seeds: tuple[int, ...] = (0,)
    labels: tuple[float, ...] = ()  # empty: what each protocol says
    precision: str = "fp32"
    device: str = "auto"
    batch_size: int = 64
    workers: int = 0
    draws: int = 1000
    out: Path = Path("runs")
    cache: Path | None = None
    settings: tuple[Setting, ...] = ()
    progress: bool = True
    track: tuple[str, ...] = ()  # live trackers of a pretraining
    fsdp: bool = False  # a pretraining spreads blocks over its processes
    command: str = ""
    only: tuple[str, ...] = ()  # keys of cells, or of pretrainings without their cells; empty: everything


def parse_settings(texts: Sequence[str]) -> tuple[Setting, ...]:
    """("steps=10", "mcr.stream=dual") -> (("", "steps", "10"), ("mcr", "stream", "dual")). Raises UserError."""
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set {text!r} is not of the form key=value or method.key=value")
        method, _, key = name.strip().rpartition(".")
        found.append((method, key, value.strip()))
    return tuple(found)


def parse_value(text: str, kind: Any, key: str) -> Any:
    """A text as bool, int, float, str or one of the values of a Literal. Raises UserError naming the key."""
    if typing.get_origin(kind) is typing.Literal:
        allowed = typing.get_args(kind)
        if text not in map(str, allowed):
            raise UserError(f"--set {key}={text}: use one of {', '.join(map(str, allowed))}")
        return next(value for value in allowed if str(value) == text)
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise UserError(f"--set {key}={text}: use true or false")
        return text.lower() in ("true", "1")
    try:
        value = kind(text)
    except (TypeError, ValueError) as error:
        raise UserError(f"--set {key}={text}: expected {getattr(kind, '__name__', kind)}") from error
    if isinstance(value, float) and not isfinite(value):
        raise UserError(f"--set {key}={text}: expected a finite number")
    return value


def override(config: Any, recipe: Recipe, settings: Sequence[Setting], method: str) -> tuple[Any, Recipe, frozenset[str]]:
    """The configuration and recipe of a method with the settings that it knows, and their keys.

    Raises:
        UserError: a setting addressed to this method by name that it does not know, or a value of another type.
    """
    changed: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for owner, key, text in settings:
        if owner not in ("", method):
            continue
        place = next((place for place, item in enumerate((config, recipe)) if key in _keys(item)), None)
        if place is not None:
            kind = typing.get_type_hints(type((config, recipe)[place]))[key]
            changed[place][key] = parse_value(text, kind, key)
        elif owner:
            raise unknown(f"setting of {method}", key, [*_keys(config), *_keys(recipe)])
    # all at once: a configuration is checked as a whole, whatever the order of its settings
    return replace(config, **changed[0]), replace(recipe, **changed[1]), frozenset({*changed[0], *changed[1]})


def require_used(settings: Sequence[Setting], used: frozenset[str], known: Sequence[str], methods: Sequence[str] = ()) -> None:
    """Raises UserError for a setting that no chosen method took, or that is for a method not among `methods`, where given."""
    for owner, key, text in settings:
        if owner and methods and owner not in methods:
            raise UserError(f"--set {owner}.{key}={text}: {owner!r} is not among the chosen methods {', '.join(methods)}")
        if key not in used:
            raise unknown("setting", f"{owner}.{key}" if owner else key, sorted(known))


def setting_names(config: Any, recipe: Recipe) -> tuple[str, ...]:
    """What `--set` can change."""
    return (*_keys(config), *_keys(recipe))


def _keys(value: Any) -> tuple[str, ...]:
    return tuple(item.name for item in fields(value))
