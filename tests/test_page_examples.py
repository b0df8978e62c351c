"""Retrieval examples on the page, in Chromium: they follow the chosen table and methods, and no report can become markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import leaderboards
from tests import board
from tests.page_tab import Tab
from tests.test_leaderboards import HOSTILE
from tests.test_page_browser import browser, pytestmark, tab, whole

__all__ = ["browser", "pytestmark", "tab", "whole"]  # fixtures of the page


def test_examples_show_an_image_and_what_each_highlighted_method_found(tab: Tab) -> None:
    panel = tab.page.locator("#examples")
    tab.page.get_by_label("Charts show").select_option(label="Retrieval · retrieval-unique · phantom")
    picture = panel.locator("img")
    assert picture.get_attribute("alt") == "Synthetic chest X-ray phantom-0000"
    assert picture.evaluate("(image) => image.complete && image.naturalWidth > 0")
    assert panel.locator(".found").count() == 3
    first = panel.locator(".found").first
    assert "Aster" in first.locator("h4").inner_text()
    assert "own report at rank 1 of 430" in first.locator("h4").inner_text()
    assert first.locator("li").count() == 3
    assert first.locator("li.right p").all_inner_texts() == ["Clear lungs, study 0."]
    panel.get_by_label("Image").select_option("3")
    assert panel.locator(".query").inner_text().endswith("Clear lungs, study 3.")
    assert first.locator("li.right p").all_inner_texts() == ["Clear lungs, study 3."]
    tab.page.get_by_label("Charts show").select_option(label="Zero-shot classification · zeroshot-prompt-pairs · phantom")
    assert "no retrieval examples" in panel.inner_text()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_reports_are_shown_as_text(browser: Any, tmp_path: Path, text: str) -> None:
    found = list(board.results(methods=2, seeds=1))
    told = board.examples(found)
    for item in told.values():
        for query in item["queries"]:
            query |= {"report": text, "uid": text, "found": [{**line, "report": text} for line in query["found"]]}
    board.save_examples(board.save(tmp_path, found), told)
    tab = Tab(browser, leaderboards.write_board(tmp_path)["html"])
    tab.page.get_by_label("Charts show").select_option(label="Retrieval · retrieval-unique · phantom")
    shown = {" ".join(line.split()) for line in tab.page.locator("#examples .body p").all_text_contents()}
    assert shown == {" ".join(leaderboards.text.clean(text).split())}
    assert tab.page.locator("script").count() == 4
    assert tab.page.locator("#examples img").count() == 1
    tab.close()
