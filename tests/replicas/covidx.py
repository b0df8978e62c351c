"""COVIDx CXR-4: lists of lines without a header, train, val and test, PNG and JPEG."""

from __future__ import annotations

from pathlib import Path

from tests.replicas.common import frontals, picture, save, shows

SOURCES = ("rsna", "cohen", "bimcv", "ricord")  # patient numbers of one are not those of another


def write(root: Path, patients: int = 12) -> Path:
    """The set in ROOT/covidx-cxr2; opacities stand for COVID-19, and one line stands twice."""
    home = root / "covidx-cxr2"
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, (place, split, record) in enumerate(frontals(patients)):
        name = f"image-{number:04d}.{('png', 'jpg')[number % 2]}"
        word = "positive" if shows(record, "Lung Opacity") else "negative"
        lists[split].append(f"{place // 2 + 1} {name} {word} {SOURCES[place % len(SOURCES)]}")
        save(home / split / name, picture(record))
    lists["train"].append(lists["train"][0])
    for split, lines in lists.items():
        (home / f"{split}.txt").write_bytes("\n".join([*lines, ""]).encode())
    return home


def write_three(root: Path, patients: int = 12) -> Path:
    """The A lists of the COVID-Net repository in ROOT/covidx-cxr2, train and test alone: each of three classes in turn."""
    home = root / "covidx-cxr2"
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for number, (place, split, record) in enumerate(frontals(patients)):
        part = "test" if split == "test" else "train"
        word = ("normal", "pneumonia", "COVID-19")[place % 3]
        lists[part].append(f"{place + 1} image-{number:04d}.png {word} {SOURCES[place % len(SOURCES)]}")
        save(home / part / f"image-{number:04d}.png", picture(record))
    for part, lines in lists.items():
        (home / f"{part}_COVIDx9A.txt").write_bytes("\n".join([*lines, ""]).encode())
    return home
