"""One group of the page: a card with a sortable table, drawn intervals and the details of every row."""

from __future__ import annotations

import json
from collections.abc import Mapping

from leaderboards.html_tags import Markup, tag
from leaderboards.rows import Entry, Group, Row
from leaderboards.text import COLUMNS, MEMORY, NONE, arrow, cells, duration, gpu_memory, number, percent, score

_WIDTH, _EDGE = 190, 6  # of an interval's drawing, in its own units
_SORTED = COLUMNS[1:-1]  # between the interval and the flags
_HINTS = {
    "GPU GiB": MEMORY,
    "Time": "sum over the phases of the evaluation",
    "Pretraining": "time and peak allocated GPU memory",
}


def card(place: int, group: Group, environments: Mapping[str, str]) -> Markup:
    """A group as an article.

    Args:
        place: its number on the page, the anchor.
        environments: JSON of an environment -> anchor of its description.
    """
    row = group.first
    chips = [
        tag("code", f"@{row.protocol_hash}", title="hash of the protocol"),
        tag("span", f"{row.dataset} {row.dataset_version}"),
    ]
    chips += [tag("span", f"{percent(row.label_fraction)} of the labels")]
    chips += [tag("span", banner, class_="warn") for banner in group.banners]
    low, high = _axis(group)
    ends = tag("span", tag("i", number(low)), tag("i", number(high)), class_="axis") if high > low else ""
    head = [_sorter("Method"), _sorter(arrow(group)), tag("th", "95 % interval", ends, scope="col", class_="plot")]
    head += [*(_sorter(name) for name in _SORTED), tag("th", "Flags", scope="col")]
    bodies = [_entry(entry, group, (low, high), environments) for entry in group.entries]
    table = tag("table", tag("thead", tag("tr", *head)), *bodies, class_="rows")
    title = tag("h3", row.protocol, tag("small", *chips, class_="chips"))
    words = (
        f"{row.task} {row.dataset} {row.protocol} {row.protocol_hash} {percent(row.label_fraction)} {' '.join(group.banners)}"
    )
    box = tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=f"{row.task}, {row.protocol}")
    return tag("article", title, box, class_="card", id=f"group-{place}", data_words=words.lower())


def _sorter(name: str) -> Markup:
    return tag("th", tag("button", name, type="button", title=_HINTS.get(name)), scope="col", aria_sort="none")


def _axis(group: Group) -> tuple[float, float]:
    """The two ends that all drawings of a group share."""
    values = [entry.value for entry in group.entries if entry.value is not None]
    values += [end for entry in group.entries for end in _ends(entry) or ()]
    return (min(values), max(values)) if values else (0.0, 0.0)


def _ends(entry: Entry) -> tuple[float, float] | None:
    if entry.interval or entry.value is None or entry.spread is None:
        return entry.interval
    return entry.value - entry.spread, entry.value + entry.spread


def _plot(entry: Entry, axis: tuple[float, float]) -> Markup:
    """A point with its interval, or with its spread over seeds (dashed)."""
    low, high = axis
    ends = _ends(entry)
    if entry.value is None or high <= low:
        return Markup("")

    def place(value: float) -> str:
        return f"{_EDGE + (_WIDTH - 2 * _EDGE) * (value - low) / (high - low):.1f}"

    kind = "interval" if entry.interval else "spread"
    said = f"{score(entry)}, {kind} from {number(ends[0])} to {number(ends[1])}" if ends else score(entry)
    parts = [tag("line", x1=_EDGE, x2=_WIDTH - _EDGE, y1=9, y2=9, class_="track")]
    parts += [tag("line", x1=place(ends[0]), x2=place(ends[1]), y1=9, y2=9, class_=kind)] if ends else []
    parts += [tag("circle", cx=place(entry.value), cy=9, r=3.6)]
    return tag("svg", *parts, viewBox=f"0 0 {_WIDTH} 18", role="img", aria_label=said)


def _entry(entry: Entry, group: Group, axis: tuple[float, float], environments: Mapping[str, str]) -> Markup:
    """One line, and below it what there is to say about it."""
    row = entry.first
    name = tag("em", entry.label) if row.role == "reference" else entry.label
    parts = [tag("th", name, scope="row", data_key=entry.label.lower())]
    parts += [tag("td", score(entry), class_="score", data_label=arrow(group), data_key=entry.value)]
    parts += [tag("td", _plot(entry, axis), *_below(entry), class_="plot", data_label="95 % interval")]
    keys = _keys(entry)
    for column, text in zip(_SORTED, cells(entry)[3:-1]):
        shade = "none" if text == NONE else None
        parts.append(tag("td", *_stacked(column, text), class_=shade, data_label=column, data_key=keys[column]))
    parts.append(tag("td", *(tag("span", flag, class_="flag") for flag in entry.flags), class_="flags", data_label="Flags"))
    reason = [tag("p", row.reason, class_="reason")] if row.reason else []
    details = tag("details", tag("summary", *_summary(entry)), *(_run(item, environments) for item in entry.rows))
    second = tag("tr", tag("td", *reason, details, colspan=len(parts)), class_="more")
    words = f"{entry.label} {row.method} {row.status} {row.role} {' '.join(entry.flags)}"
    return tag("tbody", tag("tr", *parts), second, class_=entry.kind, data_words=words.lower())


