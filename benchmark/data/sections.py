"""Radiology reports to sections: findings, impression and the rest, from the free text of MIMIC-CXR, Open-i and the like.

Pure functions of text. Sources of the header names: the section parser that MIT-LCP publishes for MIMIC-CXR (names and how
often each occurs), the section titles of NegBio (ncbi-nlp/NegBio@073199e2), the reports of Open-i, and the columns of CheXpert
Plus. Where the rules here differ from the parser of MIMIC-CXR, the difference is named in `parse_sections`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import chain
from typing import Literal

PARSER = 2  # raised whenever a report gives other sections; sources write it into their version
PREAMBLE = "preamble"
MAIN = ("findings", "impression")
TRAILING = frozenset({"notification", "recommendations", "addendum", "wet_read", "note", "comment"})
_SAME = {  # header, in lower case and single spaces -> section
    "findings": "findings", "finding": "findings", "impression": "impression", "impressions": "impression",
    "conclusion": "impression", "conclusions": "impression", "opinion": "impression",
    "findings and impression": "impression", "findings/impression": "impression", "findings / impression": "impression",
    "indication": "indication", "indications": "indication", "reason for exam": "indication",
    "reason for examination": "indication", "reason for study": "indication", "clinical indication": "indication",
    "history": "history", "clinical history": "history", "patient history": "history", "clinical information": "history",
    "comparison": "comparison", "comparisons": "comparison", "technique": "technique", "procedure": "technique",
    "examination": "examination", "exam": "examination", "type of examination": "examination", "study": "examination",
    "recommendation": "recommendations", "recommendations": "recommendations", "recommendation(s)": "recommendations",
    "notification": "notification", "notifications": "notification", "addendum": "addendum", "final addendum": "addendum",
    "wet read": "wet_read", "wetread": "wet_read", "preliminary report": "wet_read", "preliminary read": "wet_read",
    "pfi": "wet_read", "note": "note", "please note": "note", "comment": "comment", "comments": "comment",
    "amendment": "addendum", "assessment": "impression", "medical condition": "indication", "contrast": "technique",
    "reason for this examination": "indication", "reason for this exam": "indication", "reason for the exam": "indication",
    "questions to be answered": "indication", "history of present illness": "history", "interval history": "history",
    "comparison exam": "comparison", "comparison exams": "comparison", "comparison film": "comparison",
    "comparison films": "comparison", "comparison study": "comparison", "comparison studies": "comparison",
    "prior exam": "comparison", "prior study": "comparison", "type of exam": "examination", "date of exam": "examination",
    "accession number": "examination", "medications": "medications", "iv contrast": "technique",
    "procedure details": "technique", "dictated by": "signature", "signed by": "signature", "transcribed by": "signature",
    "electronically signed by": "signature", "attending radiologist": "signature", "signature": "signature",
    "end of impression": "end_of_impression", "final report": PREAMBLE,
}  # fmt: skip
_PARTS = (  # a longer header is named by the first of these words that it contains
    ("impression", "impression"), ("conclusion", "impression"), ("comparison", "comparison"), ("reference exam", "comparison"),
    ("reason for", "indication"), ("indication", "indication"), ("history", "history"), ("technique", "technique"),
    ("recommendation", "recommendations"), ("addendum", "addendum"), ("finding", "findings"), ("examination", "examination"),
)  # fmt: skip
_VIEW = re.compile(
    r"\b(chest|portable|views?|frontal|lateral|lat|(semi-?)?upright|supine|radiographs?|x-?rays?|cxr|ap|pa|ribs|bone window)\b"
)
_ORGAN = re.compile(  # headers of a structured report: they stay in the text of the findings
    r"^(?:and|the|left|right|other|upper|lower|[/,&() ]|lungs?|lung parenchyma|pleurae?|pleural spaces?|airways?|trachea|heart|"
    r"heart size|cardiac silhouette|cardiomediastinal silhouette|cardiomediastinum|cardiovascular|mediastinum|"
    r"mediastinal contours?|hila|hilum|vascularity|pulmonary vasculature|vasculature|bones?|osseous structures|"
    r"bony structures|bony thorax|skeleton|soft tissues?|chest wall|diaphragms?|abdomen|"
    r"upper abdomen|lines|tubes|catheters|devices|support devices|hardware)+$"
)
_LINE = re.compile(r"^[ \t]*([A-Za-z][A-Za-z0-9 ()/,&-]{1,60}?)[ \t]*:(?=\s|$)|^[ \t]*([A-Z][A-Z ()/,&-]{3,40})[ \t]*$", re.M)
_NAMES = "|".join(sorted((re.escape(name) for name in _SAME if len(name) > 5), key=len, reverse=True))
_INLINE = re.compile(
    rf"(?:(?<=[.?!:;)\]])|(?<=XXXX)|(?<=___))[ \t]+((?i:{_NAMES}))[ \t]*:(?=\s)"
    rf"|(?<=[a-z0-9,%])[ \t]+({_NAMES.upper()})[ \t]*:(?=\s)"
    r"|(?<=[A-Z])(?<!\bAND)[ \t]+(FINDINGS|IMPRESSION|COMPARISON)[ \t]*:(?=\s)"
)
_MARKER = re.compile(r"^([ \t]*(?:FINAL REPORT|FINAL ADDENDUM|PRELIMINARY REPORT))\b[ \t]*:?[ \t]*", re.M)
_RULE = re.compile(r"^[ \t]*(?:_{10,}|-{5,}|={5,}|\*{5,})[ \t]*$", re.M)
_CANDIDATE = re.compile(r"^.*:.*$|^[^a-z\n]+$", re.M)  # lines that may be or begin with a header
_COLON = re.compile(r":(?=\s)")
_WINDOW = max(map(len, _SAME)) + 16  # letters before a colon in which a known name begins
_ITEM = re.compile(r"^(?:\d{1,2}[.)]|[-*•])\s")
_PLACEHOLDER = re.compile(r"_{2,}|\b[Xx]{3,}\b|\[\*\*.*?\*\*\]")


@dataclass(frozen=True, slots=True)
class _Part:
    """A section where it stands. name: of the section. text: raw, below its header. title: the header stays in the text."""

    name: str
    text: str
    title: str = ""


def parse_sections(text: str, several: Literal["join", "last"] = "join") -> dict[str, str]:
    """The sections of a report.

    A header is a name before a colon at the start of a line (or alone on its line) in capitals, or a known name in any
    spelling that starts with a capital. Inside a line, known names count behind the end of a sentence, known names in capitals
    behind small letters too, and the three commonest anywhere. Names a letter or two off are read as the nearest known
    one. A title of the views ("CHEST, PA AND LATERAL:") with text below it heads findings; organ names ("LUNGS:") belong to
    the findings, or to the impression above them, and stay in the text. "FINDINGS AND IMPRESSION" is an impression.
    What stands before a line "FINAL REPORT" is a wet read or an addendum: its findings and impression are not the report's.
    Where neither findings nor impression exists, the paragraphs behind the first one of the last section are
    "last_paragraph", as in MIMIC-CXR.

    Differs from the parser published for MIMIC-CXR: sections that occur several times are joined ("last" keeps the last
    one, as there), organ headers do not end the findings, headers inside a line and in mixed case count.
    De-identification marks (___, XXXX) are left as they are, see `replace_placeholders`.

    Args:
        text: the whole report, any line ends.
        several: what becomes of a section that occurs more than once.

    Returns:
        Section -> text without empty ones, in the order of their first occurrence: lines joined by a space, paragraphs and
        items of a list by a line end. A report without any header is all "preamble".

    >>> parse_sections("FINAL REPORT\\n FINDINGS:  Clear\\n lungs.\\n \\n IMPRESSION:  Normal.")
    {'findings': 'Clear lungs.', 'impression': 'Normal.'}
    """
    parts = _split(_clean(text))
    parts = [part for part in parts if part.text.strip()]
    if not any(part.name in MAIN for part in parts):
        parts = _last_paragraph(parts)
    found: dict[str, list[str]] = {}
    for part in parts:
        whole = _tidy(f"{part.title}: {part.text.strip()}" if part.title else part.text)
        if whole not in found.setdefault(part.name, []):
            found[part.name].append(whole)
    return {name: texts[-1] if several == "last" else "\n".join(texts) for name, texts in found.items()}


def report_sections(text: str) -> dict[str, str]:
    """The sections of a record: as parse_sections, and "report" where there is neither findings nor impression.

    That report is the last paragraph, else the text that no header claims; without either it is left out. So "findings|report"
    and then "impression" never holds a text twice.
    """
    found = parse_sections(text)
    preamble, last = found.pop(PREAMBLE, ""), found.pop("last_paragraph", "")
    if not any(name in found for name in MAIN) and (last or preamble):
        found["report"] = last or preamble
    return found


def replace_placeholders(text: str, token: str = "___") -> str:  # noqa: S107  (a word of a text, not a secret)
    """One mark for what was removed to protect patients: ___ (MIMIC), XXXX (Open-i) and [** **] become the token.

    An empty token removes them with the space before them.

    >>> replace_placeholders("Compared to XXXX, ___-year-old.", "[MASK]")
    'Compared to [MASK], [MASK]-year-old.'
    """
    if token:
        return _PLACEHOLDER.sub(lambda _: token, text)
    return re.sub(rf"[ \t]*(?:{_PLACEHOLDER.pattern})", "", text).strip()


def _clean(text: str) -> str:
    text = text.replace("\ufeff", "").replace("\u00a0", " ").replace("\r\n", "\n").replace("\r", "\n")
    return _MARKER.sub(lambda match: match[1] + ":\n", _RULE.sub("", text))


def _split(text: str) -> list[_Part]:
    """The report cut at its headers. What precedes the last "FINAL REPORT" holds no findings and no impression."""
    headers = _headers(text)
    final = max((start for start, _, name, _ in headers if name == PREAMBLE), default=-1)
    ends = [start for start, *_ in headers[1:]] + [len(text)]
    parts = [_Part(PREAMBLE, text[: headers[0][0]] if headers else text)]
    block = "wet_read"  # what a finding before the final report belongs to
    for (start, stop, name, title), end in zip(headers, ends):
        if name in ("addendum", "wet_read"):
            block = name
        organ = title if name == "findings" and _ORGAN.match(title.lower()) else ""
        if organ and parts[-1].name == "impression":
            name = "impression"
        parts.append(_Part(block if start < final and name in MAIN else name, text[stop:end], organ))
    return parts


def _headers(text: str) -> list[tuple[int, int, str, str]]:
    """(start, end, section, header as written) in order, none inside another; an organ outside findings opens them."""
    found = []
    for match in filter(None, chain(_at_lines(text), _at_colons(text))):
        header = " ".join(match[match.lastindex or 0].split())
        name = _resolve(header.lower())
        alone = match.re is _LINE and match.lastindex == 2  # without a colon: known names alone
        if (match.re is _INLINE and not header[0].isupper()) or (alone and header.lower() not in _SAME):
            continue
        if _PLACEHOLDER.fullmatch(header):  # a name that was removed
            continue
        if not header.isupper() and not _is_title(text, match.start(), header):
            continue
        found.append((match.start(), match.end(), name, header))
    found.sort()
    return [item for index, item in enumerate(found) if index == 0 or item[0] >= found[index - 1][1]]


def _at_lines(text: str) -> Iterator[re.Match[str] | None]:
    """Headers at the start of lines."""
    return (_LINE.match(text, *line.span()) for line in _CANDIDATE.finditer(text))


def _at_colons(text: str) -> Iterator[re.Match[str] | None]:
    """Headers inside lines, looked for where a colon stands: the pattern is slow on a whole report."""
    before = 0
    for colon in _COLON.finditer(text):
        yield _INLINE.search(text, max(before, colon.start() - _WINDOW), colon.end() + 1)
        before = colon.end()


def _is_title(text: str, start: int, header: str) -> bool:
    """Whether a header that is not in capitals is one: a known name or nearly, and a capital or an empty line before it."""
    return _nearest(header.lower()) in _SAME and (
        header[0].isupper() or not text[:start].strip() or text[:start].endswith("\n\n")
    )


@lru_cache(maxsize=4096)
def _resolve(header: str) -> str:
    """The section of a header in lower case; its own name, with underscores, where it is no known one."""
    if header in _SAME:
        return _SAME[header]
    for part, name in _PARTS:
        if part in header:
            return name
    if _ORGAN.match(header) or (_VIEW.search(header) and "reason" not in header):
        return "findings"
    near = _nearest(header)
    return _SAME[near] if near in _SAME else re.sub(r"[^a-z0-9]+", "_", header).strip("_")


@lru_cache(maxsize=4096)
def _nearest(header: str) -> str:
    """The known name that a header in lower case is, or is a letter or two off; else the header."""
    near = [header] if header in _SAME else get_close_matches(header, _SAME, n=1, cutoff=0.88)
    return near[0] if near else header


def _last_paragraph(parts: list[_Part]) -> list[_Part]:
    """The parts with the paragraphs behind the first one of the last section apart, notices and recommendations aside."""
    for index in range(len(parts) - 1, -1, -1):
        part = parts[index]
        if part.name in TRAILING or part.name == PREAMBLE:
            continue
        first, *rest = re.split(r"\n[ \t]*\n", part.text)
        if _tidy("\n\n".join(rest)):
            split = [_Part(part.name, first)] if _tidy(first) else []
            return [*parts[:index], *split, _Part("last_paragraph", "\n\n".join(rest)), *parts[index + 1 :]]
        break
    return parts


def _tidy(text: str) -> str:
    """Lines joined by a space; paragraphs and items of a list by a line end."""
    lines: list[str] = []
    fresh = True
    for line in text.split("\n"):
        words = " ".join(line.split())
        if words and (fresh or _ITEM.match(words)):
            lines.append(words)
        elif words:
            lines[-1] += " " + words
        fresh = not words
    return "\n".join(lines)
