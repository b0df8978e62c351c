"""Batch against time and memory, or memory against time where each row has one batch; an SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def figure(rows: Sequence[Row], kind: str = "svg") -> bytes:
    """The figure of the rows that were measured, at least one, as an SVG or a PNG: the same rows give the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    lines: dict[str, list[Row]] = {}
    for row in rows:
        if "error" not in row:
            lines.setdefault(_name(row), []).append(row)
    canvas = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = canvas.subplots(1, 2)
    several = any(len({row["batch_size"] for row in line}) > 1 for line in lines.values())
    if several:
        _curves(left, lines, "seconds", "seconds a step")
        _curves(right, lines, _memory(rows), _memory_label(rows))
    else:
        _bars(left, lines, "seconds", "seconds a step (quartiles)")
        _bars(right, lines, _memory(rows), _memory_label(rows))
        right.tick_params(axis="y", labelleft=False)
    if several:
        canvas.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": "efficiency"}):
        buffer = io.BytesIO()
        canvas.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else {})
    return buffer.getvalue()


def _name(row: Row) -> str:
    settings = " ".join(map(str, row["settings"].values()))
    return f"{row['method']} {settings} {row['precision']}".replace("  ", " ")


def _memory(rows: Sequence[Row]) -> str:
    on_gpu = any(row.get("peak_allocated_mib") is not None for row in rows)
    return "peak_allocated_mib" if on_gpu else "peak_host_mib"


def _memory_label(rows: Sequence[Row]) -> str:
    return "peak memory of tensors, GiB" if _memory(rows) == "peak_allocated_mib" else "peak resident memory, GiB"


def _value(row: Row, name: str) -> float:
    value = row[name]
    return float("nan") if value is None else value / 1024 if name.endswith("_mib") else value


def _curves(axes: Any, lines: Mapping[str, Sequence[Row]], name: str, label: str) -> None:
    for title, line in lines.items():
        ordered = sorted(line, key=lambda row: int(row["batch_size"]))
        axes.plot([row["batch_size"] for row in ordered], [_value(row, name) for row in ordered], marker="o", label=title)
    axes.set(xlabel="batch size", ylabel=label, xscale="log")
    axes.set_ylim(bottom=0)
    axes.set_xticks(ticks := sorted({row["batch_size"] for line in lines.values() for row in line}), list(map(str, ticks)))
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def _bars(axes: Any, lines: Mapping[str, Sequence[Row]], name: str, label: str) -> None:
    rows = [line[0] for line in lines.values()]
    values = [_value(row, name) for row in rows]
    places = list(range(len(rows)))
    spread = None
    if name == "seconds":
        low, high = zip(*(row["seconds_quartiles"] for row in rows))
        spread = [
            [max(0.0, value - at) for value, at in zip(values, low)],
            [max(0.0, at - value) for value, at in zip(values, high)],
        ]
    axes.barh(places, values, xerr=spread, capsize=3)
    axes.set_yticks(places, [f"{title}, batch {row['batch_size']}" for title, row in zip(lines, rows)])
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
