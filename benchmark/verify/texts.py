"""Checks of reports: missing, without a word, shared by studies; and how long they are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.data.sections import replace_placeholders
from benchmark.data.text import REPORT, join_sections, split_sentences
from benchmark.types import Record
from benchmark.verify.findings import Finding, Lengths, found

WHOLE = "report"  # what tasks read: findings, or the whole report, and the impression
READ = (
    "findings",
    "impression",
    WHOLE,
)  # sections of it; a comparison or indication that says XXXX alone is common and harmless
_LISTED = 8  # sections with a line of their own, the commonest


def check_texts(dataset: str, records: Sequence[Record]) -> list[Finding]:
    """Studies without text, with text in which no word is left but de-identification marks, and with the text of another."""
    texts = _studies(records)
    missing = [study for study, sections in texts.items() if not any(text.strip() for text in sections.values())]
    if len(missing) == len(texts):
        missing = []  # a set without reports
    wordless = [
        f"{study} ({name})" for study, sections in texts.items() for name, text in sections.items()
        if name in READ and text.strip() and not _has_words(text)
    ]  # fmt: skip
    return [
        *found("report-without-words", dataset, wordless, "sections have no word but marks of what was removed (___, XXXX)"),
        *found("report-missing", dataset, missing, f"of {len(texts):,} studies have no text"),
        *_shared(dataset, records, texts),
    ]


def _shared(dataset: str, records: Sequence[Record], studies: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    owners: dict[str, list[str]] = defaultdict(list)
    for study, sections in studies.items():
        text = join_sections(sections, REPORT)
        if _has_words(text):
            owners[text].append(study)
    equal = sorted((group for group in owners.values() if len(group) > 1), key=len, reverse=True)
    splits = {record.study: record.split for record in records}
    mixed = sum(len({splits[study] for study in group}) > 1 for group in equal)
    number = sum(map(len, equal))
    what = (
        f"of {sum(map(len, owners.values())):,} studies with text share it word for word: {len(equal):,} texts, {mixed:,} "
        "of them in several splits"
    )
    return found("report-shared", dataset, [f"{group[0]} (with {len(group) - 1} more)" for group in equal], what, number)


def lengths(records: Sequence[Record]) -> tuple[Lengths, ...]:
    """How long texts are: the whole that tasks read, then its commonest sections."""
    measured: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for sections in _studies(records).values():
        texts = {name: text for name, text in sections.items() if text.strip() and name != WHOLE}
        whole = join_sections(sections, REPORT)
        for name, text in {**({WHOLE: whole} if whole else {}), **texts}.items():
            measured[name].append((len(text.split()), len(split_sentences(text))))
    commonest = [name for name, _ in Counter({name: len(items) for name, items in measured.items()}).most_common()]
    order = sorted(commonest[:_LISTED], key=lambda name: name != WHOLE)
    return tuple(_lengths(name, np.array(measured[name])) for name in order)


def _lengths(name: str, values: np.ndarray) -> Lengths:
    marks = np.percentile(values, [0, 50, 95, 100], axis=0, method="higher").astype(int)
    words, sentences = (tuple(column.tolist()) for column in marks.T)
    return Lengths(section=name, studies=len(values), words=words, sentences=sentences)


def _studies(records: Sequence[Record]) -> dict[str, Mapping[str, str]]:
    """Study -> its sections, of the first image that has some."""
    texts: dict[str, Mapping[str, str]] = {}
    for record in records:
        if not texts.get(record.study):
            texts[record.study] = record.sections
    return texts


def _has_words(text: str) -> bool:
    return any(letter.isalpha() for letter in replace_placeholders(text, ""))
