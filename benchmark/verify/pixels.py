"""Checks of what decoding showed: unreadable and constant images, masks, equal pixels, and pictures that look the same."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from benchmark.types import SPLITS, Record, Source
from benchmark.verify.findings import Finding, found
from benchmark.verify.near import Group, copies
from benchmark.verify.scan import ImageScan, MaskScan
from benchmark.verify.tables import says

Scans = Mapping[str, ImageScan]
_MASKS = {
    "size": ("mask-size", "masks are of another size than their image"),
    "values": ("mask-values", "masks hold other values than background, structure and ignore"),
    "unreadable": ("mask-unreadable", "masks cannot be read"),
}
_DETAILS = re.compile(r"\([^()]*\)|\d+|'[^']*'")  # of a reason: what differs between files with the same defect


def check_images(dataset: str, source: Source, scans: Scans) -> list[Finding]:
    """Images that cannot be decoded, one finding a kind of reason, and those of one gray value."""
    root, groups = getattr(source, "root", None), dict[str, list[str]]()
    reasons: dict[str, str] = {}
    for record in source.records:
        image = scans.get(record.uid)
        if image is not None and image.reason:
            reason = image.reason if root is None else image.reason.replace(str(root / record.image), "file")
            kind = _DETAILS.sub("", reason.partition(";")[0])
            reasons.setdefault(kind, " ".join(reason.partition(";")[0].split()))
            groups.setdefault(kind, []).append(record.uid)
    constant = [uid for uid, image in scans.items() if image.constant]
    unreadable = [
        item for kind, uids in groups.items()
        for item in found("image-unreadable", dataset, uids, f"images cannot be read: {reasons[kind]}")
    ]  # fmt: skip
    return [*unreadable, *found("image-constant", dataset, constant, "images have one gray value everywhere")]


def check_masks(dataset: str, source: Source, scans: Scans) -> list[Finding]:
    """Masks that are not what they should be, and masks that do not show what the table says."""
    looked = [(record, name, scans[record.uid].masks[name]) for record in source.records if record.uid in scans
              for name in record.masks if name in scans[record.uid].masks]  # fmt: skip
    findings = []
    for problem, (check, what) in _MASKS.items():
        wrong = [f"{record.uid} ({name})" for record, name, mask in looked if mask.problem == problem]
        findings += found(check, dataset, wrong, what)
    against = filter(None, (_against(record, name, mask, source) for record, name, mask in looked if not mask.problem))
    return [
        *findings,
        *found("mask-against-table", dataset, list(against), "masks do not show what the table says"),
    ]


def _against(record: Record, name: str, mask: MaskScan, source: Source) -> str:
    said = says(record, name, source)
    if said is None or said == bool(mask.structure):
        return ""
    return f"{record.uid} ({name}: {'empty' if said else f'{mask.structure} pixels'})"


def usable(records: Iterable[Record], scans: Scans) -> list[Record]:
    """Records whose image was decoded and shows something, as others look the same without being copies; an id counts once."""
    known = ((record, scans.get(record.uid)) for record in {record.uid: record for record in records}.values())
    return [record for record, image in known if image is not None and not image.reason and not image.constant]


def check_copies(dataset: str, source: Source, scans: Scans) -> list[Finding]:
    """Equal pixels, and pictures that look the same in several splits."""
    records = usable(source.records, scans)
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[scans[record.uid].sha256].append(record)
    across, other, plain = list[list[Record]](), list[list[Record]](), list[list[Record]]()
    for group in groups.values():
        if len(group) > 1:
            splits, labels = {record.split for record in group}, {repr(record.labels) for record in group}
            (across if len(splits) > 1 else other if len(labels) > 1 else plain).append(group)
    parts = [[record for record in records if record.split == split] for split in SPLITS]
    near = [pair for one, two in combinations(parts, 2) for pair in alike(one, two, scans, scans)]
    return [
        *found("pixels-across-splits", dataset, _named(across), "images of several splits have the same pixels"),
        *found("pixels-with-other-labels", dataset, _named(other), "images have the same pixels and other labels"),
        *found("pixels-within-split", dataset, _named(plain), "images of one split have the same pixels"),
        *found("near-duplicates", dataset, pairs_named(near), "pairs of images of several splits look the same"),
    ]


Pair = tuple[Record, Record, bool]


def alike(one: Sequence[Record], other: Sequence[Record], scans: Scans, theirs: Scans) -> list[Pair]:
    """(record, record, mirrored) that look the same and are not equal pixel by pixel."""
    looks = Group([scans[record.uid].looks for record in one]), Group([theirs[record.uid].looks for record in other])
    pairs: dict[tuple[int, int], bool] = {}
    for i, j, mirrored in copies(*looks):
        if scans[one[i].uid].sha256 != theirs[other[j].uid].sha256:
            pairs.setdefault((i, j), mirrored)
    return [(one[i], other[j], mirrored) for (i, j), mirrored in pairs.items()]


def pairs_named(pairs: Iterable[Pair]) -> list[str]:
    """A pair as text, with its splits."""
    return [
        f"{one.uid} ({one.split}) ~ {two.uid} ({two.split}{', mirrored' if mirrored else ''})" for one, two, mirrored in pairs
    ]


def _named(groups: Iterable[list[Record]]) -> list[str]:
    return [" = ".join(f"{record.uid} ({record.split})" for record in group) for group in groups]
