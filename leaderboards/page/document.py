"""Puts the page together: one file with its data, style, fonts and scripts, that works from a disk and asks for nothing."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from leaderboards.page.data import page_data
from leaderboards.page.examples import Examples, with_examples
from leaderboards.rows import Group
from leaderboards.text import EMPTY

TITLE = "Chest X-ray vision-language leaderboard"
LIMIT = 3_000_000  # bytes of the whole file, above which details and lines are left out
ASSETS = Path(__file__).resolve().parent / "assets"
LIBRARIES = ("vendor/d3.min.js", "vendor/plot.umd.min.js")
SCRIPTS = (
    *("format", "dom", "state", "glance", "filters", "table", "details", "chart", "cost", "efficiency", "differences"),
    *("findings", "metrics", "subgroups", "calibration", "prompts", "examples", "curves", "focus", "main"),
)
FONTS = {"Inter": "inter-latin-wght-normal.woff2", "Source Serif 4": "source-serif-4-latin-wght-normal.woff2"}
_ROOM = 20_000  # for the frame around data and assets


def html_page(
    groups: Sequence[Group],
    refused: Sequence[tuple[str, str]],
    analysis: Mapping[str, Any] | None = None,
    curves: Sequence[Mapping[str, Any]] = (),
    examples: Examples | None = None,
    *,
    limit: int = LIMIT,
) -> str:
    """The whole file.

    Where everything would be more than `limit` bytes, the details of single results and the retrieval examples are left out,
    then the last lines of the tables, down to the best of each; the page says so and names leaderboard.json, which has all
    results. It is larger than the limit only where these lines alone are (very many tables, or names of megabytes). A content
    security policy allows its own style and scripts, and images that are inside the file, alone.
    """
    style, scripts = _style(), _scripts()
    room = limit - _ROOM - sum(len(text.encode()) for text in (style, *scripts))
    data = fitted(groups, refused, (analysis, curves), examples or {}, room)
    sources = " ".join(f"'{_source(text)}'" for text in scripts)
    own = f"style-src '{_source(style)}'; script-src {sources}; font-src data:; img-src data:"
    policy = f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"
    head = (
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{TITLE}</title>",
        f"<style>{style}</style>",
    )
    body = (
        '<a class="skip" href="#results">Skip to the results</a>',
        '<div id="board"></div>',
        f"<noscript><p>{escape(_without_script(groups))}</p></noscript>",
        f'<script type="application/json" id="data">{data}</script>',
        *(f"<script>{text}</script>" for text in scripts),
    )
    parts = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", *body, "</body>", "</html>", ""]
    return "\n".join(parts)


def fitted(
    groups: Sequence[Group],
    refused: Sequence[tuple[str, str]],
    beside: tuple[Mapping[str, Any] | None, Sequence[Mapping[str, Any]]],
    examples: Examples,
    room: int,
) -> str:
    """The data as JSON, in `room` bytes if they do: whole, else without single results and examples, else with fewer lines."""
    rows = [row for group in groups for row in group.rows]
    if sum(500 + 24 * len(row.metrics) for row in rows) < 2 * room:  # else not even worth trying
        text = data_block(with_examples(page_data(groups, refused, *beside), groups, examples))
        if len(text.encode()) <= room:
            return text
    lengths = [len(group.entries) for group in groups]
    frame, sample = (page_data(groups, refused, *beside, runs=False, most=lines) for lines in (0, 20))
    fixed = len(data_block(frame).encode())
    each = (len(data_block(sample).encode()) - fixed) / max(1, sample["lines"])
    most = max(lengths, default=1)
    while most > 1 and fixed + each * sum(min(length, most) for length in lengths) > 0.97 * room:
        most = most * 31 // 32
    while True:
        text = data_block(page_data(groups, refused, *beside, runs=False, most=most))
        if len(text.encode()) <= room or most <= 1:
            return text
        most = most * 7 // 8


def data_block(data: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element: no markup can end it or open a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _without_script(groups: Sequence[Group]) -> str:
    return "This page needs JavaScript; leaderboard.md holds the same tables as text." if groups else EMPTY


@cache
def _style() -> str:
    faces = []
    for family, name in FONTS.items():
        data = b64encode((ASSETS / "vendor" / name).read_bytes()).decode()
        faces.append(
            f'@font-face {{ font-family: "{family}"; font-weight: 200 900; font-display: block; '
            f"src: url(data:font/woff2;base64,{data}) format('woff2'); }}"
        )
    return "\n".join([*faces, (ASSETS / "page.css").read_text(encoding="utf-8")])


@cache
def _scripts() -> tuple[str, ...]:
    """The libraries as they are published, then our own modules in one scope."""
    libraries = [(ASSETS / name).read_text(encoding="utf-8") for name in LIBRARIES]
    own = [(ASSETS / "js" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return (*libraries, "(() => {\n" + '"use strict";\n' + "\n".join(own) + "\n})();")


def _source(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
