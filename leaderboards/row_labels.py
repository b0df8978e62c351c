"""What tells the lines of one title in a group apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leaderboards.rows import Row


def labels(parts: Sequence[tuple[Row, ...]]) -> list[str]:
    """Titles, each followed by what tells the lines of one title apart."""
    twins: dict[str, list[int]] = defaultdict(list)
    for number, part in enumerate(parts):
        twins[part[0].title].append(number)
    found = [part[0].title for part in parts]
    for title, numbers in twins.items():
        if len(numbers) == 1:
            continue
        facets = [_facets(parts[number]) for number in numbers]
        names = sorted({name for facet in facets for name in facet})
        differing = [name for name in names if len({facet.get(name) for facet in facets}) > 1]
        marks = [name for name in differing if name != "weights"][:3] or differing
        for number, facet in zip(numbers, facets):
            told = ", ".join(f"{name}={facet[name]}" for name in marks if name in facet)
            found[number] = f"{title} ({told})" if told else title
    return found


def _facets(part: tuple[Row, ...]) -> dict[str, str]:
    """What may tell a line from another of the same title; seeds joined by commas."""
    spec = part[0].spec
    facets = {name: str(value) for name, value in spec["config"].items()}
    facets |= {"version": str(spec["method_version"]), "precision": spec["precision"]}
    for name in ("seed", "eval_seed", "weights"):
        facets[name] = ",".join(dict.fromkeys(str(row.spec[name])[:13] for row in part))
    return facets
