"""The LaTeX board in LaTeX itself, where pdflatex is there: names that are commands, more tables than it holds back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmark.types import RunResult
from leaderboards import latex
from tests.test_leaderboards import HOSTILE, bare, groups_of, hostile, result

MAIN = r"""\documentclass{article}
\usepackage{booktabs}
\usepackage{graphicx}
\begin{document}
\input{leaderboard.tex}
\end{document}
"""
needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def faults(out: Path, *results: RunResult) -> list[str]:
    """The errors of LaTeX over the board of these results."""
    (out / "main.tex").write_text(MAIN)
    (out / "leaderboard.tex").write_text(latex.latex(groups_of(*results), ()))
    command = ["pdflatex", "-interaction=nonstopmode", "-draftmode", "main.tex"]
    done = subprocess.run(command, cwd=out, capture_output=True, check=False, timeout=120)
    lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line.startswith("!")]
    return lines or ([] if done.returncode == 0 else [f"status {done.returncode}"])


@needs_latex
def test_names_that_are_commands_are_set_as_text(tmp_path: Path) -> None:
    assert faults(tmp_path, *map(hostile, HOSTILE), bare("failed", HOSTILE[2])) == []


@needs_latex
def test_more_tables_than_latex_holds_back_are_set(tmp_path: Path) -> None:
    assert faults(tmp_path, *(result(changes={"protocol": f"p{number}"}) for number in range(100))) == []


def test_letters_that_pdflatex_does_not_know_are_announced() -> None:
    assert "xelatex" in latex.latex(groups_of(result(title="β-VAE")), ())
    assert "xelatex" not in latex.latex(groups_of(result(title="Größe — ±↑")), ())
