"""Queries and candidates of a retrieval test, as `--split FOLDER`, in the layout of CheXpert 8x200, yuhaozhang/convirt@cf6add8:

    FOLDER/image-retrieval/candidate.csv   Path (other columns are not read: the labels are the set's own)
    FOLDER/image-retrieval/query.csv       Variable,Path: the class of each image query
    FOLDER/text-retrieval/query.csv        Variable,Text: the class of each query in words

Images are named as in any list. All of them are the test; train and val lose their patients.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmark.data.split_rules.lists import Finder, SplitList, columns_of, draw_list, refuse, text_of
from benchmark.data.splits import Drawn
from benchmark.types import Source

CANDIDATES, IMAGES, TEXTS = ("image-retrieval/candidate.csv", "image-retrieval/query.csv", "text-retrieval/query.csv")


def holds_queries(path: Path) -> bool:
    """Whether a folder has this layout."""
    return (path / "image-retrieval").is_dir() or (path / "text-retrieval").is_dir()


def draw_queries(source: Source, folder: Path) -> Drawn:
    """The test of a folder: who is a candidate, who asks for which class, and the queries in words.

    Raises:
        UserError: a file lacks or cannot be read, a class is unknown to the set, or most images are.
    """
    candidates = [path for (path,) in _rows(folder / CANDIDATES, ("path",))]
    asked = _rows(folder / IMAGES, ("path", "variable"))
    texts = tuple((name, text) for name, text in _rows(folder / TEXTS, ("variable", "text")))
    for file, names in ((IMAGES, [name for _, name in asked]), (TEXTS, [name for name, _ in texts])):
        strange = next((name for name in names if name not in source.classes), None)
        if strange is not None:
            refuse(
                folder / file, f"it asks for {strange!r}, which is no class of {source.name}", "take the queries of this set"
            )
    rows = tuple((path, "test") for path in dict.fromkeys((*candidates, *(path for path, _ in asked))))
    drawn = draw_list(source, SplitList(where=str(folder), rows=rows), by_image=False)
    find = Finder(source.records)
    roles: dict[str, dict[str, str]] = {}
    for path in candidates:
        if (uid := find(path)) is not None:
            roles.setdefault(uid, {})["candidate"] = "yes"
    for path, name in asked:
        if (uid := find(path)) is not None:
            roles.setdefault(uid, {})["query"] = name
    return replace(drawn, roles=roles, queries=texts)


def _rows(file: Path, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    header, rows = columns_of(file, text_of(file))
    missing = [name for name in names if name not in header]
    if missing or not rows:
        refuse(file, f"it has {len(rows)} rows and lacks the columns {', '.join(missing) or 'none'}", "get it again")
    return [tuple(cells[header.index(name)] for name in names) for cells in rows]
