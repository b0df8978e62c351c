"""What a published number may be: the names, units and ranges of published/published.schema.json, checked without a library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "published"
SCHEMA_NAME = "published.schema.json"
MEASURED = ("paper", "README")  # kinds whose numbers were measured by those who print them
_ADDRESS = re.compile(r"https?://[!-~]+")
_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published number. Names stand as in the source, so whoever shows them escapes them."""

    method: str
    dataset: str
    task: str
    setting: str
    finding: str  # "" over all findings
    protocol: str  # family, "" where unknown: then the number is never set beside a measured one
    fraction: float | None  # of the labels, in (0, 1]; None where there is none or where it is unknown
    metric: str
    value: float  # in the unit
    spread: float | None
    spread_kind: str
    unit: str  # percent, points or rank
    kind: str
    measured_by: str
    citation: str
    url: str
    table: str
    remark: str
    digits: int = field(compare=False)  # decimals of the value as printed
    file: str = field(compare=False)
    line: int = field(compare=False)

    @property
    def cell(self) -> tuple[Any, ...]:
        """What two sources must share to speak of the same thing."""
        names = (self.method, self.dataset, self.protocol, self.task, self.setting, self.finding)
        return (*names, -1.0 if self.fraction is None else self.fraction, self.metric)

    @property
    def source(self) -> str:
        """The citation up to its first comma: BenchX, G2D."""
        return self.citation.partition(",")[0].strip()

    @property
    def origin(self) -> str:
        """The kind with who measured it: only "own" is a method's own number."""
        told = {"authors": ", own", "source": ", run again by the source"}
        return f"{self.kind}{told.get(self.measured_by, '')}"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The part of the JSON schema that the checks need."""

    columns: tuple[str, ...]
    names: Mapping[str, Mapping[str, None]]  # column -> what it may hold, in order
    lengths: Mapping[str, int]
    units: Mapping[str, tuple[str, float, float]]  # metric -> unit, lowest, highest


@cache
def vocabulary() -> Vocabulary:
    """The names, units and ranges that the store knows."""
    schema = json.loads((FOLDER / SCHEMA_NAME).read_text(encoding="utf-8"))
    properties = schema["properties"]
    units = {}
    for rule in schema["allOf"]:
        for metric in rule["if"]["properties"].get("metric", {}).get("enum", ()):
            then = rule["then"]["properties"]
            units[metric] = (then["unit"]["const"], then["value"]["minimum"], then["value"].get("maximum", float("inf")))
    return Vocabulary(
        columns=tuple(properties),
        names={name: dict.fromkeys(item["enum"]) for name, item in properties.items() if "enum" in item},
        lengths={name: item["maxLength"] for name, item in properties.items() if "maxLength" in item},
        units=units,
    )


def number(text: str) -> float | None:
    """A plain decimal number without sign or exponent; None for anything else."""
    return float(text) if _NUMBER.fullmatch(text) else None


def faults(cells: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with one line, a sentence each.

    Args:
        cells: column -> text, with every column of the schema and no other.
    """
    yield from _text_faults(cells)
    yield from _name_faults(cells)
    yield from _number_faults(cells)
    own = cells["measured_by"]
    if cells["kind"] in MEASURED and not own:
        yield "kind paper or README says that the source measured it: give measured_by authors or source, or the kind reprint"
    if cells["kind"] in ("reprint", "second hand", "aggregator") and own:
        yield f"a number of the kind {cells['kind']} is not the authors' own: leave measured_by empty"
    if bool(cells["spread"]) != bool(cells["spread_kind"]):
        yield "spread and spread_kind come together: give both or neither"


@lru_cache(maxsize=4096)  # most cells repeat those of the line above
def text_fault(name: str, text: str, longest: int) -> str | None:
    """What keeps a text from being shown on one line."""
    if not text.isprintable():
        return f"{name} has a line end or another character that cannot be printed"
    if text != text.strip():
        return f"{name} {text!r} has spaces around it"
    if len(text) > longest:
        return f"{name} has {len(text)} characters, more than {longest}"
    return None


def near(name: str, text: str, known: Iterable[str]) -> str:
    """A sentence about an unknown name, with the names that look like it."""
    folded = {item.casefold(): item for item in known if item}
    found = [folded[item] for item in get_close_matches(text.casefold(), folded, n=3, cutoff=0.6)]
    hint = f"did you mean {' or '.join(found)}" if found else f"known: {', '.join(filter(None, known))}"
    return f"{name} {text!r} is not a name that the store knows ({hint})"


def _text_faults(cells: Mapping[str, str]) -> Iterator[str]:
    for name, longest in vocabulary().lengths.items():
        if fault := text_fault(name, cells[name], longest):
            yield fault
    if not cells["method"].strip():
        yield "method is empty"
    if not cells["citation"].strip():
        yield "citation is empty: a number without its source is refused"
    if cells["url"] and not _ADDRESS.fullmatch(cells["url"]):
        yield f"url {cells['url']!r} is not an address that starts with http:// or https://"


def _name_faults(cells: Mapping[str, str]) -> Iterator[str]:
    for name, known in vocabulary().names.items():
        if cells[name] in known:
            continue
        unknown = f"{near(name, cells[name], known)}; a new one is added to {SCHEMA_NAME}"
        yield unknown if cells[name] else f"{name} is empty"


def _number_faults(cells: Mapping[str, str]) -> Iterator[str]:
    for name in ("value", "spread", "fraction"):
        text = cells[name]
        if number(text) is None and (text or name == "value"):
            way_out = "an unknown number is a line that is not there" if name == "value" else "an unknown one stays empty"
            yield f"{name} {text!r} is not a plain decimal number such as 0.1 or 88.6; {way_out}"
    fraction, value = number(cells["fraction"]), number(cells["value"])
    if fraction is not None and not 0 < fraction <= 1:
        yield f"fraction {cells['fraction']} lies outside (0, 1]; 1 % is 0.01"
    if (number(cells["spread"]) or 0) > 100:
        yield f"spread {cells['spread']} is above 100"
    if cells["metric"] not in vocabulary().units:
        return
    unit, low, high = vocabulary().units[cells["metric"]]
    if cells["unit"] != unit:
        yield f"unit of {cells['metric']} is {unit}, not {cells['unit']!r}"
    if value is not None and not low <= value <= high:
        hint = "; a fraction is multiplied by 100" if unit == "percent" and value < low else ""
        yield f"value {cells['value']} lies outside {low:g} to {high:g} {unit} of {cells['metric']}{hint}"
