"""A registry of lazy names: nothing is imported before it is asked for.

>>> methods: Registry[type] = Registry("method", group="benchmark.methods")
>>> methods.add("counter", "collections:Counter")
>>> methods.load("counter").__name__
'Counter'
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from benchmark.errors import UserError


def unknown(kind: str, name: str, known: list[str]) -> UserError:
    """The error for a name that is not there, with near names."""
    near = get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(set(known))) or 'none'}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


T = TypeVar("T")


class Registry(Generic[T]):
    """Names to "module:attribute" strings or objects. Other packages add theirs by entry points of `group`.

    Args:
        kind: what the names are, for messages.
        group: the entry point group that is read once, at the first look-up.
        entries: the first names.
    """

    def __init__(self, kind: str, group: str = "", entries: dict[str, str] | None = None) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, str | T] = {}
        self._discovered = not group
        for name, target in (entries or {}).items():
            self.add(name, target)

    def add(self, name: str, target: str | T) -> None:
        """Adds a name. Raises UserError if the name stands for something else already."""
        if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
            raise UserError(f"{self.kind} name {name!r} may hold letters, digits, '-' and '_' only")
        if self._entries.get(name, target) != target:
            raise UserError(f"{self.kind} {name!r} is registered twice: {self.origin(name)} and {target}; rename one")
        self._entries[name] = target

    def origin(self, name: str) -> str:
        """Where a name comes from. Raises UserError."""
        return str(self._entries[self._known(name)])

    def load(self, name: str) -> T:
        """The object behind a name. Raises UserError for an unknown name, or one whose target is not there."""
        target = self._entries[self._known(name)]
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        try:
            return cast(T, _resolve(module, attribute))
        except (ImportError, AttributeError) as error:
            raise UserError(f"{self.kind} {name!r} points to {target!r}, which cannot be imported: {error}") from error

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def _known(self, name: str) -> str:
        self._discover()
        if name not in self._entries:
            raise unknown(self.kind, name, list(self._entries))
        return name

    def _discover(self) -> None:
        if not self._discovered:
            self._discovered = True
            for point in entry_points(group=self.group):
                self.add(point.name, point.value)


def _resolve(module: str, attribute: str) -> Any:
    target: Any = import_module(module)
    for part in attribute.split("."):
        target = getattr(target, part)
    return target
