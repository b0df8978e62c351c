"""Two processes that differ where they may not, and how they leave together."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.two_processes import leaving, together, unlike


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("rows", "the processes do not read the same rows of toy: process 1 reads 23 of 24; give every node the same files"),
        ("gloria", "gloria trains in one process only: with several its loss would see fewer negatives"),
        ("settings", "process 1 has other settings or data than another"),
    ],
)
def test_what_several_processes_cannot_do_all_of_them_say(what: str, words: str, tmp_path: Path) -> None:
    assert together(unlike, 2, tmp_path, str(tmp_path), what) == [2, 2]
    assert words in (tmp_path / "meeting-1.txt").read_text()
    assert words.split("process ")[0] in (tmp_path / "meeting-0.txt").read_text()


def test_no_process_leaves_before_the_state_is_written(tmp_path: Path) -> None:
    assert together(leaving, 2, tmp_path, str(tmp_path), signal.SIGUSR2) == [0, 0]
    assert (tmp_path / "seen-1.txt").read_text() == "1"
