"""`<out>/curves.json` for the page: the curves of pretrainings, with fewer points, joined to the methods that used them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leaderboards.curves import thinned
from leaderboards.page.analysis import read_json
from leaderboards.text import clean

RUNS, POINTS, TERMS = 40, 100, 12


def read_curves(out: Path) -> list[dict[str, Any]]:
    """The runs of `leaderboards.curves.write_curves`; none where the file is missing, damaged or of another layout."""
    try:
        runs = read_json(out / "curves.json").get("runs", [])
        return [_run(run) for run in runs]
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return []


def _run(run: Mapping[str, Any]) -> dict[str, Any]:
    series = {
        clean(name): [[int(step), float(f"{value:.5g}")] for step, value in points] for name, points in run["series"].items()
    }
    return {"key": str(run["key"]), "title": clean(run["title"] or run["key"]), "seed": run["seed"], "series": series}


def shown_curves(curves: Sequence[Mapping[str, Any]], places: Mapping[str, int]) -> list[dict[str, Any]]:
    """The curves of the methods on the board, then others.

    Args:
        places: key of a pretraining -> number of the method's variant on the page.
    """
    on_board = sorted(curves, key=lambda run: run["key"] not in places)[:RUNS]
    return [
        {
            "label": run["title"] if run["seed"] is None else f"{run['title']}, seed {run['seed']}",
            "variant": places.get(run["key"], -1),
            "series": {name: thinned(points, POINTS) for name, points in list(run["series"].items())[:TERMS]},
        }
        for run in on_board
    ]
