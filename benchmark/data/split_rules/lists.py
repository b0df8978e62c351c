"""A list of images in a file or folder, as `--split FILE`. Its form is recognised by its content:

    id,split (CSV; uid, dicom_id, image or path for id)      a list of one's own, mimic-cxr-2.0.0-split.csv
    {"train": [...], "val": [...], "test": [...]} (JSON)     a list of one's own
    FOLDER/{train,val,test}.txt, one image a line            yangzhou12/BenchX@b874fa6, preprocess/datasets/SET
    FOLDER/{train,validation,test}.csv with a column ID      philip-mueller/lovt@87b9a30, datasets/SET
    {"ROW": {"image_path": ..., "label": [five of 0 and 1]}} QtacierP/PRIOR@36ac4b0, chexpert_5x200.json: a test
    Path and the 14 columns of CheXpert's labels (CSV)       yuhaozhang/convirt@cf6add8, candidate.csv (8x200): a test;
                                                             lists that GLoRIA's and MGCA's code writes
    Variable,Path (CSV)                                      yuhaozhang/convirt@cf6add8, image-retrieval/query.csv: a test
    dicom_id,subject_id,study_id, no split (CSV)             yangzhou12/BenchX, mimic_5x200_ids.csv: a test

A list of a test alone leaves train and val as the source has them, without the patients of that test. An image is named by its
uid, by its path, with or without folders above it and its ending, or by its file name where one image alone has it.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from benchmark.data.sources.chexpert import CLASSES
from benchmark.data.split_rules.draws import with_test
from benchmark.data.splits import Drawn
from benchmark.errors import UserError
from benchmark.types import SPLITS, Record, Source

NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
IDS = ("id", "uid", "dicom_id", "image", "path")  # the first that a table has
FRACTIONS = ("train_1", "train_10")  # BenchX's, in this order; read to be checked alone
_ENDINGS = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
_FORMS = "give a CSV with the columns id,split, a JSON with train, val and test, or a folder of train, val and test lists"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitList:
    """Rows (image, split) as a file has them. empty: images it states to have no box. notes: what is wrong with it."""

    where: str
    rows: tuple[tuple[str, str], ...]
    empty: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def read_list(path: Path) -> SplitList:
    """The rows of a list, of any of the forms above.

    Raises:
        UserError: it cannot be read or is of none of the forms, or a row has an unknown split.
    """
    if path.is_dir():
        return _folder(path)
    text = text_of(path)
    rows = _json(path, text) if text.lstrip()[:1] in ("{", "[") else _table(path, text)
    return SplitList(where=str(path), rows=tuple(rows))


def refuse(path: Path, problem: str, remedy: str = _FORMS) -> NoReturn:
    """Raises UserError: one sentence of what is wrong with a list, and the way out."""
    raise UserError(f"--split {path}: {problem}; {remedy}")


def text_of(path: Path) -> str:
    """The text of a list. Raises UserError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        refuse(path, "it is no text in UTF-8")
    except OSError as error:
        refuse(path, f"it cannot be read ({error.strerror})", "check the path and its permissions")


