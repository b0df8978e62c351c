"""Ranks and differences of a group's lines, as <out>/analysis.json has them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Lines = Mapping[str, Mapping[str, Any]]  # result key -> rank, difference_to_best, ...


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a line stands in its group. None: not known, because predictions or draws were not there.

    rank: shared by all whose difference from the leader of the rank group may be noise; low and high: its places.
    difference: to the best, {"value", "low", "high", "n"}; p: of that difference; p_holm: with Holm's correction.
    """

    rank: int | None
    low: int | None
    high: int | None
    difference: Mapping[str, Any] | None
    p: float | None
    p_holm: float | None

    @property
    def text(self) -> str:
        """ "1", or "1–3" where three share it; "" where it is not known."""
        if self.rank is None:
            return ""
        return str(self.rank) if self.low == self.high else f"{self.low}–{self.high}"


def by_group(analysis: Mapping[str, Any] | None) -> Mapping[str, Lines]:
    """The lines of each group of an analysis, by the text of its key."""
    groups = (analysis or {}).get("groups", ())
    whole = [group for group in groups if isinstance(group, dict) and isinstance(group.get("entries"), dict)]
    return {json.dumps(group.get("group")): group["entries"] for group in whole}


def reasons_of(analysis: Mapping[str, Any] | None, key: Iterable[Any]) -> tuple[str, ...]:
    """Why a group has no ranking, or what in it does not match its predictions."""
    text = json.dumps(list(key))
    groups = [group for group in (analysis or {}).get("groups", ()) if isinstance(group, dict)]
    found = next((group.get("reasons") for group in groups if json.dumps(group.get("group")) == text), None)
    return tuple(map(str, found)) if isinstance(found, list) else ()


def lines_of(analysed: Mapping[str, Lines], key: Iterable[Any], present: Iterable[str]) -> Lines:
    """The lines of one group; none where it was analysed with other results than are present now."""
    lines = analysed.get(json.dumps(list(key)), {})
    return lines if set(lines) == set(present) else {}


def standing(line: Mapping[str, Any] | None) -> Standing | None:
    """The standing of one result; None where it was not analysed."""
    if line is None:
        return None
    names = ("rank", "rank_low", "rank_high", "difference_to_best", "p", "p_holm")
    return Standing(*(line.get(name) for name in names))
