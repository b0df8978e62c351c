"""`verify`: is a data set on this disk what it should be, is each image readable, and does nothing leak between splits?

Names of checks and what they mean: docs/verify.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations, permutations, product
from pathlib import Path

from benchmark.data.manifest import write_manifest
from benchmark.data.stamps import FileStamps
from benchmark.errors import UserError
from benchmark.types import Source
from benchmark.verify.files import check_files
from benchmark.verify.findings import CHECKS, Finding, Report, SetFacts
from benchmark.verify.pixels import check_copies, check_images, check_masks
from benchmark.verify.scan import scan
from benchmark.verify.sets import Set, check_family, check_overlap
from benchmark.verify.tables import check_boxes, check_identity, check_labels, check_people, counts, differing_counts
from benchmark.verify.texts import check_texts, lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What the caller asked for.

    out: folder of the report, manifests and scan files. images: decode them. filtered: --where left rows out, so that surplus
    files mean nothing. workers: processes. progress: shows bars on a terminal. command: as it was typed.
    """

    out: Path
    images: bool = True
    filtered: bool = False
    workers: int = 0
    progress: bool = True
    command: str = ""

    def folder(self, name: str) -> Path:
        """Where the scan and the manifest of a set lie."""
        return self.out / re.sub(r"[^\w.-]+", "-", name)


def verify(sources: Mapping[str, Source], against: Mapping[str, Source], options: VerifyOptions) -> Report:
    """Checks data sets, writes a manifest of each, and compares them with each other.

    Args:
        sources: name for people -> set to check.
        against: name -> pretraining set, of which only the overlap with val and test of `sources` is checked.
        options: folders and limits.

    Raises:
        UserError: `out` cannot be written, or a worker was killed.
    """
    start, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    sets: dict[str, Set] = {}
    findings: list[Finding] = []
    for name, source in {**against, **sources}.items():
        stamps = FileStamps(source)
        path = options.folder(name) / "scan.jsonl"
        scans = scan(source, stamps, path, options.workers, options.progress) if options.images else {}
        sets[name] = Set(name, source, scans)
        if name in sources:
            findings += check_files(name, source, stamps, whole=not options.filtered)
    for name in sources:
        findings += check_set(sets[name])
    findings += _overlaps([sets[name] for name in sources], [sets[name] for name in against])
    ordered = sorted(findings, key=lambda item: list(CHECKS).index(item.check))  # which are in the order of severity
    return Report(
        command=options.command, started=started, seconds=round(time.monotonic() - start, 1),
        datasets=tuple(_facts(sets[name], options) for name in sources), findings=tuple(ordered),
    )  # fmt: skip


def check_set(item: Set) -> list[Finding]:
    """Every check of one set but that of its files."""
    name, source, scans = item.name, item.source, item.scans
    sizes = {uid: (image.height, image.width) for uid, image in scans.items() if not image.reason}
    return [
        *differing_counts(name, counts(source), getattr(source, "known_counts", {})),
        *check_identity(name, source.records),
        *check_images(name, source, scans),
        *check_copies(name, source, scans),
        *check_labels(name, source),
        *check_boxes(name, source, sizes),
        *check_masks(name, source, scans),
        *check_texts(name, source.records),
        *check_people(name, source.records),
    ]


def _overlaps(sets: list[Set], against: list[Set]) -> list[Finding]:
    """Of each pretraining set with each set; of the sets with each other, both ways."""
    families, leaks = [*product(against, sets), *combinations(sets, 2)], [*product(against, sets), *permutations(sets, 2)]
    return [
        *(item for one, other in families for item in check_family(one, other)),
        *(item for seen, tested in leaks for item in check_overlap(seen, tested)),
    ]


def _facts(item: Set, options: VerifyOptions) -> SetFacts:
    source, scans = item.source, item.scans
    path = options.folder(item.name) / "manifest.parquet"
    try:
        written = write_manifest(source, path)
    except UserError as error:
        digests, manifest = {}, f"none: {error}"
    else:
        digests, manifest = written.splits, str(path)
    return SetFacts(
        dataset=item.name, version=source.version, root=str(getattr(source, "root", "") or ""), flags=tuple(source.flags),
        counts=counts(source), known=dict(getattr(source, "known_counts", {})), lengths=lengths(source.records),
        decoded=sum(not image.reason for image in scans.values()) if options.images else None,
        splits=digests, manifest=manifest,
    )  # fmt: skip
