"""Results -> rows -> Markdown, CSV, LaTeX, JSON and a self-contained page. Reads result files alone and never imports torch."""

from leaderboards.render import terminal_table, write_board
from leaderboards.rows import Entry, Group, Row, group_rows, make_row
from leaderboards.schema import load

__all__ = ["Entry", "Group", "Row", "group_rows", "load", "make_row", "terminal_table", "write_board"]