def _stacked(column: str, text: str) -> list[object]:
    """Memory and pretraining in two lines, so that the columns stay narrow."""
    first, mark, rest = text.partition(" / " if column == "GPU GiB" else " (") if column in _HINTS else (text, "", "")
    return [first, tag("small", f"/ {rest}" if column == "GPU GiB" else rest.rstrip(")"))] if mark else [text]


def _below(entry: Entry) -> list[Markup]:
    if entry.interval:
        return [tag("small", f"[{number(entry.interval[0])}, {number(entry.interval[1])}]")]
    return [] if entry.spread is None else [tag("small", f"± {number(entry.spread)} over {len(entry.rows)} seeds")]


def _keys(entry: Entry) -> dict[str, float | None]:
    """What each column is sorted by."""
    return {
        "Seeds": float(len(entry.rows)),
        "Rows": float(entry.first.n_used),
        "GPU GiB": entry.cost("peak_allocated_mib"),
        "Host MiB": entry.cost("peak_host_mib"),
        "Time": entry.cost("total"),
        "Images/s": entry.cost("images_per_second"),
        "Parameters": entry.cost("params"),
        "GMACs": entry.cost("gmacs"),
        "Pretraining": entry.cost("total", "pretraining"),
    }


def _summary(entry: Entry) -> list[object]:
    """The other metrics of the first seed in one line: what the closed details show."""
    row = entry.first
    known = [(name, metric["value"]) for name, metric in row.metrics.items() if name != row.metric]
    texts = [f"{name} {number(value)}" for name, value in known if value is not None]
    more = [f"{len(texts) - 5} more"] if len(texts) > 5 else []
    seed = f"seed {row.seed}: " if len(entry.rows) > 1 and texts else ""
    return [tag("b", "Details"), tag("span", seed + " · ".join([*texts[:5], *more]))]


def _run(row: Row, environments: Mapping[str, str]) -> Markup:
    """Everything about one result."""
    spec = {name: value for name, value in row.spec.items() if name not in ("config", "splits")}
    spec |= {f"{name} split": value for name, value in row.spec["splits"].items()}
    anchor = environments[json.dumps(row.environment, sort_keys=True)]
    facts = {
        "key": row.key,
        "predictions sha256": row.predictions or NONE,
        "skipped rows": row.skipped,
        "finished": row.finished or NONE,
    }
    metrics = {
        name: number(item["value"]) + (f" [{number(item['low'])}, {number(item['high'])}]" if item["low"] is not None else "")
        for name, item in row.metrics.items()
    }
    cost = {"device": row.cost["device"], "batch size": row.cost["batch_size"] or NONE}
    cost |= {f"{phase} time": duration(value) for phase, value in row.cost["seconds"].items()}
    single = Entry(label=row.title, rows=(row,))
    cost |= {"GPU GiB": gpu_memory(single), "pretraining GPU GiB": gpu_memory(single, "pretraining")}
    boxes = [
        _box("Metrics", metrics),
        _box("Cost", cost),
        _box("Specification", spec),
        _box("Configuration", row.spec["config"]),
    ]
    boxes += [_box("Notes", row.notes), _box("Run", facts)]
    command = [tag("p", "Repeat it: ", tag("code", row.command))] if row.command else []
    place = tag("p", tag("a", "Environment", href=f"#{anchor}"))
    return tag("div", tag("h4", f"seed {row.seed}"), tag("div", *boxes, class_="boxes"), *command, place, class_="run")


def _box(title: str, pairs: Mapping[str, object]) -> Markup:
    """A list of names and values; empty where there are none."""
    if not pairs:
        return Markup("")
    return tag("section", tag("h5", title), pairs_list(pairs))


def pairs_list(pairs: Mapping[str, object]) -> Markup:
    """A definition list; mappings inside it are written as JSON."""
    texts = {
        name: json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value for name, value in pairs.items()
    }
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", text)) for name, text in texts.items()))
