"""The registry of split rules: one file a family, one line here.

An entry is a tuple of `SplitRule`. What is chosen by `--split` is a rule by its name, with a number where it takes one, or a
list of images in a file (`lists`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.data.splits import Drawn
from benchmark.errors import UserError
from benchmark.registry import Registry, unknown
from benchmark.types import Source

LIST = "list"  # the name of a choice that is a file
Ids = Literal["the set's own", "images of its code", "its code, our seed", "its seeds, MGCA's code", "its sizes, our draw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """A named way to split some data sets.

    name: of `--split`. datasets: as `list datasets` names them; empty: any. what: for people. source: paper and code. ids: what
    is the paper's, given the set's own tables as published. draw: (whole set, number) -> splits; None for what the source does
    without --split. number: what stands behind the colon; numbers: those it may be. seed: for people.
    """

    name: str
    datasets: tuple[str, ...]
    what: str
    source: str
    ids: Ids
    draw: Callable[[Source, int], Drawn] | None
    number: Literal["", "seed", "fold"] = ""
    numbers: range = range(0)
    seed: str = ""

    @property
    def usage(self) -> str:
        """NAME, NAME:SEED or NAME:FOLD."""
        return f"{self.name}:{self.number.upper()}" if self.number else self.name


@dataclass(frozen=True, slots=True)
class Choice:
    """A rule with its number, or a list. name: enters versions. draw: raises UserError where the set does not fit."""

    name: str
    draw: Callable[[Source], Drawn]


RULES: Registry[Sequence[SplitRule]] = Registry(
    "family of split rules",
    group="benchmark.split_rules",
    entries={
        "sources": "benchmark.data.split_rules.of_sources:RULES",
        "gloria-mgca": "benchmark.data.split_rules.gloria_mgca:RULES",
        "5x200": "benchmark.data.split_rules.five_by_200:RULES",
        "lovt": "benchmark.data.split_rules.lovt:RULES",
        "prior": "benchmark.data.split_rules.prior:RULES",
    },
)


def all_rules() -> Iterator[SplitRule]:
    """Every rule, family by family."""
    for family in RULES:
        yield from RULES.load(family)


def choose(dataset: str, text: str) -> Choice | None:
    """What `--split` asks for of a data set; None for what its source does anyway.

    Args:
        dataset: a name of the registry of sources.
        text: NAME, NAME:NUMBER, FILE or FILE:by-image.

    Raises:
        UserError: no such rule or file, a rule that this set does not have, or a number that the rule does not take.
    """
    name, _, number = text.partition(":")
    rules = list(all_rules())
    here = {rule.name: rule for rule in rules if not rule.datasets or dataset in rule.datasets}
    if name in here:
        return _with_number(here[name], number, text)
    if name in {rule.name for rule in rules}:
        usages = ", ".join(rule.usage for rule in here.values())
        raise UserError(f"--split {text}: data set {dataset!r} has no such rule; it has {usages}, or give a file of your own")
    file, unit = (Path(text.removesuffix(":by-image")), text.endswith(":by-image"))
    if not file.exists():
        raise UserError(f"--split {text}: {unknown('split rule', name, list(here))}; and there is no such file or folder")
    return Choice(LIST, lambda source: _listed(source, file, unit))


def _with_number(rule: SplitRule, number: str, text: str) -> Choice | None:
    draw = rule.draw
    if not rule.number:
        if number:
            raise UserError(f"--split {text}: the rule {rule.name} takes no number; write --split {rule.name}")
        return None if draw is None else Choice(rule.name, lambda source: draw(source, 0))
    lowest, highest = rule.numbers.start, rule.numbers.stop - 1
    if draw is None or not number.isdecimal() or int(number) not in rule.numbers:
        raise UserError(
            f"--split {text}: the rule {rule.name} takes a {rule.number} from {lowest} to {highest}, "
            f"as in --split {rule.name}:{lowest}"
        )
    return Choice(f"{rule.name}-{int(number)}", lambda source: draw(source, int(number)))


def _listed(source: Source, file: Path, by_image: bool) -> Drawn:
    from benchmark.data.split_rules.lists import draw_list, read_list
    from benchmark.data.split_rules.queries import draw_queries, holds_queries

    if holds_queries(file):
        return draw_queries(source, file)
    return draw_list(source, read_list(file), by_image)
