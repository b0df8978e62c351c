"""The counts that sources state: the same in docs/datasets.md, none of a filtered set, and of names that records have."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from benchmark.data.sources import SOURCES, SourceOptions
from benchmark.types import SPLITS, Source
from tests.replicas import REPLICAS

PLAIN = ("images", "patients", "studies", "reports", "boxes", "images with boxes", "images with masks")
PAGE = Path(__file__).parents[1] / "docs/datasets.md"
FILTERS = {
    "chexpert": ("Sex", "Female"), "mimic-cxr": ("ViewPosition", "AP"), "rsna": ("Target", "1"), "siim": ("positive", "1"),
    "vindr-cxr": ("official_split", "train"), "nih": ("View Position", "AP"), "object-cxr": ("official_split", "train"),
    "open-i": ("view", "FRONTAL"), "covidx": ("class", "positive"), "tbx11k": ("folder", "tb"), "covid-rural": ("SEX", "F"),
}  # fmt: skip


def stated(name: str) -> dict[str, int]:
    found = import_module(SOURCES.origin(name).partition(":")[0]).KNOWN_COUNTS
    return dict(found["COVIDx9A"] if name == "covidx" else found)


def table() -> str:
    """The table of the page, as the code has it."""
    lines = ["| name | counts |", "|---|---|"]
    for name in REPLICAS:
        shown = ", ".join(f"{key} {count:,}" for key, count in stated(name).items())
        lines.append(f"| `{name}` | {shown}{' (CXR-2, CXR-3, 9A)' if name == 'covidx' else ''} |")
    return "\n".join(lines)


def test_the_page_has_the_counts_of_the_code() -> None:
    assert table() in PAGE.read_text(), f"put this into {PAGE.name}:\n{table()}"


def test_the_page_names_every_set_its_license_page_and_its_flags(tmp_path: Path) -> None:
    text = PAGE.read_text()
    for name, write in REPLICAS.items():
        write(tmp_path)
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert import_module(SOURCES.origin(name).partition(":")[0]).LAYOUT.page in row
        assert all(f"`{flag}`" in row for flag in opened(name, tmp_path).flags), name


def opened(name: str, root: Path, *where: tuple[str, str]) -> Source:
    return SOURCES.load(name)("", SourceOptions(root=root, where=where))


@pytest.mark.parametrize("name", REPLICAS)
def test_counts_are_of_the_whole_set_and_of_what_records_have(name: str, tmp_path: Path) -> None:
    REPLICAS[name](tmp_path)
    source = opened(name, tmp_path)
    counts = source.known_counts  # type: ignore[attr-defined]
    assert counts == ({} if name == "covidx" else stated(name))  # of CXR-4, lines stand twice, and nobody counted images
    official = {record.attributes.get("official_split", "") for record in source.records}
    for key, count in counts.items():
        kind, _, what = key.partition("/")
        known = {"positive": source.classes, "images": SPLITS, "official": official}.get(kind, ()) if what else PLAIN
        assert (what or key) in known, key
        assert count > 0
    assert opened(name, tmp_path, FILTERS[name]).known_counts == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [name for name in REPLICAS if name not in ("siim", "covidx", "covid-rural", "open-i")])
def test_a_table_cut_short_is_flagged(name: str, tmp_path: Path) -> None:
    """Files of images that no table names. SIIM and COVIDx have such; COVID Rural and Open-i list folders."""
    home = REPLICAS[name](tmp_path)
    example = opened(name, tmp_path).records[0]
    names = {"chexpert": "train/patient99999", "mimic-cxr": "files/p19/p19999998"}
    if name in names:
        (home / names[name]).mkdir(parents=True)
    else:
        image = home / example.image
        image.with_name(f"{'0' * 8}_{'9' * 3}{image.suffix}").write_bytes(image.read_bytes())
    assert "partial-download" in opened(name, tmp_path).flags


@pytest.mark.parametrize(("name", "flag"), [("object-cxr", True), ("tbx11k", True), ("covidx", False), ("siim", True)])
def test_sets_that_name_no_patients_say_so(name: str, flag: bool, tmp_path: Path) -> None:
    REPLICAS[name](tmp_path)
    assert ("patients-unknown" in opened(name, tmp_path).flags) is flag


def test_lines_of_covidx_that_repeat_the_file_as_the_patient_name_none(tmp_path: Path) -> None:
    home = REPLICAS["covidx"](tmp_path)
    path = home / "test.txt"
    first, *rest = path.read_text().splitlines()
    file = first.split()[1]
    path.write_text("\n".join([f"{Path(file).stem} {file} negative rsna", *rest]))
    assert "patients-unknown" in opened("covidx", tmp_path).flags


def test_open_i_without_its_projections_says_that_views_are_unknown(tmp_path: Path) -> None:
    home = REPLICAS["open-i"](tmp_path)
    assert opened("open-i", tmp_path).flags == ()
    (home / "indiana_projections.csv").unlink()
    source = opened("open-i", tmp_path)
    assert source.flags == ("views-unknown",)
    assert {record.view for record in source.records} == {""}
