"""The contract on learning: every stage and parameter, odd reports, labels, and methods that read reports and encode none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.clauses import REPORTS
from benchmark.contract import check
from benchmark.data.text import split_sentences, train_tokenizer
from benchmark.options import override, parse_settings
from benchmark.types import Batch, Features, InputSpec, Recipe, Step, TextBatch
from methods.base import TowerConfig, Vision
from methods.clip import CLIP
from methods.text_encoder import TextTower
from tests.conftest import TINY

CONFIG: Any = override(*CLIP.preset("quick"), parse_settings(TINY), "clip")[0]
REACHES = "reach all {} trained tensors"


@cache
def tokenizer() -> Tokenizer:
    return train_tokenizer(REPORTS, 300)


def findings(method_class: Any) -> dict[str, str]:
    """Every message by clause, with BROKEN before those that are not kept."""
    found = check(method_class, tokenizer=tokenizer(), config=CONFIG)
    return {item.name: item.message if item.ok else f"BROKEN {item.message}" for item in found}


def broken(method_class: Any) -> dict[str, str]:
    return {name: text.removeprefix("BROKEN ") for name, text in findings(method_class).items() if text.startswith("BROKEN")}


class Toy(CLIP):
    """CLIP with a scale of its own, in as many stages as told."""

    stages: ClassVar[str] = ""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        self.extra = nn.Parameter(torch.ones(3))

    @classmethod
    def preset(cls, preset: str) -> tuple[TowerConfig, Recipe]:
        config, recipe = CLIP.preset(preset)
        return config, replace(recipe, stages=cls.stages)

    def loss(self, batch: Batch, step: Step) -> Iterator[Mapping[str, Tensor]]:
        for terms in super().loss(batch, step):
            yield {"total": terms["total"] + self.added(batch, step)}

    def added(self, batch: Batch, step: Step) -> Tensor:
        return self.extra.sum()


def test_a_sound_method_keeps_every_clause() -> None:
    found = findings(Toy)
    assert not [text for text in found.values() if text.startswith("BROKEN")]
    assert found["gradients"] == REACHES.format(53)


# ------------------------------------------------------------------------------------------------- stages


class Staged(Toy):
    stages = "2:1,1:0.5,1:0.1"
    seen: ClassVar[set[tuple[int, int]]] = set()
    bad: ClassVar[int] = 0
    trains: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def added(self, batch: Batch, step: Step) -> Tensor:
        self.seen.add((step.stage, step.index))
        assert step.index < step.n_steps
        if step.stage == self.bad:
            return self.extra.sum() * float("inf")
        return self.extra.sum() if step.stage in self.trains else torch.zeros(())


def test_every_stage_of_the_recipe_is_gone_through() -> None:
    found = findings(Staged)
    assert not [text for text in found.values() if text.startswith("BROKEN")]
    assert all(f"stage {number}: total" in found["loss"] for number in (1, 2, 3))
    assert {(stage, start) for stage, start in ((1, 0), (2, 120), (3, 180))} <= Staged.seen
    assert {(1, 119), (2, 179), (3, 239)} <= Staged.seen  # the last step of each too


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_loss_that_breaks_in_one_stage_is_found_there(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Staged, "bad", stage)
    found = broken(Staged)
    assert found["loss"] == f"total of the loss is not one finite number in stage {stage}"
    assert set(found) == {"loss", "gradients", "awkward reports"}


@pytest.mark.parametrize(("trains", "kept"), [((1,), True), ((3,), True), ((), False)])
def test_a_parameter_may_be_trained_in_any_stage_but_must_be_in_one(
    trains: tuple[int, ...], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Staged, "trains", trains)
    found = broken(Staged)
    assert (found == {}) is kept
    assert kept or "no gradient reaches 1 parameters in 9 steps: extra;" in found["gradients"]


def test_stages_that_cannot_be_read_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "stages", "20:1,x")
    assert "stages='20:1,x' is not LENGTH:RATE" in broken(Toy)["loss"]


# ----------------------------------------------------------------------------------------------- gradients


class Idle(Toy):
    """Parameters that nothing trains: one unused, two that get gradients of zero."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        self.head = nn.Linear(2, 2)
        self.unused = nn.Parameter(torch.ones(2))

    def added(self, batch: Batch, step: Step) -> Tensor:
        return self.extra.sum() + 0 * self.head(torch.ones(1, 2)).sum()


def test_parameters_that_nothing_trains_are_named() -> None:
    assert broken(Idle) == {
        "gradients": "no gradient reaches 3 parameters in 3 steps: unused, head.weight, head.bias; use them, freeze them in "
        "build, or declare their prefix in `untrained` and say why in the documentation"
    }


