"""The board as one HTML file: no network, works from file://, light and dark, on a phone and on paper."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256

from leaderboards.html_assets import SCRIPT, STYLE
from leaderboards.html_rows import card, pairs_list
from leaderboards.html_tags import Markup, tag
from leaderboards.rows import Entry, Group
from leaderboards.text import EMPTY, NONE, arrow, left_out, notes, number, percent, score, task_title

_TITLE = "Chest X-ray vision-language leaderboard"


def html_page(groups: Sequence[Group], refused: Sequence[tuple[str, str]]) -> str:
    """The whole file. Nothing is fetched: a content security policy allows this style and this script alone."""
    policy = (
        f"default-src 'none'; style-src '{_source(STYLE)}'; script-src '{_source(SCRIPT)}'; base-uri 'none'; form-action 'none'"
    )
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", _TITLE),
        tag("style", Markup(STYLE)),
    )
    environments = _environments(groups)
    anchors = {text: f"environment-{place}" for place, text in enumerate(environments)}
    numbered = list(enumerate(groups))
    sections = [_section(task, place, numbered, anchors) for place, task in enumerate(_tasks(groups))]
    main = tag("main", *_glance(numbered), *sections) if groups else tag("main", tag("p", EMPTY, class_="card empty"))
    body = tag("body", _header(groups), main, _footer(groups, refused, environments), tag("script", Markup(SCRIPT)))
    return f"<!doctype html>\n{tag('html', tag('head', *head), body, lang='en')}\n"


def _source(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _tasks(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(group.first.task for group in groups))


def _environments(groups: Sequence[Group]) -> dict[str, Mapping[str, object]]:
    return {json.dumps(row.environment, sort_keys=True): row.environment for group in groups for row in group.rows}


def _plural(number_of: int, word: str) -> str:
    return f"{number_of} {word}{'' if number_of == 1 else 's'}"


def _header(groups: Sequence[Group]) -> Markup:
    rows = [row for group in groups for row in group.rows]
    methods = {row.variant for row in rows if row.role == "method"}
    sets = {(row.dataset, row.dataset_version) for row in rows}
    facts = [_plural(len(methods), "method"), _plural(len(_tasks(groups)), "task family").replace("familys", "families")]
    facts += [_plural(len(sets), "data set"), _plural(len(groups), "table"), _plural(len(rows), "result")]
    if latest := max((row.finished for row in rows), default=""):
        facts.append(f"last one {latest[:16].replace('T', ' ')} UTC")
    banners = dict.fromkeys(banner for group in groups for banner in group.banners)
    links = [tag("a", task_title(task), href=f"#task-{place}") for place, task in enumerate(_tasks(groups))]
    search = tag(
        "input", id="filter", type="search", placeholder="Filter: method, task, flag …", aria_label="Filter rows", hidden=""
    )
    bar = tag("nav", *links, search, tag("span", id="shown", aria_live="polite"), aria_label="Tasks")
    lead = tag("p", "Score, interval, memory and time of every method, under one protocol a table.", class_="lead")
    facts_list = tag("ul", *(tag("li", fact) for fact in facts), class_="facts")
    warnings = [tag("p", banner, class_="banner") for banner in banners]
    return Markup(
        tag("header", tag("h1", _TITLE), lead, *([facts_list, *warnings] if groups else [])) + (bar if groups else "")
    )


def _section(task: str, place: int, groups: Sequence[tuple[int, Group]], anchors: Mapping[str, str]) -> Markup:
    cards = [card(number_of, group, anchors) for number_of, group in groups if group.first.task == task]
    return tag("section", tag("h2", task_title(task)), *cards, id=f"task-{place}", class_="task")


def _glance(groups: Sequence[tuple[int, Group]]) -> list[Markup]:
    """For each data set a table of methods against protocols; references stand in the tables below."""
    tables = []
    for dataset in dict.fromkeys((group.first.dataset, group.first.dataset_version) for _, group in groups):
        chosen = [(place, group) for place, group in groups if (group.first.dataset, group.first.dataset_version) == dataset]
        # From last to first: where a seed failed and others did not, the line with a score stands.
        columns = [{e.first.variant: e for e in reversed(g.entries) if e.first.role == "method"} for _, g in chosen]
        labels = {variant: entry.label for column in reversed(columns) for variant, entry in column.items()}
        if not labels:
            continue
        head = [tag("th", "Method", scope="col"), *(_glance_head(place, group) for place, group in chosen)]
        order = dict.fromkeys(variant for column in columns for variant in reversed(column))
        lines = [
            tag(
                "tr",
                tag("th", labels[variant], scope="row"),
                *(_glance_cell(variant, column, g) for column, (_, g) in zip(columns, chosen)),
            )
            for variant in order
        ]
        table = tag(
            "table", tag("caption", " ".join(dataset)), tag("thead", tag("tr", *head)), tag("tbody", *lines), class_="glance"
        )
        tables.append(tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=f"At a glance: {dataset[0]}"))
    hint = tag(
        "p", "A stronger shade is nearer to the best method of its column; no column is averaged with another.", class_="hint"
    )
    return [tag("section", tag("h2", "At a glance"), tag("div", *tables, hint, class_="card"), class_="task")] if tables else []


def _glance_head(place: int, group: Group) -> Markup:
    row = group.first
    share = f", {percent(row.label_fraction)}" if row.label_fraction != 1 else ""
    link = tag("a", task_title(row.task), href=f"#group-{place}")
    return tag("th", link, tag("small", f"{row.protocol}{share}"), tag("small", arrow(group), class_="metric"), scope="col")


def _glance_cell(variant: tuple[str, ...], column: Mapping[tuple[str, ...], Entry], group: Group) -> Markup:
    entry = column.get(variant)
    if entry is None or entry.value is None:
        return tag("td", NONE if entry is None else score(entry), class_="gone")
    values = [other.value for other in column.values() if other.value is not None]
    low, high = min(values), max(values)
    share = (entry.value - low) / (high - low) if high > low else 0.0
    return tag(
        "td", number(entry.value), class_=f"shade-{round(4 * (share if group.higher_is_better or high == low else 1 - share))}"
    )


def _footer(
    groups: Sequence[Group], refused: Sequence[tuple[str, str]], environments: Mapping[str, Mapping[str, object]]
) -> Markup:
    parts: list[Markup] = []
    if groups:
        parts += [tag("h2", "How to read it"), tag("ul", *(tag("li", line) for line in notes(groups)))]
    if refused:
        parts += [tag("h2", "Left out"), tag("ul", *(tag("li", line) for line in left_out(refused)))]
    if environments:
        parts.append(tag("h2", "Environments"))
    for place, environment in enumerate(environments.values()):
        parts.append(tag("div", pairs_list(environment), class_="card", id=f"environment-{place}"))
    return tag("footer", *parts)
