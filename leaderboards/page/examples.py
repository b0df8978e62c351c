"""`<out>/examples/<key>.json` for the page: queries and the reports found for them; rows of synthetic data alone show any."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from leaderboards.page.analysis import of_entry, read_json
from leaderboards.rows import Group
from leaderboards.text import clean

Examples = Mapping[str, Sequence[Mapping[str, Any]]]  # key of a result -> its queries
SCHEMA, SYNTHETIC = 1, "phantom"
LINES, QUERIES, FOUND, LETTERS = 40, 6, 3, 2000  # lines of a group, from the best on; queries of each; reports of each query
IMAGE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]{1,24000}={0,2}")


def read_examples(out: Path, groups: Sequence[Group]) -> dict[str, list[dict[str, Any]]]:
    """Key of a result -> its queries; without files that are missing, damaged or of another layout.

    Of the seeds of a method the first with a file speaks for all; of a group the best LINES alone.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    if not (out / "examples").is_dir():
        return found
    for entry in (entry for group in groups for entry in group.entries[:LINES] if entry.kind == "method"):
        for row in entry.rows:
            queries = _read(out / "examples" / f"{row.key}.json") if SYNTHETIC in row.flags else []
            if queries:
                found[row.key] = queries
                break
    return found


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        found = read_json(path)
        return [_query(query, found["candidates"]) for query in found["queries"][:QUERIES]] if found["schema"] == SCHEMA else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _query(query: Mapping[str, Any], candidates: object) -> dict[str, Any]:
    image, lines = query["image"], query["found"][:FOUND]
    if not IMAGE.fullmatch(image):
        raise ValueError("not a small PNG")
    return {
        "uid": clean(query["uid"]),
        "report": clean(query["report"])[:LETTERS],
        "image": image,
        "rank": [_whole(query["rank"]), _whole(query["tied"]), _whole(candidates)],
        "found": [[clean(line["report"])[:LETTERS], _score(line["score"]), line["right"] is True] for line in lines],
    }


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a count")
    return value


def _score(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError("not a score")
    return float(f"{value:.6g}")


def with_examples(data: dict[str, Any], groups: Sequence[Group], examples: Examples) -> dict[str, Any]:
    """The page's data with the examples: queries once a group, what each method found at its line, texts in the table."""
    table = data["table"]
    places = {text: at for at, text in enumerate(table) if isinstance(text, str)}

    def place(text: str) -> int:
        if text not in places:
            places[text] = len(table)
            table.append(text)
        return places[text]

    for group, made in zip(groups, data["groups"], strict=True):
        queries: dict[str, dict[str, Any]] = {}
        for entry, line in zip(group.entries, made["entries"], strict=True):
            own = of_entry(examples, tuple(row.key for row in entry.rows))[0] or ()
            for query in own:
                shown = {"uid": query["uid"], "report": place(query["report"]), "image": query["image"]}
                at = list(queries).index(query["uid"]) if query["uid"] in queries else len(queries)
                queries.setdefault(query["uid"], shown)
                found = [[place(text), score, right] for text, score, right in query["found"]]
                line.setdefault("examples", {})[str(at)] = {"rank": query["rank"], "found": found}
        if queries:
            made["examples"] = list(queries.values())
    return data
