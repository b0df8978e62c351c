"""What `run`, `report` and `leaderboard` do with a folder of results: analyse it, and write the board."""

from __future__ import annotations

from pathlib import Path


def write_all(out: Path, draws: int, progress: bool = True) -> dict[str, Path]:
    """Writes <out>/analysis.json, then the board in every format; format -> path. Needs no torch."""
    from benchmark.analysis import write_analysis
    from benchmark.store import ANALYSIS
    from leaderboards import group_rows, load, make_row, write_board

    results, _ = load(out / "results")
    write_analysis(out, group_rows(map(make_row, results)), draws, progress)
    return {**write_board(out), "analysis": out / ANALYSIS}
