"""What a row says beside its score."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.flags import split_note
from benchmark.types import Protocol


@pytest.mark.parametrize(
    ("wanted", "split", "differs"),
    [
        ("", "", False),
        ("", "mgca-0123abcd", False),
        ("mgca", "mgca-0123abcd", False),
        ("mgca-by-image", "mgca-by-image-0123abcd", False),
        ("prior-5fold", "prior-5fold-3-0123abcd", False),  # one of its folds
        ("mgca", "", True),
        ("mgca", "gloria-0123abcd", True),
        ("mgca", "mgca-by-image-0123abcd", True),
        ("prior-5fold", "prior-622-0-0123abcd", True),
        ("lovt-sizes", "list-0123abcd", True),
    ],
)
def test_rows_of_another_split_than_the_papers_are_noted(wanted: str, split: str, differs: bool) -> None:
    settings = (("split", wanted),) if wanted else ()
    protocol = Protocol(name="unet", version=1, task="segmentation", primary="dice", settings=settings)
    data: Any = SimpleNamespace(split=split)
    assert split_note(protocol, data) == ({"split_differs": f"unet is of --split {wanted}"} if differs else {})
