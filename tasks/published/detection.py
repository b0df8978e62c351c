"""Detection protocols of papers, as literals. A change of any value needs a new version."""

from __future__ import annotations

from benchmark.types import Protocol

PROTOCOLS: tuple[Protocol, ...] = ()
