"""Bad files: folders, tables, images and checkpoints with faults end in one sentence, and nothing computed is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import TINY, TRAINED, Command
from tests.test_csv_folder import table

# --------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("kind", ["a file", "inside a file", "nowhere"])
def test_a_folder_of_results_that_cannot_be_written_is_refused_before_any_work(
    kind: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.baselines.Random.build", None)
    (tmp_path / "file").write_text("")
    command.out = {"a file": tmp_path / "file", "inside a file": tmp_path / "file" / "runs", "nowhere": Path("/proc/runs")}[
        kind
    ]
    assert command.run("random", "retrieval") == 2
    command.refused(str(command.out), "--out")


def test_a_disk_that_fills_up_loses_nothing_that_was_computed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.run("random", "retrieval") == 0
    kept = {item.key for item in command.results()}
    with monkeypatch.context() as patch:

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        assert command.run("random", "retrieval,zeroshot") == 2
        command.refused("no space left", "--out")
    assert {item.key for item in command.results()} == kept
    assert not list(command.out.rglob(".tmp-*"))
    assert command.run("random", "retrieval,zeroshot") == 0
    assert "2 were finished before" in command.output


@pytest.mark.parametrize(
    ("location", "parts"),
    [
        ("", ("--data csv needs the folder", "csv:DIR")),
        ("{root}/none", ("there is no folder", "check the path")),
        ("{root}/empty", ("is empty", "records.csv")),
        ("{root}", ("has no records.csv, but", "use --data csv:")),
        ("{root}/other", ("has no records.csv", "docs/own-data.md")),
    ],
)
def test_a_data_folder_that_is_missing_empty_or_of_another_set(
    location: str, parts: tuple[str, ...], command: Command, tmp_path: Path
) -> None:
    for name in ("empty", "other", "right"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "train.csv").write_text("Path,Sex")
    (tmp_path / "right" / "records.csv").write_text("id")
    assert command.run("random", "retrieval", data=f"csv:{location.format(root=tmp_path)}") == 2
    command.refused(*parts)


def row(name: str, split: str, **cells: str) -> dict[str, str]:
    texts = {"train": "Clear lungs.", "val": "Effusion.", "test": f"Opacity {name}."}
    return {"id": name, "patient_id": f"p{name}", "split": split, "image": f"{name}.png", "findings": texts[split], **cells}


def own_rows() -> list[dict[str, str]]:
    splits = ("train", "train", "train", "val", "test", "test", "test")
    return [row(str(index), split, labels="Edema" if index % 2 else "No Finding") for index, split in enumerate(splits)]


def own_folder(root: Path, rows: list[dict[str, str]] | None = None, text: str = "") -> Path:
    root.mkdir()
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 255, (20, 24), np.uint8)
        Image.fromarray(pixels).save(root / f"{index}.png")
    (root / "records.csv").write_text(text or table(rows if rows is not None else own_rows()))
    return root


TABLES: dict[str, tuple[Callable[[], str], tuple[str, ...]]] = {
    "missing columns": (lambda: "id,image\n1,1.png\n", ("lacks the columns patient_id, split", "docs/own-data.md")),
    "duplicate ids": (lambda: table([*own_rows(), row("1", "train")]), ("row 9 (id '1')", "same id", "make ids unique")),
    "two splits": (lambda: table([*own_rows(), row("7", "test", patient_id="p1")]), ("patient 'p1' is in", "same split")),
    "an unknown split": (lambda: table([{**own_rows()[0], "split": "dev"}]), ("split 'dev'", "train, val, test")),
    "no rows": (lambda: "id,patient_id,split,image\n", ("has a header and no rows",)),
    "nothing": (lambda: "\n", ("is empty",)),
    "semicolons": (lambda: "id;patient_id;split;image\n", ("use commas",)),
    "no image there": (lambda: table([{**row("77", "train"), "image": "77.png"}]), ("image '77.png'", "none of the 1 images")),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_a_table_with_faults_is_refused_with_its_row(case: str, command: Command, tmp_path: Path) -> None:
    text, parts = TABLES[case]
    folder = own_folder(tmp_path / "own", text=text())
    assert command.run("random", "retrieval", data=f"csv:{folder}") == 2
    command.refused("records.csv", *parts)


def test_images_and_reports_with_faults_are_skipped_and_the_rest_is_scored(command: Command, tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "own", [*own_rows(), row("7", "test", findings="")])
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:60])  # truncated
    Image.new("CMYK", (20, 24)).save(folder / "5.png", format="JPEG")
    Image.fromarray(np.full((20, 24), 3000, np.uint16)).save(folder / "6.png")  # 16 bit
    Image.new("P", (20, 24)).save(folder / "0.png")
    (folder / "1.png").write_bytes(b"")
    (folder / "2.png").write_text("not an image")
    assert command.run("random", "retrieval", data=f"csv:{folder}") == 0, command.output
    for result in command.results():
        assert [uid for uid, _ in result.skipped] == ["4"]
        assert (result.n_used, result.n_expected) == (2, 3)  # the empty report is no pair
        assert set(result.flags) == {"own-data", "partial"}


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.fixture
def trained(command: Command) -> Path:
    """A pretrained folder of clip."""
    assert command.run("clip", "retrieval", settings=(*TINY, *TRAINED)) == 0
    (folder,) = (command.out / "pretrained").iterdir()
    return folder


def first_error(command: Command) -> str:
    (error,) = {str(item.error).splitlines()[0] for item in command.results() if item.status == "failed"}
    assert error in command.output
    assert "Traceback" not in command.output + command.error
    return error


def test_checkpoints_that_do_not_fit_say_why(trained: Path, command: Command, tmp_path: Path) -> None:
    state = load_file(trained / "model.safetensors")
    name = next(iter(state))
    whole = (trained / "model.safetensors").read_bytes()
    (tmp_path / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    save_file({**state, name: torch.full_like(state[name], float("nan"))}, tmp_path / "nan.safetensors")
    save_file({item: value for item, value in state.items() if item != name}, tmp_path / "lacking.safetensors")
    torch.save(Path("anything"), tmp_path / "pickle.pt")
    (tmp_path / "text.pt").write_text("weights")
    torch.save({"epoch": 3}, tmp_path / "nothing.pt")
    cases = {
        "truncated.safetensors": "is damaged or no safetensors file",
        "empty.safetensors": "is damaged or no safetensors file",
        "nan.safetensors": f"holds NaN or infinity in '{name}'",
        "lacking.safetensors": f"1 keys are missing (first '{name}')",
        "pickle.pt": "cannot be read without running code that it carries",
        "text.pt": "cannot be read without running code that it carries, or is damaged",
        "nothing.pt": "holds no tensors by name",
    }
    for file, words in cases.items():
        command.out = tmp_path / f"runs-{file}"
        status = command.run("clip", "retrieval", "--checkpoint", str(tmp_path / file), settings=(*TINY, *TRAINED))
        assert status == 1
        assert words in first_error(command), file
        assert file in first_error(command)


def test_a_checkpoint_of_another_method_is_refused_before_any_work(trained: Path, command: Command, tmp_path: Path) -> None:
    command.out = tmp_path / "other"
    assert command.run("mcr", "retrieval", "--checkpoint", str(trained), settings=()) == 2
    command.refused("is of method 'clip', not of 'mcr'", "--method")
    assert not command.out.exists()


def test_a_bare_file_of_another_method_or_shape_is_refused(trained: Path, command: Command, tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):  # without the record of what it is
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    bare = str(tmp_path / "model.safetensors")
    command.out = tmp_path / "method"
    assert command.run("mcr", "retrieval", "--checkpoint", bare, settings=(*TINY, *TRAINED)) == 1
    assert "belongs to another method or configuration" in first_error(command)
    command.out = tmp_path / "shape"
    settings = tuple("embed_dim=8" if item == "embed_dim=16" else item for item in TINY)
    assert command.run("clip", "retrieval", "--checkpoint", bare, settings=settings) == 1
    assert "it belongs to another configuration (see --set)" in first_error(command)


def test_a_pickle_runs_nothing(command: Command, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    code = f"cposix\nsystem\n(S'touch {marker}'\ntR."  # what a hostile file would say
    for name in ("evil.pt", "evil.pkl", "evil.bin"):
        (tmp_path / name).write_text(code)
        command.out = tmp_path / f"runs-{name}"
        assert command.run("random", "classification", "--labels", "1", "--checkpoint", str(tmp_path / name)) == 1
        assert "cannot be read without running code" in first_error(command)
    assert not marker.exists()
