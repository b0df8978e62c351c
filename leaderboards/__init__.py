"""Results -> rows -> Markdown, CSV, LaTeX, JSON and a self-contained page. Reads result files alone and never imports torch."""

from leaderboards.render import terminal_groups, write_board, write_groups
from leaderboards.rows import Entry, Group, Row, group_rows, make_row, with_standings
from leaderboards.schema import load

__all__ = [
    "Entry",
    "Group",
    "Row",
    "group_rows",
    "load",
    "make_row",
    "terminal_groups",
    "with_standings",
    "write_board",
    "write_groups",
]