def _json(path: Path, text: str) -> Iterator[tuple[str, str]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse(path, f"it is no JSON ({error})")
    if isinstance(found, dict) and found and found.keys() <= NAMES.keys():
        for name, images in found.items():
            if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
                refuse(path, f"{name!r} is no list of texts")
            yield from ((image, NAMES[name]) for image in images)
        return
    entries = list(found.values()) if isinstance(found, dict) else []
    if not entries or not all(isinstance(entry, dict) and isinstance(entry.get("image_path"), str) for entry in entries):
        refuse(path, "its JSON is neither of train, val and test nor of entries with image_path and label")
    for entry in entries:
        label = entry.get("label")
        if not isinstance(label, list) or sorted(map(str, label)) != ["0", "0", "0", "0", "1"]:
            refuse(
                path, f"{entry['image_path']!r} has the label {label!r}, not one 1 and four 0 as PRIOR's list", "get it again"
            )
        yield entry["image_path"], "test"


def columns_of(path: Path, text: str) -> tuple[list[str], list[list[str]]]:
    """The header in small letters, and the rows. Raises UserError."""
    try:
        table = [[cell.strip() for cell in cells] for cells in csv.reader(io.StringIO(text, newline="")) if any(cells)]
    except csv.Error as error:
        refuse(path, f"it is no CSV ({error})")
    header = [name.lower() for name in table[0]] if table else []
    short = next((place for place, cells in enumerate(table[1:], 2) if len(cells) != len(header)), None)
    if short is not None:
        refuse(path, f"its row {short} has {len(table[short - 1])} cells and its header {len(header)}")
    return header, table[1:]


def _table(path: Path, text: str) -> Iterator[tuple[str, str]]:
    header, rows = columns_of(path, text)
    column = next((header.index(name) for name in IDS if name in header), None)
    labelled = {name.lower() for name in CLASSES} <= set(header)
    test = labelled or header == ["variable", "path"] or {"dicom_id", "subject_id", "study_id"} <= set(header)
    if "variable" in header and "text" in header:
        refuse(path, "it holds ConVIRT's queries in words, no images", "give the folder above text-retrieval")
    if column is None or not rows or not (test or "split" in header):
        refuse(path, f"it has the columns {', '.join(header[:8]) or 'none'} and {len(rows)} rows")
    for cells in rows:
        split = cells[header.index("split")] if "split" in header else "test"
        if split.lower() not in NAMES:
            refuse(path, f"it has the split {split!r} for {cells[column]!r}", "use train, val or test")
        yield cells[column], NAMES[split.lower()]


def _folder(path: Path) -> SplitList:
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix in (".txt", ".csv") and (split := NAMES.get(file.stem)):
            if split in found:
                refuse(path, f"it has {found[split].name} and {file.name}, two lists of {split}", "keep one")
            found[split] = file
    if "train" not in found or "test" not in found:
        refuse(path, f"it lacks a list of {'test' if 'train' in found else 'train'}")
    rows: list[tuple[str, str]] = []
    empty: set[str] = set()
    for split in (name for name in SPLITS if name in found):
        images, boxless = _plain(found[split])
        rows += [(image, split) for image in images]
        empty |= boxless
    return SplitList(where=str(path), rows=tuple(rows), empty=frozenset(empty), notes=tuple(_not_nested(path, rows)))


def _plain(file: Path) -> tuple[list[str], set[str]]:
    """The images of the list of one split, and those of them whose column of boxes is empty."""
    text = text_of(file)
    if file.suffix == ".txt":
        return [line.strip() for line in text.splitlines() if line.strip()], set()
    header, rows = columns_of(file, text)
    column = next((header.index(name) for name in IDS if name in header), None)
    if column is None or not rows:
        refuse(file, f"it has the columns {', '.join(header[:8]) or 'none'} and {len(rows)} rows", "ID is expected")
    boxes = header.index("boxes") if "boxes" in header else None
    empty = {cells[column] for cells in rows if boxes is not None and not cells[boxes]}
    return [cells[column] for cells in rows], empty


def _not_nested(path: Path, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """A sentence for each list of a fraction, if any, that does not lie in the next larger one."""
    parts = {name: set(_plain(path / f"{name}.txt")[0]) for name in FRACTIONS if (path / f"{name}.txt").is_file()}
    if parts:
        yield f"{', '.join(parts)} are not used: fractions are drawn by patient from train, each within the next (--labels)"
    larger = parts | {"train": {image for image, split in rows if split == "train"}}
    for one, other in zip(larger, list(larger)[1:]):
        outside = len(larger[one] - larger[other])
        if outside:
            yield f"{one} is not within {other}: {outside:,} of its {len(larger[one]):,} images are not there"


def draw_list(source: Source, listed: SplitList, by_image: bool) -> Drawn:
    """The splits of a list on a set.

    Args:
        source: the whole set. listed: as `read_list` gives it.
        by_image: images count as patients, and the flag "split-by-image" says so; else a patient in two splits is an error.

    Raises:
        UserError: most images of a split are unknown to the set, or an image or a patient is in two splits.
    """
    find = Finder(source.records)
    splits: dict[str, str] = {}
    unknown: Counter[str] = Counter()
    for image, split in listed.rows:
        uid = find(image)
        if uid is None:
            unknown[split] += 1
        elif splits.setdefault(uid, split) != split:
            raise UserError(
                f"--split {listed.where}: image {image!r} is in {splits[uid]} and {split}; take one of the rows out"
            )
    notes = [*listed.notes, *_unknown(source, listed, find, unknown)]
    if repeated := len(listed.rows) - unknown.total() - len(splits):
        notes.append(f"{repeated:,} rows of the list name an image again")
    if set(splits.values()) == {"test"}:
        if by_image:
            raise UserError(f"--split {listed.where} is a test alone, whose patients leave train and val; take :by-image away")
        drawn = with_test(source, list(splits))
        return Drawn(splits=drawn.splits, notes=(*notes, *drawn.notes))
    if not by_image:
        _check_patients(source, splits, listed.where)
    if left := len(source.records) - len(splits):
        notes.append(f"{left:,} of {len(source.records):,} images of the set are not in the list and are left out")
    empty = frozenset(uid for image in listed.empty if (uid := find(image)))
    return Drawn(splits=splits, by_image=frozenset(splits) if by_image else frozenset(), empty=empty, notes=tuple(notes))


def _unknown(source: Source, listed: SplitList, find: Finder, unknown: Mapping[str, int]) -> Iterator[str]:
    """A sentence on the rows that name no image of the set. Raises UserError where a split loses half of its rows or more."""
    rows = Counter(split for _, split in listed.rows)
    for split, count in unknown.items():
        first = next(image for image, other in listed.rows if other == split and find(image) is None)
        said = f"{count:,} of the {rows[split]:,} {split} rows name no image of {source.name}, the first is {first!r}"
        if 2 * count >= rows[split]:
            own = source.records[0].uid
            raise UserError(
                f"--split {listed.where}: {said}; take the list of this set and release, with names like {own!r} or file names"
            )
        yield said


def _check_patients(source: Source, splits: Mapping[str, str], where: str) -> None:
    """Raises UserError for patients in two splits, with the way out."""
    homes: dict[str, set[str]] = {}
    for record in source.records:
        if record.uid in splits:
            homes.setdefault(record.patient, set()).add(splits[record.uid])
    shared = {patient: names for patient, names in homes.items() if len(names) > 1}
    if shared:
        patient, names = next(iter(shared.items()))
        raise UserError(
            f"--split {where}: {len(shared):,} of {len(homes):,} patients are in two splits, the first is {patient!r} "
            f"in {' and '.join(name for name in SPLITS if name in names)}; give all images of a patient one split, or write "
            f"--split {where}:by-image to count images as patients, which every result then says"
        )


class Finder:
    """Finds the uid of an image as a list names it; None where no image or more than one answers."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._exact: dict[str, str | None] = {}
        self._bare: dict[str, str | None] = {}
        self._names: dict[str, str | None] = {}
        for record in records:
            for name in {record.uid, record.image}:
                _add(self._exact, name, record.uid)
                _add(self._bare, _without_ending(name), record.uid)
                _add(self._names, _without_ending(name.rpartition("/")[2]), record.uid)

    def __call__(self, text: str) -> str | None:
        """The uid, or None."""
        path = text.replace("\\", "/")
        while True:
            found = self._exact.get(path) or self._bare.get(_without_ending(path))
            if found:
                return found
            _, slash, below = path.partition("/")
            if not slash:
                return self._names.get(_without_ending(path))
            path = below


def _add(index: dict[str, str | None], name: str, uid: str) -> None:
    index[name] = uid if index.get(name, uid) == uid else None


def _without_ending(name: str) -> str:
    return next((name[: -len(ending)] for ending in _ENDINGS if name.lower().endswith(ending)), name)
