"""What `verify` looks for, by name, and what it found. docs/verify.md explains each check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
MOST = 1000  # examples kept of a finding; its count is of all


@dataclass(frozen=True, slots=True)
class Check:
    """A kind of defect. severity: error, scores would be wrong or rows are lost; warning, they may be; note, good to know.

    remedy: what to do, or what follows; one clause.
    """

    severity: Severity
    remedy: str


CHECKS: dict[str, Check] = {
    "count-differs": Check("error", "download the set again, or name the other release beside scores"),
    "image-missing": Check("error", "download the files again, or leave their rows out"),
    "image-unreadable": Check("error", "download the files again, or leave their rows out"),
    "mask-missing": Check("error", "download the masks again, or empty their cells"),
    "mask-unreadable": Check("error", "download the masks again, or empty their cells"),
    "mask-size": Check("error", "save each mask in the size of its image"),
    "mask-values": Check("error", "save masks as 8-bit gray with background, structure and ignore alone"),
    "uid-twice": Check("error", "make ids unique"),
    "split-unknown": Check("error", "use train, val or test"),
    "patient-across-splits": Check("error", "give all images of a patient the same split"),
    "study-of-two-patients": Check("error", "make study ids unique over patients"),
    "pixels-across-splits": Check("error", "keep one copy, or put all copies into one split"),
    "label-value": Check("error", "use 1, 0, or nothing for unknown"),
    "label-length": Check("error", "give one label a class"),
    "box-without-area": Check("error", "correct the corners, or leave the box out"),
    "box-outside": Check("error", "clip the box to its image"),
    "box-label": Check("error", "name the box after a box class, or add the class"),
    "image-constant": Check("warning", "look at the files and leave their rows out if nothing is in them"),
    "mask-against-table": Check("warning", "look at image and mask and correct the one that is wrong"),
    "pixels-with-other-labels": Check("warning", "keep the copy whose labels are right"),
    "pixels-within-split": Check("warning", "keep one copy"),
    "near-duplicates": Check("warning", "look at the pairs and put copies into one split"),
    "report-without-words": Check("warning", "leave these texts out of training and retrieval"),
    "age-range": Check("warning", "correct the age, or leave it empty"),
    "sex-value": Check("warning", "use F, M, or nothing for unknown"),
    "sets-of-one-family": Check("warning", "name the overlap beside scores, or leave the common images out of one set"),
    "patients-across-sets": Check("warning", "leave these patients out of pretraining"),
    "pixels-across-sets": Check("warning", "leave these images out of pretraining"),
    "near-duplicates-across-sets": Check("warning", "look at the pairs and leave copies out of pretraining"),
    "class-one-sided": Check("note", "a ROC curve is undefined there"),
    "report-missing": Check("note", "tasks that need text leave them out"),
    "report-shared": Check("note", "count every equal text as right in retrieval"),
    "image-surplus": Check("note", "nothing to be done, unless the table should name them"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A defect of one kind in one data set (or pair of sets), with how often it occurs.

    what: one clause that goes with the count. examples: uids, pairs of them or files, the first MOST.
    """

    check: str
    dataset: str
    count: int
    what: str
    examples: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        """Of its check."""
        return CHECKS[self.check].severity

    @property
    def remedy(self) -> str:
        """Of its check."""
        return CHECKS[self.check].remedy


def found(check: str, dataset: str, examples: Sequence[str], what: str, count: int | None = None) -> list[Finding]:
    """One finding, or none where there are no examples; the count is theirs unless given."""
    number = len(examples) if count is None else count
    return [Finding(check=check, dataset=dataset, count=number, what=what, examples=tuple(examples[:MOST]))] if number else []


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFacts:
    """What a data set holds. counts: as `counts` gives them; known: as published. lengths: one row a section.

    decoded: images that could be read, None where none was looked at. manifest: its digest, or why there is none.
    """

    dataset: str
    version: str
    root: str
    flags: tuple[str, ...]
    counts: Mapping[str, int]
    known: Mapping[str, int]
    lengths: tuple[Lengths, ...] = ()
    decoded: int | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    manifest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long a section is over studies: minimum, median, 95th percentile, maximum."""

    section: str
    studies: int
    words: tuple[int, int, int, int]
    sentences: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that one call of `verify` found, in the order of severity."""

    command: str
    started: str  # ISO 8601 UTC
    seconds: float
    datasets: tuple[SetFacts, ...]
    findings: tuple[Finding, ...]

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of a severity."""
        return tuple(item for item in self.findings if item.severity == severity)
