"""Rows of an efficiency record as cells, as ratios to the dual stream, and as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

HEADERS = ("method", "settings", "batch", "precision", "s/step (quartiles)", "images/s", "GMACs/pair", "TFLOP/s", "MFU",
           "of matmul", "peak MiB", "above static", "static MiB", "host MiB", "J/1000 images")  # fmt: skip
RATIO_HEADERS = ("single stream over dual", "alignment", "s/step", "GMACs", "peak", "above static", "host over idle")
EXPLAINED = """\
s/step: median of the measured steps (lower and upper quartile): loss on generated input, backward, clipping, optimizer.
GMACs/pair: multiply-adds of a forward pass for one image and its report (torch's FlopCounterMode). TFLOP/s: 3 times the forward
operations over the time of a step. MFU: TFLOP/s over the data sheet's peak at this precision. of matmul: over what a plain
matrix product reaches on this machine. peak: of tensors; above static: over parameters, gradients and optimizer state.
host: resident memory of the measuring process. A dash: not available here."""

Row = Mapping[str, Any]


def table_rows(rows: Sequence[Row]) -> list[list[str]]:
    """Cells under HEADERS; a dash where there is no figure."""
    return [_cells(row) for row in rows]


def _cells(row: Row) -> list[str]:
    settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
    batch = f"{row['batch_size']}{' (largest)' if row['tried'] else ''}"
    where = [row["method"], settings, batch, row["precision"]]
    if "error" in row:
        return [*where, row["error"], *["—"] * (len(HEADERS) - 5)]
    low, high = row["seconds_quartiles"]
    return [
        *where,
        f"{row['seconds']:.3f} ({low:.3f}-{high:.3f})",
        _shown(row["images_per_second"], 1),
        _shown(row["gmacs"], 2),
        _shown(row["tflops"], 3),
        _percent(row["of_peak"]),
        _percent(row["of_matmul"]),
        *(_shown(row[name]) for name in ("peak_allocated_mib", "above_static_mib", "static_mib", "peak_host_mib")),
        _shown(row["joules_per_1000_images"]),
    ]


def _shown(value: float | None, digits: int = 0) -> str:
    return "—" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "—" if value is None else f"{100 * value:.1f} %"


def ratio_rows(rows: Sequence[Row]) -> list[list[str]]:
    """Single stream over dual stream, by alignment, at the same batch and precision; under RATIO_HEADERS."""
    found = []
    measured = [row for row in rows if "stream" in row["settings"] and "error" not in row]
    for single in (row for row in measured if row["settings"]["stream"] == "single"):
        for dual in (row for row in measured if row["settings"]["stream"] == "dual"):
            same = all(single[name] == dual[name] for name in ("method", "batch_size", "precision", "image_size", "tokens"))
            if same and single["settings"].get("alignment") == dual["settings"].get("alignment"):
                found.append(_ratios(single, dual))
    return found


def _ratios(single: Row, dual: Row) -> list[str]:
    def ratio(one: float | None, other: float | None) -> str:
        return "—" if one is None or not other else f"{one / other:.3f}"

    def over_idle(row: Row) -> float | None:
        known = row["peak_host_mib"] is not None and row["host_idle_mib"] is not None
        return row["peak_host_mib"] - row["host_idle_mib"] if known else None

    names = ("seconds", "gmacs", "peak_allocated_mib", "above_static_mib")
    figures = [ratio(single[name], dual[name]) for name in names]
    backward = f"{single['method']} {single['batch_size']}, dual {dual['settings'].get('backward', 'joint')}"
    return [backward, single["settings"].get("alignment", "—"), *figures, ratio(over_idle(single), over_idle(dual))]


def printed(rows: Sequence[Row]) -> str:
    """The table, and under it the ratios where there are corners, for a terminal."""
    ratios = ratio_rows(rows)
    below = f"\n\n{tabulate(ratios, headers=RATIO_HEADERS, disable_numparse=True)}" if ratios else ""
    return f"{tabulate(table_rows(rows), headers=HEADERS, disable_numparse=True)}{below}"


def markdown(record: Mapping[str, Any], figure: str = "") -> str:
    """A record as a page: machine, command, table, ratios, parts of a step, what was tried."""
    rows = record["rows"]
    parts = [f"# Training steps on {record['environment'].get('gpu') or record['environment'].get('machine', 'a CPU')}"]
    parts.append(f"    {record['command']}")
    known = ", ".join(f"{name} {value}" for name, value in record["environment"].items())
    parts += [known, _piped(HEADERS, table_rows(rows)), EXPLAINED]
    if ratio_rows(rows):
        parts.append(_piped(RATIO_HEADERS, ratio_rows(rows)))
    shares = [_shares(row) for row in rows if row.get("phase_seconds")]
    if shares:
        parts += ["Share of a step, each part waited for:", _piped(("method", "settings", "batch", *PHASES), shares)]
    tried = [_tries(row) for row in rows if row["tried"]]
    if tried:
        parts += ["Batch sizes that were tried for the largest, within a sixteenth:", *tried]
    return "\n\n".join([*parts, *([f"![batch against time and memory]({figure})"] if figure else [])]) + "\n"


PHASES = ("forward", "backward", "optimizer")


def _shares(row: Row) -> list[str]:
    whole = sum(row["phase_seconds"].values())
    shares = [_percent(row["phase_seconds"].get(name, 0.0) / whole) for name in PHASES]
    return [*_cells(row)[:3], *shares]


def _tries(row: Row) -> str:
    tries = ", ".join(f"{size} {'fitted' if fitted else 'did not fit'}" for size, fitted in row["tried"])
    return f"- {row['method']}: {tries}"


def _piped(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return str(tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True))
