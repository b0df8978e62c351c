"""What `run`, `report` and `leaderboard` do with a folder of results: analyse it, and write the board."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_all(out: Path, draws: int, progress: bool = True) -> tuple[dict[str, Path], tuple[Any, ...], list[str]]:
    """Writes the analysis, the curves and the board in every format. Needs no torch.

    Returns:
        Format -> path; the groups; a sentence for each file that could not be read.
    """
    from benchmark.analysis import write_analysis
    from benchmark.store import ANALYSIS
    from leaderboards import group_rows, load, make_row, with_standings, write_groups
    from leaderboards.curves import write_curves
    from leaderboards.text import left_out

    results, refused = load(out / "results")
    groups = group_rows(map(make_row, results))
    analysis = write_analysis(out, groups, draws, progress)
    groups = with_standings(groups, analysis)
    curves = write_curves(out)  # before the page, which may show them
    paths = {**write_groups(out, groups, refused, analysis), "analysis": out / ANALYSIS, **curves}
    return paths, groups, left_out(refused)