def test_declared_ones_are_left_out_and_a_careless_declaration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Idle, "untrained", ("head.",), raising=False)
    assert "no gradient reaches 1 parameters in 3 steps: unused;" in broken(Idle)["gradients"]
    monkeypatch.setattr(Idle, "untrained", ("head.", "unused"))
    assert findings(Idle)["gradients"] == f"{REACHES.format(53)}; 3 declared untrained"
    for wrong in ("head.", ("",), [1]):
        monkeypatch.setattr(Idle, "untrained", wrong)
        assert "must be a tuple of prefixes" in broken(Idle)["gradients"]


def test_many_idle_parameters_are_counted_not_all_named() -> None:
    class Wide(Toy):
        def __init__(self, config: Any, tokenizer: Any) -> None:
            super().__init__(config, tokenizer)
            self.idle = nn.ParameterList([nn.Parameter(torch.ones(1)) for _ in range(20)])

    assert "no gradient reaches 20 parameters" in (text := broken(Wide)["gradients"])
    assert "idle.11 and 8 more" in text


def test_what_begins_at_zero_or_is_frozen_for_some_epochs_counts_as_trained() -> None:
    class Late(Toy):
        def __init__(self, config: Any, tokenizer: Any) -> None:
            super().__init__(config, tokenizer)
            self.gate, self.behind = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))
            self.thawed = nn.Parameter(torch.ones(1))

        def added(self, batch: Batch, step: Step) -> Tensor:
            thawed = self.thawed if step.epoch >= 5 else self.thawed.detach()
            return self.extra.sum() + (self.gate * self.behind + thawed).sum()

    assert broken(Late) == {}


def test_frozen_parameters_need_no_gradient_but_one_must_be_trained() -> None:
    class Frozen(Toy):
        def __init__(self, config: Any, tokenizer: Any) -> None:
            super().__init__(config, tokenizer)
            self.requires_grad_(False)

        def added(self, batch: Batch, step: Step) -> Tensor:
            return torch.zeros((), requires_grad=True)

    assert broken(Frozen) == {"gradients": "no parameter requires a gradient"}


def test_a_queue_in_the_state_is_put_back_and_a_draw_from_elsewhere_is_found() -> None:
    class Queue(Toy):
        def __init__(self, config: Any, tokenizer: Any) -> None:
            super().__init__(config, tokenizer)
            self.register_buffer("count", torch.zeros(()))

        def added(self, batch: Batch, step: Step) -> Tensor:
            self.count += 1
            return self.extra.sum() * self.count

    class Careless(Toy):
        def added(self, batch: Batch, step: Step) -> Tensor:
            with torch.random.fork_rng():
                torch.seed()
                return self.extra.sum() * torch.rand(())

    assert broken(Queue) == {}
    assert "differs between two steps with the same seed" in broken(Careless)["loss"]


# -------------------------------------------------------------------------------------------------- reports


class Reader(Toy):
    """Fails by the reports of a batch, in one way at a time."""

    fault: ClassVar[str] = ""

    def added(self, batch: Batch, step: Step) -> Tensor:
        counts = torch.tensor([len(split_sentences(text)) for text in batch.texts])
        letters = torch.tensor([sum(letter.isalpha() for letter in text) for text in batch.texts])
        if self.fault == "no sentence in any report":
            return self.extra.sum() / counts.sum()
        if self.fault == "one sentence in each":
            return self.extra.sum() / (counts.max() - 1)
        if self.fault == "60 sentences beside one and none":
            return self.extra.sum() * torch.ones(50)[counts.max()]
        if self.fault == "punctuation alone":
            return self.extra.sum() * counts.sum() / letters.sum().clamp(min=int(counts.sum() == 0))
        if self.fault == "all reports equal":  # the loss is finite, its gradient is not
            same = float(len(set(batch.texts)) > 1)
            return (self.extra.sum() * same).sqrt()
        return self.extra.sum()


@pytest.mark.parametrize("what", [
    "no sentence in any report", "one sentence in each", "60 sentences beside one and none", "punctuation alone",
    "all reports equal",
])  # fmt: skip
def test_reports_that_break_the_loss_are_named(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "fault", what)
    found = broken(Reader)
    assert set(found) == {"awkward reports"}
    message = found["awkward reports"]
    assert message.startswith(f"with {what}: ")
    kind = {"60 sentences beside one and none": "IndexError", "all reports equal": "the gradient of 1 parameters is not finite"}
    assert kind.get(what, "total of the loss is not one finite number") in message


def test_text_features_of_blanks_and_punctuation_are_asked_for() -> None:
    class Blind(Toy):
        def encode_text(self, text: TextBatch) -> Any:
            found = super().encode_text(text)
            words = (text.sentences >= 0).any(dim=1, keepdim=True)
            return replace(found, pooled=found.pooled / words)

    assert broken(Blind)["text features"] == "pooled holds NaN or infinity"


