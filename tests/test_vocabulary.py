"""--vocabulary: words of the text towers from a file, a folder or the hub, in place of those of the training reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.data.text import SPECIAL, train_tokenizer
from tests.conftest import TINY, TRAINED, Command

WORDS = ("lung", "effusion", "nodule", "no", "below", "size", "row", "of", "a", "at", "is", "study", ".")
LETTERS = [f"{mark}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for mark in ("", "##")]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder with a BERT's vocab.txt."""
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys([*SPECIAL, *LETTERS, *WORDS])))
    return folder


def keys(command: Command, method: str, *words: str) -> set[str]:
    assert command.run(method, "classification", "--dry-run", *words, settings=()) == 0, command.error
    return {line.split()[-3] for line in command.output.splitlines() if line.startswith(method)}


def test_a_run_reads_with_the_words_of_the_file(command: Command, bert: Path) -> None:
    assert command.run("mcr", "retrieval", "--vocabulary", str(bert), settings=(*TINY, *TRAINED)) == 0, command.output
    (folder,) = (command.out / "pretrained").iterdir()
    stored = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert set(stored) == set((bert / "vocab.txt").read_text().split("\n"))
    request = ("--checkpoint", str(folder), "--task", "retrieval")
    assert command.run("mcr", "retrieval", *request[:2], settings=()) == 0, command.output  # its record can be read again


def test_other_words_are_another_result(command: Command, bert: Path, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer.json"
    other.write_text(train_tokenizer(["No effusion.", "A nodule."]).to_str())
    for method in ("mcr", "random"):
        found = [keys(command, method), keys(command, method, "--vocabulary", str(bert))]
        found.append(keys(command, method, "--vocabulary", str(other)))
        assert len(set().union(*found)) == sum(map(len, found))
        assert keys(command, method, "--vocabulary", str(bert / "vocab.txt")) == found[1]  # the file or its folder
    assert keys(command, "simclr") == keys(command, "simclr", "--vocabulary", str(bert))  # reads no text


def test_what_is_no_vocabulary_is_refused(command: Command, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "vocab.txt").write_text("lung\nheart")
    for words, parts in (
        (("--vocabulary", str(tmp_path / "nowhere")), ("no tokenizer.json or vocab.txt is there", "hub:NAME")),
        (("--vocabulary", str(cut), "--checkpoint", str(cut)), ("--checkpoint", "is not there")),
    ):
        assert command.run("mcr", "retrieval", *words, settings=()) == 2
        command.refused(*parts)
    assert command.run("mcr", "retrieval", "--vocabulary", str(cut), settings=(*TINY, *TRAINED)) == 1
    assert "[MASK]" in str(command.results()[0].error)


def test_a_hub_that_cannot_be_reached_says_so(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.hub.HF_HUB_OFFLINE", True)
    assert command.run("mcr", "retrieval", "--vocabulary", "hub:some/bert", settings=(*TINY, *TRAINED)) == 1
    assert {result.status for result in command.results()} == {"unavailable"}
    assert "some/bert" in str(command.results()[0].error)
