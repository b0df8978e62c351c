"""A page of the board open in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Tab:
    """One page with everything that went wrong in it."""

    def __init__(self, browser: Any, path: Path, scheme: str = "light", width: int = 1280) -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
        self.page = context.new_page()
        self.faults: list[str] = []
        self.page.on(
            "console", lambda message: self.faults.append(message.text) if message.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on(
            "request",
            lambda request: (
                self.faults.append(request.url)
                if request.url != path.as_uri() and not request.url.startswith("data:")
                else None
            ),
        )
        self.page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("h1")

    def rows(self, table: int) -> list[str]:
        """The names of the lines of one table, from the top."""
        return self.page.locator(f"#table-{table} tr:not(.group) .name").all_inner_texts()

    def close(self) -> None:
        self.page.context.close()
        assert self.faults == []
