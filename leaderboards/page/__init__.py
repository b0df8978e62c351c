"""The board as one HTML file: data, style, scripts, fonts and charts inside, nothing fetched."""

from leaderboards.page.document import html_page

__all__ = ["html_page"]
