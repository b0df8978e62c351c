"""The registry of data sets: one file a set, one line here.

An entry is a function (location: str, options: SourceOptions) -> Source; the location is what follows the colon of
`--data NAME:LOCATION`, or empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmark.registry import Registry
from benchmark.types import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """What the command line says of data.

    root: the folder with real sets (--data-root or BENCHMARK_DATA), or None. preset: for generators, how much to draw.
    where: rows to keep, column -> value (--where). seed: for generators.
    """

    root: Path | None = None
    preset: str = "quick"
    where: tuple[tuple[str, str], ...] = ()
    seed: int = 0


SOURCES: Registry[Callable[[str, SourceOptions], Source]] = Registry(
    "dataset",
    group="benchmark.sources",
    entries={
        "phantom": "benchmark.data.phantom:open_source",
        "csv": "benchmark.data.sources.csv_folder:open_source",
        "chexpert": "benchmark.data.sources.chexpert:open_source",
        "mimic-cxr": "benchmark.data.sources.mimic_cxr:open_source",
        "rsna": "benchmark.data.sources.rsna:open_source",
        "siim": "benchmark.data.sources.siim:open_source",
        "vindr-cxr": "benchmark.data.sources.vindr_cxr:open_source",
        "nih": "benchmark.data.sources.nih:open_source",
        "object-cxr": "benchmark.data.sources.object_cxr:open_source",
        "open-i": "benchmark.data.sources.open_i:open_source",
        "covidx": "benchmark.data.sources.covidx:open_source",
        "tbx11k": "benchmark.data.sources.tbx11k:open_source",
        "covid-rural": "benchmark.data.sources.covid_rural:open_source",
    },
)
