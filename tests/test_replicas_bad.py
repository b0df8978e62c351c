"""What goes wrong with a download, on every replica: refused in one sentence with the way out, or read as if nothing was."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SOURCES, SourceOptions
from benchmark.data.sources.layout import Layout
from benchmark.errors import ImageError, UserError
from benchmark.types import Source
from tests.replicas import REPLICAS

IMAGES = (".jpg", ".png", ".dcm", ".dicom")
BOTH = [name for name in REPLICAS if name != "covid-rural"]  # its folder of images is its list of images
every = pytest.mark.parametrize("name", REPLICAS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A replica that nobody changes, written once: its --data-root."""
    made: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            REPLICAS[name](made[name])
        return made[name]

    return write


@pytest.fixture
def copied(whole: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """The folder of a replica that a test may break."""

    def copy(name: str) -> Path:
        shutil.copytree(whole(name), tmp_path / "copy")
        return root(name, tmp_path / "copy")

    return copy


def layout(name: str) -> Layout:
    found: Layout = import_module(SOURCES.origin(name).partition(":")[0]).LAYOUT
    return found


def root(name: str, above: Path) -> Path:
    return SOURCES.load(name)("", SourceOptions(root=above)).root  # type: ignore[attr-defined, no-any-return]


def opened(name: str, location: Path) -> Source:
    return SOURCES.load(name)(str(location), SourceOptions())


def refused(name: str, location: Path) -> str:
    """The one sentence of a refusal, with the page where the set is licensed."""
    with pytest.raises(UserError) as caught:
        opened(name, location)
    text = str(caught.value)
    assert "\n" not in text
    assert layout(name).page in text, text
    return text


def images(folder: Path) -> list[Path]:
    """Images, masks aside."""
    return sorted(path for path in folder.rglob("*") if path.suffix in IMAGES and path.is_file() and "mask" not in str(path))


@every
def test_a_root_one_level_too_high_or_too_low_names_the_right_one(name: str, copied: Callable[[str], Path]) -> None:
    home = copied(name)
    inner = next(path for path in sorted(home.iterdir()) if path.is_dir())
    for near in (home.parent, inner):
        assert f"is one level off; use --data {name}:{home}" in refused(name, near)


@every
def test_an_archive_in_place_of_the_folder_is_to_be_unpacked(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "set.zip"
    archive.touch()
    assert "set.zip is a file; unpack it" in refused(name, archive)
    assert "unpack set.zip there" in refused(name, tmp_path)


@every
def test_a_folder_that_is_not_there_or_empty_is_said(name: str, tmp_path: Path) -> None:
    assert "there is no folder" in refused(name, tmp_path / "nowhere")
    assert "the download is not complete, or it is another set" in refused(name, tmp_path)


@pytest.mark.parametrize("name", BOTH)
def test_half_of_the_images_are_flagged_and_none_are_refused(name: str, copied: Callable[[str], Path]) -> None:
    home = copied(name)
    before = opened(name, home)
    assert "partial-download" not in before.flags
    found = images(home)
    for path in found[len(found) // 2 :]:
        path.unlink()
        if not any(path.parent.iterdir()):
            remove_empty(path.parent, home)
    half = opened(name, home)
    assert "partial-download" in half.flags
    assert len(half.records) == len(before.records)
    missing = next(record for record in half.records if not (home / record.image).exists())
    with pytest.raises(ImageError):
        half.image(missing)


def remove_empty(folder: Path, home: Path) -> None:
    """A folder that holds nothing more, and those above it."""
    while folder.parent != home and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


@pytest.mark.parametrize("name", BOTH)
def test_a_set_without_any_image_is_refused(name: str, copied: Callable[[str], Path]) -> None:
    home = copied(name)
    for path in images(home):
        path.unlink()
        remove_empty(path.parent, home)
    refused(name, home)


def tables(folder: Path) -> list[Path]:
    """Tables and reports in text; packed ones are unpacked first, which every set that packs them takes."""
    for packed in folder.glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    return sorted(
        path for path in folder.rglob("*") if path.suffix in (".csv", ".txt", ".xml", ".json") and "reports" not in str(path)
    )


@every
def test_windows_line_ends_change_nothing(name: str, copied: Callable[[str], Path]) -> None:
    home = copied(name)
    before = opened(name, home).records
    for path in tables(home):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert [record.uid for record in opened(name, home).records] == [record.uid for record in before]
    assert [str(record) for record in opened(name, home).records] == [str(record) for record in before]


@every
def test_tables_in_another_encoding_are_refused_or_read_alike(name: str, copied: Callable[[str], Path]) -> None:
    home = copied(name)
    before = [record.uid for record in opened(name, home).records]
    for path in tables(home):
        path.write_bytes(path.read_text().encode("utf-16"))
    try:
        assert [record.uid for record in opened(name, home).records] == before
    except UserError:
        refused(name, home)


@every
def test_a_link_out_of_the_root_or_in_a_circle_is_never_read(name: str, copied: Callable[[str], Path]) -> None:
    home = copied(name)
    outside = home.parent.parent / "outside"
    shutil.copytree(home, outside)
    first = opened(name, home).records[0]
    victim, uid = home / first.image, first.uid
    for target in (outside / victim.relative_to(home), victim):
        victim.unlink()
        victim.symlink_to(target)
        with pytest.raises((UserError, ImageError)) as caught:
            read(opened(name, home), uid)
        assert "\n" not in str(caught.value)


def read(source: Source, uid: str) -> None:
    source.image(next(record for record in source.records if record.uid == uid))


@every
def test_nothing_is_written_beside_the_data(name: str, whole: Callable[[str], Path]) -> None:
    above = whole(name)
    before = state(above)
    source = SOURCES.load(name)("", SourceOptions(root=above))
    Dataset(source)
    source.image(source.records[0])
    assert state(above) == before


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and time of change of everything there."""
    found = [Path(place) / name for place, folders, files in os.walk(folder) for name in (*folders, *files)]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in (folder, *found)}
