"""The report of `verify`: on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmark import store
from benchmark.types import plain
from benchmark.verify.findings import MOST, SEVERITIES, Finding, Report, SetFacts, Severity

SCHEMA = 1  # of report.json; bumped when a name or its meaning changes
_SHOWN = {"terminal": 3, "markdown": 10}  # examples of a finding; JSON holds more
_TITLES: dict[Severity, str] = {"error": "ERRORS", "warning": "WARNINGS", "note": "NOTES"}


def to_json(report: Report) -> dict[str, Any]:
    """The report as report.json holds it."""
    findings = [plain(item) | {"severity": item.severity, "remedy": item.remedy} for item in report.findings]
    totals = {severity: len(report.of(severity)) for severity in SEVERITIES}
    return {"schema": SCHEMA, **plain(report), "findings": findings, "totals": totals}


def write_report(report: Report, out: Path) -> tuple[Path, Path]:
    """Writes report.json and report.md into a folder. Raises UserError if it cannot."""
    paths = out / "report.json", out / "report.md"
    store.write_json(paths[0], to_json(report))
    store.write(paths[1], markdown(report).encode(errors="backslashreplace"))
    return paths


def terminal(report: Report, width: int | None = None) -> str:
    """For a person: facts of each set in a line or two, then errors, warnings and notes, then the sum."""
    columns = width or shutil.get_terminal_size((120, 24)).columns
    blocks = [_headline(facts) for facts in report.datasets]
    blocks += [_table(report, columns)] if report.findings else []
    text = "\n\n".join([*blocks, summary(report)])
    return text.encode(errors="backslashreplace").decode()  # the odd bytes of a file name


def summary(report: Report) -> str:
    """The last line: how many findings of each severity."""
    numbers = [_plural(len(report.of(severity)), severity) for severity in SEVERITIES]
    return f"{', '.join(numbers[:-1])} and {numbers[-1]} in {', '.join(facts.dataset for facts in report.datasets)}"


def _plural(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"


def _headline(facts: SetFacts) -> str:
    counts = facts.counts
    parts = [f"{counts[name]:,} {name}" for name in ("images", "patients", "studies", "reports", "boxes") if counts[name]]
    if counts["images with masks"]:
        parts.append(f"{counts['images with masks']:,} images with masks")
    splits = ", ".join(f"{split} {counts[f'images/{split}']:,}" for split in ("train", "val", "test"))
    texts = [
        f"\n  {item.section}s: {_four(item.words)} words, {_four(item.sentences)} sentences (minimum, median, 95 %, maximum)"
        for item in facts.lengths[:1]
    ]
    flags = f"  [{', '.join(facts.flags)}]" if facts.flags else ""
    decoded = "images not looked at" if facts.decoded is None else f"{facts.decoded:,} of {counts['images']:,} images decoded"
    return f"{facts.dataset} {facts.version}{flags}\n  {', '.join(parts)}\n  {splits}; {decoded}{''.join(texts)}"


def _table(report: Report, columns: int) -> str:
    """Check, count, and what was found with what to do; the first examples stand below. By severity."""
    rows: list[list[str]] = []
    for severity in SEVERITIES:
        findings = report.of(severity)
        rows += [[_TITLES[severity], "", ""]] if findings else []
        for item in findings:
            where = f" [{item.dataset}]" if len(report.datasets) > 1 else ""
            text = f"{item.what}{where}; {item.remedy}\n{_first(item, _SHOWN['terminal'])}"
            rows.append([item.check, f"{item.count:,}", text])
    left = sum(max(len(row[place]) for row in rows) + 2 for place in (0, 1))
    widths, align = [None, None, max(40, columns - left)], ("left", "right", "left")
    shown: str = tabulate(rows, tablefmt="plain", maxcolwidths=widths, disable_numparse=True, colalign=align)
    return "\n".join(f"\n{line}" if line.strip() in _TITLES.values() else line for line in shown.splitlines()).lstrip("\n")


def _first(item: Finding, most: int) -> str:
    """The first examples; how many more there are, where each counts as one."""
    whole = len(item.examples) == min(item.count, MOST)
    rest = [f"{item.count - most:,} more" if whole else "..."] if len(item.examples) > most else []
    return "; ".join([*item.examples[:most], *rest])


def markdown(report: Report) -> str:
    """The whole as a document; cells are quoted, so that no id breaks a table."""
    lines = ["# Report of verify", "", f"{report.started}, {report.seconds:g} s, `{report.command}`", "", summary(report), ""]
    header = ["check", "set", "count", "what", "first", "way out"]
    for severity in SEVERITIES:
        rows = [
            [item.check, item.dataset, f"{item.count:,}", item.what, _first(item, _SHOWN["markdown"]), item.remedy]
            for item in report.of(severity)
        ]
        lines += [f"## {_TITLES[severity].capitalize()}", "", *_grid(header, rows)] if rows else []
    return "\n".join([*lines, *(line for facts in report.datasets for line in _section(facts))])


def _section(facts: SetFacts) -> list[str]:
    """What a set holds, beside the published numbers."""
    known = {name: f"{number:,}" for name, number in facts.known.items()}
    counted = [[name, f"{number:,}", known.get(name, "")] for name, number in facts.counts.items()]
    header = ["section", "studies", "words: min, median, 95 %, max", "sentences: min, median, 95 %, max"]
    measured = [[item.section, f"{item.studies:,}", _four(item.words), _four(item.sentences)] for item in facts.lengths]
    digests = ", ".join(f"{split} `{value}`" for split, value in facts.splits.items())
    return [
        f"## {facts.dataset}", "", f"Version {facts.version}; {facts.root or 'drawn, without files'}", "",
        *_grid(["count", "here", "published"], counted), *(_grid(header, measured) if measured else []),
        f"Manifest: {facts.manifest}. Digests of splits: {digests or 'none'}.", "",
    ]  # fmt: skip


def _four(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def _grid(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    quoted = [[cell.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ") for cell in row] for row in rows]
    return [tabulate(quoted, headers=headers, tablefmt="pipe", disable_numparse=True), ""]


def as_text(report: Report) -> str:
    """report.json as `--json` prints it."""
    return json.dumps(to_json(report), indent=1, allow_nan=False, ensure_ascii=True)
