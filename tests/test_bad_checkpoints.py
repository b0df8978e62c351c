"""Checkpoints that do not fit, through the command line: exit status not 0, one sentence, nothing executed, no traceback.

More of them stand in test_cli_files.py (our own files), test_published.py (others' files) and test_weights.py (reading).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmark.data.text import train_tokenizer
from tests.conftest import TINY, TRAINED, Command
from tests.test_published import Published, folder  # noqa: F401  (a fixture)
from tests.test_unpickle import payloads

SETTINGS = (*TINY, *TRAINED)


@pytest.fixture
def trained(command: Command, tmp_path: Path) -> Path:
    """A copy of a pretrained folder of clip: config.json, model.safetensors, record.json, tokenizer.json."""
    assert command.run("clip", "retrieval", settings=SETTINGS) == 0
    (found,) = (command.out / "pretrained").iterdir()
    shutil.copytree(found, tmp_path / "copy")
    command.out = tmp_path / "again"
    return tmp_path / "copy"


def told(command: Command, method: str, checkpoint: Path, settings: tuple[str, ...] = ()) -> str:
    """The one sentence that a user reads when the checkpoint is refused."""
    status = command.run(method, "retrieval", "--checkpoint", str(checkpoint), settings=settings)
    assert status in (1, 2)
    assert "Traceback" not in command.error + command.output
    if status == 2:
        (line,) = command.error.splitlines()
        assert line.startswith("error: ")
        return line
    assert {item.status for item in command.results()} == {"failed"}
    (sentence,) = {str(item.error).splitlines()[0] for item in command.results()}
    assert sentence in command.output
    return sentence


def changed(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file({name: item.contiguous() for name, item in change(load_file(path)).items()}, path)


# ------------------------------------------------------------------------------------------------ our own files


def test_the_copy_of_these_tests_is_a_checkpoint(trained: Path, command: Command) -> None:
    assert command.run("clip", "retrieval", "--checkpoint", str(trained), settings=()) == 0


RENAMED: dict[str, Callable[[str], str]] = {
    "a prefix": lambda name: f"module.{name}",
    "a part": lambda name: name.replace("image_tower", "visual"),
    "capitals": str.upper,
    "a letter": lambda name: name.replace("logit", "logits"),
}


@pytest.mark.parametrize("kind", RENAMED)
def test_renamed_keys_are_counted_and_the_first_is_named(kind: str, trained: Path, command: Command) -> None:
    path, rename = trained / "model.safetensors", RENAMED[kind]
    names = [name for name in sorted(load_file(path)) if rename(name) != name]
    changed(path, lambda state: {rename(name): item for name, item in state.items()})
    assert told(command, "clip", trained).removeprefix("error: ") == (
        f"checkpoint {path} does not fit: {len(names)} keys are missing (first {names[0]!r}), {len(names)} are unexpected "
        f"(first {min(map(rename, names))!r}); it belongs to another method or configuration"
    )


def test_a_checkpoint_of_another_width_than_the_record_beside_it_is_refused(trained: Path, command: Command) -> None:
    config = json.loads((trained / "config.json").read_text())
    config["spec"]["config"]["embed_dim"] = 8
    (trained / "config.json").write_text(json.dumps(config))
    assert "has shape (16, 16), expected (8, 16)" in told(command, "clip", trained)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"spec": {"method": "clip", "config": {"width": 3}}}', "\x00"])
def test_a_damaged_record_is_refused(text: str, trained: Path, command: Command) -> None:
    (trained / "config.json").write_text(text)
    assert f"{trained / 'config.json'} does not describe a configuration of clip" in told(command, "clip", trained)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors"])
def test_a_payload_beside_real_weights_is_not_run(suffix: str, legacy: bool, trained: Path, command: Command) -> None:
    marker, path = trained / "marker", trained / f"payload{suffix}"
    value = {**load_file(trained / "model.safetensors"), "hook": payloads(marker)["write"]}
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    assert str(path) in told(command, "clip", path)
    assert not marker.exists()


VOCABULARIES: dict[str, Callable[[str], str]] = {
    "smaller": lambda text: train_tokenizer(["Other words."], 60).to_str(),
    "larger": lambda text: train_tokenizer([" ".join(f"word{index}x" for index in range(600))], 600).to_str(),
    "without padding": lambda text: text.replace("[PAD]", "[pad]"),
}
DAMAGED = {"empty": "", "a page": "<html>404</html>", "another JSON": "{}", "cut short": '{"version": "1.0", "trunc'}


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_a_vocabulary_that_does_not_fit_is_refused(kind: str, trained: Path, command: Command) -> None:
    path = trained / "tokenizer.json"
    path.write_text(VOCABULARIES[kind](path.read_text()))
    assert str(path) in told(command, "clip", trained)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_vocabulary_is_named(kind: str, trained: Path, command: Command) -> None:
    (trained / "tokenizer.json").write_text(DAMAGED[kind])
    assert str(trained / "tokenizer.json") in told(command, "clip", trained)


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(kind: torch.dtype, trained: Path, command: Command) -> None:
    changed(trained / "model.safetensors", lambda state: {**state, "align.map_image.1.weight": torch.ones(16, 16, dtype=kind)})
    assert "'align.map_image.1.weight'" in told(command, "clip", trained)


# --------------------------------------------------------------------------------------------------- others' files


@pytest.fixture
def theirs(folder: Path) -> Path:  # noqa: F811
    return folder / "theirs.safetensors"


@pytest.mark.parametrize("part", [0.1, 0.9])
def test_a_published_file_cut_short_is_refused(part: float, theirs: Path, command: Command) -> None:
    data = theirs.read_bytes()
    theirs.write_bytes(data[: int(part * len(data))])
    assert f"{theirs} is damaged" in told(command, Published.name, theirs)


def test_a_published_file_of_another_method_is_refused(theirs: Path, command: Command) -> None:
    assert "belongs to another method or configuration" in told(command, "clip", theirs, SETTINGS)
    changed(theirs, lambda state: {f"gloria.{name}": item for name, item in state.items()})
    command.out = command.out / "renamed"
    assert "belongs to another method or configuration" in told(command, Published.name, theirs, SETTINGS)


def test_an_old_pickled_file_is_refused_until_it_is_converted(theirs: Path, command: Command) -> None:
    old, new, marker = theirs.with_suffix(".ckpt"), theirs.with_name("converted.safetensors"), theirs.with_name("marker")
    torch.save({"state_dict": load_file(theirs), "settings": payloads(marker)["write"]}, old)
    theirs.unlink()
    assert "cannot be read without running code that it carries" in told(command, Published.name, old)
    assert command("convert", str(old), str(new)) == 0, command.error
    assert command.run(Published.name, "retrieval", "--checkpoint", str(new), settings=()) == 0, command.output
    result: Any = command.results()[0]
    assert result.notes["checkpoint_layout"] == "Toy (them@1234567)"
    assert not marker.exists()
