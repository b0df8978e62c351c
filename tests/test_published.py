"""A checkpoint that somebody else published: recognised, mapped whole, with its own vocabulary, and refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmark.data.families import overlaps
from benchmark.data.text import train_tokenizer
from benchmark.options import override, parse_settings
from benchmark.published import Converted, Layout, rename
from methods import METHODS
from methods.base import ImageConfig, TowerConfig, Vision
from methods.clip import CLIP
from tests.conftest import TINY, Command

WORDS = "text.bert.embeddings.word_embeddings.weight"
THEIRS = {"image.": "image_tower.", "text.": "text_tower.", "heads.": "align.", "scale": "logit_scale.log_scale"}


def configure(state: Any) -> dict[str, Any]:
    return {
        "image_size": 32, "patch_size": 8, "image_width": state["image.model.cls_token"].shape[-1], "image_depth": 1,
        "image_heads": 2, "text_width": state[WORDS].shape[1], "text_layers": 1, "text_heads": 2, "embed_dim": 16,
        "max_tokens": 24, "pixel_stats": "0.4,0.3", "resize": "stretch",
    }  # fmt: skip


def configure_tower(state: Any) -> dict[str, Any]:
    found = configure({"image.model.cls_token": state["cls_token"], WORDS: torch.zeros(1, 16)})
    return {name: found[name] for name in ("image_size", "patch_size", "image_width", "image_depth", "image_heads")}


class Published(CLIP):
    name = "theirs"

    @classmethod
    def published_layouts(cls) -> tuple[Layout, ...]:
        whole = Layout(
            title="Toy (them@1234567)", recognise=lambda state: WORDS in state, configure=configure,
            convert=lambda state: rename(state, THEIRS, ("optimizer.",)), vocabulary=WORDS, tokenizer="them/toy",
        )  # fmt: skip
        tower = Layout(
            title="Toy, images only", recognise=lambda state: "cls_token" in state, target=lambda: TheirTower,
            configure=configure_tower,
            convert=lambda state: Converted({f"image_tower.model.{key}": value for key, value in state.items()}),
        )  # fmt: skip
        return whole, tower


class TheirTower(Vision):
    name = "theirs"
    version = 1
    card = CLIP.card

    @classmethod
    def preset(cls, preset: str) -> tuple[ImageConfig, Any]:
        return ImageConfig(), CLIP.preset(preset)[1]


@pytest.fixture
def folder(tmp_path: Path, register: Callable[[Any, str, Any], None]) -> Path:
    """theirs.safetensors and its tokenizer.json."""
    register(METHODS, "theirs", Published)
    path = tmp_path / "downloaded"
    path.mkdir()
    tokenizer = train_tokenizer(["A nodule at the left.", "Effusion below.", "No effusion."], 120)
    config, _ = override(*CLIP.preset("quick"), parse_settings(TINY), "clip")[:2]
    assert isinstance(config, TowerConfig)
    torch.manual_seed(3)
    save(path, theirs(CLIP(config, tokenizer)))
    (path / "tokenizer.json").write_text(tokenizer.to_str())
    return path


def theirs(method: CLIP) -> dict[str, Tensor]:
    back = {ours: their for their, ours in THEIRS.items()}
    state = {}
    for key, value in method.state_dict().items():
        prefix = next(prefix for prefix in back if key.startswith(prefix))
        state[back[prefix] + key[len(prefix) :]] = value.clone()
    return {**state, "optimizer.step": torch.zeros(1)}


def save(folder: Path, state: dict[str, Tensor]) -> None:
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "theirs.safetensors")


def read(folder: Path) -> dict[str, Tensor]:
    from benchmark import weights

    return weights.load(folder / "theirs.safetensors")


def test_a_published_file_is_recognised_and_its_facts_stand_in_the_result(command: Command, folder: Path) -> None:
    assert command.run("theirs", "retrieval", "--checkpoint", str(folder / "theirs.safetensors"), settings=()) == 0
    result = command.results()[0]
    assert result.status == "ok"
    assert result.notes["checkpoint_layout"] == "Toy (them@1234567)"
    assert result.notes["checkpoint_keys_left_out"] == 1
    assert result.spec.config["pixel_stats"] == "0.4,0.3"
    assert result.spec.weights.startswith("file:")


def test_an_image_encoder_alone_gives_no_text_scores(command: Command, folder: Path) -> None:
    state = {key.removeprefix("image.model."): value for key, value in read(folder).items() if key.startswith("image.model.")}
    save(folder, state)
    assert (
        command.run("theirs", "retrieval,classification", "--checkpoint", str(folder / "theirs.safetensors"), settings=()) == 0
    )
    statuses = {result.spec.task: result.status for result in command.results()}
    assert statuses == {"retrieval": "unsupported", "classification": "ok"}


@pytest.mark.parametrize("change", ["missing", "unknown", "wider", "nan"])
def test_a_file_that_does_not_fit_is_refused(command: Command, folder: Path, change: str) -> None:
    state = read(folder)
    key = "heads.image.1.weight" if "heads.image.1.weight" in state else next(key for key in state if key.startswith("heads."))
    if change == "missing":
        del state[key]
    elif change == "unknown":
        state["projector.weight"] = torch.zeros(2)
    elif change == "wider":
        state[key] = torch.zeros(*(2 * side for side in state[key].shape))
    else:
        state[key] = torch.full_like(state[key], torch.nan)
    save(folder, state)
    assert command.run("theirs", "retrieval", "--checkpoint", str(folder / "theirs.safetensors"), settings=()) != 0
    named = {"missing": "missing", "unknown": "projector.weight", "wider": "shape", "nan": "NaN"}[change]
    text = command.error + command.output
    assert named in text, text
    assert "Traceback" not in text


def test_a_vocabulary_of_another_size_is_refused(command: Command, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(train_tokenizer(["Other words entirely."], 60).to_str())
    assert command.run("theirs", "retrieval", "--checkpoint", str(folder / "theirs.safetensors"), settings=()) != 0
    assert "was trained with" in command.error + command.output


def test_without_a_vocabulary_it_is_unavailable_with_the_remedy(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tokenizer.json").unlink()
    monkeypatch.setattr("benchmark.hub.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("benchmark.hub.try_to_load_from_cache", lambda repository, file: None)
    assert command.run("theirs", "retrieval", "--checkpoint", str(folder / "theirs.safetensors"), settings=()) != 0
    assert "of them/toy beside" in command.error + command.output


def test_a_vocabulary_list_beside_the_file_is_read(command: Command, folder: Path) -> None:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    words = Tokenizer.from_file(str(path)).get_vocab()
    path.unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)) + "\n")
    assert command.run("theirs", "retrieval", "--checkpoint", str(folder / "theirs.safetensors"), settings=()) == 0


def test_renaming_prefers_the_longest_prefix_and_refuses_what_it_does_not_know() -> None:
    from benchmark.errors import UserError

    one, two = torch.zeros(1), torch.ones(1)
    found = rename({"a.b": one, "a.c.d": two, "junk.x": one}, {"a.": "x.", "a.c.": "y."}, ("junk.",))
    assert set(found.state) == {"x.b", "y.d"}
    assert found.left_out == ("junk.x",)
    with pytest.raises(UserError, match=r"first 'zzz'"):
        rename({"zzz": one}, {"a.": "x."})


def test_scores_on_a_set_that_the_weights_saw_are_flagged(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Published, "card", replace(CLIP.card, pretraining_data=("Toy",)))
    assert command.run("theirs", "retrieval", "--checkpoint", str(folder / "theirs.safetensors"), settings=()) == 0
    assert "overlap" in command.results()[0].flags


@pytest.mark.parametrize(
    ("seen", "scored", "expected"),
    [
        ("MIMIC-CXR", "mimic-cxr-jpg", True),
        ("MIMIC-CXR", "csv:mimic-5x200", True),
        ("CheXpert", "chexpert-small", True),
        ("ChestX-ray14", "rsna", True),
        ("ChestX-ray14", "csv:siim-acr", True),
        ("RSNA Pneumonia", "nih", True),
        ("Open-i", "csv:iu-xray", True),
        ("CheXpert", "phantom", False),
        ("CheXpert", "mimic-cxr", False),
        ("", "phantom", False),
    ],
)
def test_a_data_set_is_known_by_its_other_names_and_by_whose_images_it_took(seen: str, scored: str, expected: bool) -> None:
    assert overlaps((seen,), scored) is expected


def test_weights_trained_here_are_not_flagged_for_what_the_published_ones_saw(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Published, "card", replace(CLIP.card, pretraining_data=("Toy",)))
    assert command.run("theirs", "retrieval", settings=(*TINY, "steps=1", "batch_size=4")) == 0
    assert "overlap" not in command.results()[0].flags


def test_a_configuration_that_is_not_ours_does_not_hide_a_published_file(command: Command, folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert", "vocab_size": 30522}')
    assert command.run("theirs", "retrieval", "--checkpoint", str(folder / "theirs.safetensors"), settings=()) == 0


def test_a_published_file_gives_one_key_whatever_the_preset(command: Command, folder: Path) -> None:
    for preset in ("quick", "small"):
        words = ("--checkpoint", str(folder / "theirs.safetensors"), "--preset", preset)
        assert command.run("theirs", "retrieval", *words, settings=()) == 0
    assert len({result.key for result in command.results()}) == len({result.spec.protocol for result in command.results()})


def test_cards_name_the_files_that_a_method_reads(command: Command, folder: Path) -> None:
    assert command("list", "methods", "--cards") == 0
    assert "theirs: CLIP" in command.output
    assert "--checkpoint reads: Toy (them@1234567); Toy, images only" in command.output
