"""HTML by construction: whatever is not markup already is escaped."""

from __future__ import annotations

from html import escape

from leaderboards.text import clean

_VOID = frozenset({"meta", "input", "line", "circle"})


class Markup(str):
    """Text that is HTML already; only `tag`, `cell` and literals of this package make it."""

    __slots__ = ()


def cell(value: object) -> Markup:
    """A leaf as HTML: the only way for the text of a result into the page and into attributes."""
    return Markup(escape(clean(value), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Children that are no Markup are escaped; "_" in an attribute's name stands for "-"; None leaves it out."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    head = "".join(f' {key}="{cell(value)}"' for key, value in pairs)
    if name in _VOID:
        return Markup(f"<{name}{head}>" if name in ("meta", "input") else f"<{name}{head}/>")
    inside = "".join(child if isinstance(child, Markup) else cell(child) for child in children)
    return Markup(f"<{name}{head}>{inside}</{name}>")
