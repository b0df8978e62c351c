"""Opens a data set under the split and the label policy that a command line asks for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmark.data.sources import SOURCES, SourceOptions
from benchmark.data.split_rules import LIST, Choice, choose
from benchmark.data.splits import resplit
from benchmark.errors import UserError
from benchmark.types import Source


def open_source(text: str, options: SourceOptions, split: str = "", policy: str = "") -> Source:
    """The source of one `--data` value.

    What a user must know of the split goes to standard error, and by `Dataset.notes` into every result.

    Args:
        text: NAME or NAME:LOCATION.
        options: for the source.
        split: a rule or a file, as `split_rules.choose` takes it; empty: as the source splits.
        policy: of labels that are blank or uncertain; empty: they stay unknown.

    Raises:
        UserError: one sentence naming the set, the rule, the list or the policy and the way out.
    """
    name, _, location = text.partition(":")
    choice = choose(name, split) if split else None
    source = SOURCES.load(name)(location, options)
    if choice is not None:  # drawn on the whole set, so that --where moves no image to another split
        whole = SOURCES.load(name)(location, replace(options, where=())) if options.where else source
        drawn = choice.draw(whole)
        for note in drawn.notes:
            print(f"note: {source.name}, --split {split}: {note}", file=sys.stderr)
    if policy:
        source = _with_policy(source, policy)
    return source if choice is None else resplit(source, drawn, choice.name)


def check_split(texts: Sequence[str], split: str) -> None:
    """Raises UserError, before anything is opened, where a `--data` value has no such rule, or a list is for several."""
    choices: list[Choice | None] = [choose(text.partition(":")[0], split) for text in texts] if split else []
    if len(choices) > 1 and any(choice is not None and choice.name == LIST for choice in choices):
        raise UserError(f"--split {split} is a list of one data set, and --data names {len(choices)}; name one")


def _with_policy(source: Any, policy: str) -> Source:
    """The source with the labels of a policy. Raises UserError where its labels need none."""
    if not hasattr(source, "with_policy"):
        raise UserError(
            f"--label-policy {policy}: labels of data set {source.name!r} do not come from a labeler of reports and need no "
            "policy; take it away, or that set out of --data"
        )
    settled: Source = source.with_policy(policy)
    return settled