# --------------------------------------------------------------------------------------------------- labels


class Labelled(Toy):
    """Learns from labels, of which some are unknown."""

    careful: ClassVar[bool] = True

    def added(self, batch: Batch, step: Step) -> Tensor:
        labels = batch.targets["labels"]
        assert labels.shape == (len(batch.texts), 3)
        known = labels.isfinite()
        guess = self.extra.expand_as(labels)
        error = F.binary_cross_entropy_with_logits(guess, labels.nan_to_num(), reduction="none") * known
        return (error.sum(dim=1) / known.sum(dim=1).clamp(min=int(self.careful))).mean()


def test_labels_are_there_and_rows_without_any_are_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert broken(Labelled) == {}
    monkeypatch.setattr(Labelled, "careful", False)
    assert broken(Labelled)["loss"] == "total of the loss is not one finite number"


# --------------------------------------------------------------------------------------------- capabilities


class Words(Vision):
    """Learns from reports and encodes none: a bag of words from the image."""

    name, version, card = "words", 1, CLIP.card
    gives: ClassVar[str] = "TextBatch"

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config)
        self.text = TextTower((16, 1, 2), 24, 0.0, "none", tokenizer)
        self.text.bert.encoder.requires_grad_(False)
        self.text.bert.embeddings.requires_grad_(False)
        self.tokenizer = self.text.tokenizer
        self.head = nn.Linear(16, self.tokenizer.get_vocab_size())

    @classmethod
    def preset(cls, preset: str) -> tuple[TowerConfig, Recipe]:
        return CLIP.preset(preset)

    @classmethod
    def build(cls, config: Any, tokenizer: Any) -> Any:
        return cls(config, tokenizer)

    def prepare_text(self, texts: Any) -> Any:
        found = self.text.prepare(texts)
        return {"TextBatch": found, "uncounted": replace(found, truncated=0), "ids": found.ids}[self.gives]

    def loss(self, batch: Batch, step: Step) -> Iterator[Mapping[str, Tensor]]:
        ids = self.text.prepare(batch.texts).ids
        logits = self.head(self.encode_image(batch.images).pooled)
        yield {"total": -logits.log_softmax(dim=1).gather(1, ids).mean()}


def test_a_method_that_reads_reports_and_encodes_none_is_asked_for_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(Words)
    assert not [text for text in found.values() if text.startswith("BROKEN")]
    assert {"tokens", "long text", "loss", "awkward reports"} <= set(found)
    assert not {"text features", "texts do not touch each other"} & set(found)
    monkeypatch.setattr(Words, "gives", "ids")
    assert "prepare_text must give a benchmark.types.TextBatch" in broken(Words)["tokens"]
    monkeypatch.setattr(Words, "gives", "uncounted")
    assert "truncated says 0" in broken(Words)["long text"]


@dataclass(frozen=True)
class Size:
    width: int = 8


class Bare(nn.Module):
    """Images only, and nothing to learn."""

    name, version, card = "bare", 1, CLIP.card
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.input = InputSpec(size=16)
        self.patches = nn.Conv2d(1, 8, 8, 8)

    @classmethod
    def preset(cls, preset: str) -> tuple[Size, Recipe]:
        CLIP.preset(preset)
        return Size(), Recipe(steps=cls.steps)

    @classmethod
    def build(cls, config: Any, tokenizer: Any) -> Any:
        return cls()

    def encode_image(self, images: Tensor) -> Features:
        return Features(F.normalize(self.patches(images).mean(dim=(2, 3)), dim=1))

    def similarity(self, image: Features, text: Features) -> Tensor:
        return image.pooled @ text.pooled.T


CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, ""),
    "text without tokens": ({"encode_text": lambda self, text: None}, "encode_text needs prepare_text beside it"),
    "maps without their sizes": ({"feature_maps": lambda self, images: ()}, "feature_maps needs feature_info beside it"),
    "text that is None": ({"encode_text": None, "prepare_text": None}, "encode_text cannot be called"),
    "a loss that is a number": ({"loss": 1.0}, "loss cannot be called"),
    "tokens without a tokenizer": ({"prepare_text": lambda self, texts: None}, "keeps its tokenizer in `tokenizer`"),
    "steps without a loss": ({"steps": 5}, "the recipe has 5 steps, and there is no loss"),
    "a loss that yields nothing": ({"loss": lambda self, batch, step: iter(())}, "loss yields nothing"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_capability_that_is_not_real_is_found(claim: str) -> None:
    members, words = CLAIMS[claim]
    found = {item.name: item.message for item in check(type("Claim", (Bare,), members)) if not item.ok}
    assert (found == {}) is (not words)
    assert words in " ".join(found.values())
