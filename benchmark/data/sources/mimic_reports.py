"""The reports of MIMIC-CXR: where they are unpacked, and reading 227,835 small files."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from benchmark.data.sources.layout import list_files
from benchmark.errors import UserError

_PROBES = 200  # studies looked up to tell whether a folder holds reports
_TOGETHER = 64  # subjects a task of a thread
_READERS = 16  # threads: reports are many small files, and disks in networks answer slowly


def home(subject: str) -> str:
    """The folder of a subject, of images and of reports alike."""
    return f"files/p{subject[:2]}/p{subject}"


def place(subject: str, study: str) -> str:
    """The folder of a study's images; its report is the file of that name with .txt."""
    return f"{home(subject)}/s{study}"


def report_root(root: Path, studies: Mapping[str, str]) -> Path | None:
    """The folder below which reports lie; None where there are none.

    Args:
        root: of the images.
        studies: study -> subject.

    Raises:
        UserError: they were not unpacked.
    """
    above = [root.parent.parent / "mimic-cxr" / release for release in ("2.1.0", "2.0.0")]
    items = list(studies.items())
    probes = [place(subject, study) + ".txt" for study, subject in items[:: max(1, len(items) // _PROBES)]]
    for folder in (root, root / "mimic-cxr-reports", root.parent / "mimic-cxr-reports", *above):
        if any((folder / probe).is_file() for probe in probes):
            return folder
    packed = next((path for path in (root, root.parent) if (path / "mimic-cxr-reports.zip").is_file()), None)
    if packed is not None:
        raise UserError(f"{packed} holds mimic-cxr-reports.zip and no reports; unpack it there")
    return None


def read_reports(folder: Path, studies: Mapping[str, str]) -> dict[str, str | None]:
    """Study -> text of its report, None where the file is missing. A folder is looked at once, whatever it holds.

    Args:
        folder: as `report_root` finds it.
        studies: study -> subject.

    Raises:
        UserError: a file that cannot be read or is not UTF-8, or a link out of the folder.
    """
    subjects: dict[str, list[str]] = {}
    for study, subject in studies.items():
        subjects.setdefault(subject, []).append(study)

    def read(start: int) -> list[tuple[str, str | None]]:
        return [
            (study, _text(folder / f"{home(subject)}/s{study}.txt") if f"s{study}" in there else None)
            for subject, wanted in items[start : start + _TOGETHER]
            for there in (_texts_of(folder, subject),)
            for study in wanted
        ]

    items = list(subjects.items())
    with ThreadPoolExecutor(_READERS) as pool:
        found = dict(chain.from_iterable(pool.map(read, range(0, len(items), _TOGETHER))))
    return {study: found[study] for study in studies}


def _texts_of(folder: Path, subject: str) -> frozenset[str]:
    return list_files(folder, home(subject), ".txt") if (folder / home(subject)).is_dir() else frozenset()


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); unpack the reports again") from error
