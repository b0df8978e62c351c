"""Every registered method keeps the contract and goes through every task; a class from elsewhere does so by its name alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmark.contract import check
from benchmark.errors import Unavailable, UserError
from benchmark.options import override, parse_settings
from benchmark.registry import Registry
from benchmark.types import Batch, Features, Recipe, Step, TextBatch, capabilities, reads_reports
from methods import METHODS
from methods.clip import CLIP
from tasks import TASKS
from tests.conftest import TINY, TRAINED, Command

FAMILIES = {"retrieval", "zeroshot", "classification", "segmentation", "detection"}
# Not built without files of weights. ImageNet is under contract below, the others in tests/test_xrv.py and test_hub_models.py.
NEED_FILES = {"imagenet", "xrv", "biomedclip", "biovil_t", "rad_dino"}
CORNERS = (
    *((name, ()) for name in METHODS if name not in NEED_FILES),
    ("mcr", ("stream=dual", "alignment=abm")),
    ("mcr", ("stream=dual", "backward=sequential", "aggregator=attention")),
    ("clip", ("image_encoder=resnet", "dropout=0.1")),
)


def tiny(name: str, *settings: str) -> Any:
    cls = METHODS.load(name)
    return override(*cls.preset("quick"), parse_settings((*TINY, *settings)), name)[0]


def broken(findings: list[Any]) -> dict[str, str]:
    return {item.name: item.message for item in findings if not item.ok}


@pytest.fixture(scope="module")
def image_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "resnet10t.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", num_classes=0).state_dict(), path)
    return str(path)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.hub.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("benchmark.hub.try_to_load_from_cache", lambda repository, file: None)


# ---------------------------------------------------------------------------------------- registered methods


@pytest.mark.parametrize(("name", "settings"), CORNERS)
def test_every_method_keeps_the_contract(name: str, settings: tuple[str, ...]) -> None:
    method = METHODS.load(name)
    findings = check(method, config=tiny(name, *settings))
    assert broken(findings) == {}
    has, reads, names = capabilities(method), reads_reports(method), {item.name for item in findings}
    asked = {"text features": "text" in has, "feature maps": "dense" in has, "gradients": "trainable" in has,
             "tokens": reads, "awkward reports": reads and "trainable" in has, "weights in a file": True}  # fmt: skip
    assert {clause: clause in names for clause in asked} == asked


def test_methods_that_can_be_built_alone_are_all_under_contract() -> None:
    assert set(METHODS) >= NEED_FILES
    assert {"mcr", "clip", "random"} <= {name for name, _ in CORNERS}


def test_imagenet_keeps_the_contract_with_local_weights(image_weights: str) -> None:
    cls = METHODS.load("imagenet")
    config = replace(cls.preset("quick")[0], model="resnet10t", weights=image_weights, image_size=64)
    findings = check(cls, config=config)
    assert broken(findings) == {}
    assert "feature maps" in {item.name for item in findings}


def test_imagenet_without_weights_is_unavailable_and_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    offline(monkeypatch)
    with pytest.raises(Unavailable, match="--set weights=FILE"):
        check(METHODS.load("imagenet"))
    assert command("check-method", "imagenet") == 1
    assert "imagenet is unavailable" in command.output
    assert "--set weights=FILE" in command.output


def test_every_method_goes_through_every_task(command: Command, image_weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    local = ("prior.steps=9", "imagenet.model=resnet10t", f"imagenet.weights={image_weights}", "imagenet.image_size=64")
    assert set(TASKS) == FAMILIES
    assert command.run("all", "all", settings=(*TINY, *TRAINED, *local)) == 0, command.output
    found = {(item.spec.method, item.spec.task): item for item in command.results()}
    assert set(found) == {(method, task) for method in METHODS for task in FAMILIES}
    for (method, task), result in found.items():
        lacking = TASKS.load(task).needs - capabilities(METHODS.load(method))
        absent = "unavailable" if method in NEED_FILES - {"imagenet"} else "ok"
        assert result.status == ("unsupported" if lacking else absent), (method, task, result.error)
        if result.status == "ok":
            assert result.metrics[result.primary].value is not None
            assert result.n_used == result.n_expected > 0
        elif lacking:
            assert f"no {min(lacking)} capability" in str(result.error)


# -------------------------------------------------------------------------------------- a class from elsewhere

OWN = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.types import Features, InputSpec, MethodCard, Recipe, TextBatch


@dataclass(frozen=True)
class Config:
    width: int = 8


class Mine(nn.Module):
    name: ClassVar[str] = "mine"
    version: ClassVar[int] = 1
    card: ClassVar[MethodCard] = MethodCard(title="Mine")
    feature_info = ((8, 8),)

    def __init__(self, config, tokenizer):
        super().__init__()
        self.config, self.tokenizer, self.input = config, tokenizer, InputSpec(size=32)
        self.patches = nn.Conv2d(1, config.width, 8, 8)
        self.words = nn.EmbeddingBag(tokenizer.get_vocab_size(), config.width, mode="mean", padding_idx=0)

    @classmethod
    def preset(cls, preset):
        if preset not in ("quick", "small", "paper"):
            raise UserError(f"no preset {preset}")
        return Config(), Recipe(steps=2, batch_size=8)

    @classmethod
    def build(cls, config, tokenizer):
        return cls(config, tokenizer)

    def feature_maps(self, images):
        return (self.patches(images),)

    def encode_image(self, images):
        return Features(nn.functional.normalize(self.patches(images).mean(dim=(2, 3)), dim=1))

    def prepare_text(self, texts):
        rows = [item.ids[:16] for item in self.tokenizer.encode_batch(list(texts))]
        length = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
        mask = ids > 0
        nothing = torch.full_like(ids, -1)
        cut = sum(len(item.ids) > 16 for item in self.tokenizer.encode_batch(list(texts)))
        return TextBatch(ids, mask, ~mask, nothing, nothing, cut)

    def encode_text(self, text):
        return Features(nn.functional.normalize(self.words(text.ids), dim=1))

    def similarity(self, image, text):
        return image.pooled @ text.pooled.T

    def loss(self, batch, step):
        image = self.encode_image(batch.images).pooled
        text = self.encode_text(self.prepare_text(batch.texts)).pooled
        logits = image @ text.T / 0.1
        yield {"total": nn.functional.cross_entropy(logits, torch.arange(len(logits)))}
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "my_own_method.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_own_method:Mine"
    sys.modules.pop("my_own_method", None)


def test_a_class_in_a_file_and_one_line_go_through_all_tasks(
    own_module: str, command: Command, register: Callable[[Any, str, Any], None]
) -> None:
    register(METHODS, "mine", own_module)
    assert command.run("mine", "all", settings=()) == 0, command.output
    results = command.results()
    assert {item.spec.task for item in results} == FAMILIES
    assert all(item.status == "ok" and item.title == "Mine" for item in results)
    assert all(item.pretraining is not None and "pretrain" in item.pretraining.seconds for item in results)


def test_check_method_takes_a_class_that_is_not_registered(own_module: str, command: Command) -> None:
    assert command("check-method", own_module) == 0, command.output
    assert "keeps all 18 clauses" in command.output
    assert command("check-method", "my_own_method:Nine") == 2
    assert "cannot be imported" in command.error
    assert command("check-method", own_module, "--set", "widht=9") == 2
    assert "did you mean width" in command.error


def test_check_method_fails_for_a_broken_class(own_module: str, command: Command, tmp_path: Path) -> None:
    faulty = OWN.replace("nn.functional.normalize(self.words(text.ids), dim=1)", "2 * self.words(text.ids)")
    (tmp_path / "my_own_method.py").write_text(faulty)
    assert command("check-method", own_module) == 1
    assert "BROKEN" in command.output
    assert "pooled must be L2-normalised" in command.output


def test_entry_points_add_methods_and_collisions_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(group: str) -> list[EntryPoint]:
        assert group == "benchmark.methods"
        return [EntryPoint("mcr", "another.package:MCR", group)]

    monkeypatch.setattr("benchmark.registry.entry_points", points)
    registry: Registry[Any] = Registry("method", "benchmark.methods", {"mcr": "methods.mcr:MCR"})
    with pytest.raises(UserError, match=r"method 'mcr' is registered twice: methods\.mcr:MCR and another\.package:MCR"):
        registry.load("mcr")
    fresh: Registry[Any] = Registry("method", "benchmark.methods", {"clip": "methods.clip:CLIP"})
    assert set(fresh) == {"clip", "mcr"}
    with pytest.raises(UserError, match="cannot be imported"):
        fresh.load("mcr")


# ------------------------------------------------------------------------------- each clause can be broken


class Negligent(CLIP):
    """CLIP with one fault at a time."""

    fault: ClassVar[str] = ""

    def encode_image(self, images: Tensor) -> Features:
        if self.fault == "changes its input":
            images.mul_(2)
        found = super().encode_image(images)
        pooled = found.pooled
        if self.fault == "other features the second time":
            pooled = torch.nn.functional.normalize(pooled + 0.01 * torch.randn_like(pooled), dim=1)
        if self.fault == "with the rest of its batch":
            pooled = torch.nn.functional.normalize(pooled - 0.5 * pooled.mean(dim=0), dim=1)
        if self.fault == "L2-normalised":
            pooled = 2 * pooled
        if self.fault == "expected float32":
            pooled = pooled.double()
        if self.fault == "NaN":
            pooled = pooled / 0 * 0
        if self.fault == "the encoder is dead":
            pooled = torch.ones_like(pooled) / pooled.shape[1] ** 0.5
        return Features(pooled)

    def prepare_text(self, texts: Any) -> TextBatch:
        found = super().prepare_text(texts)
        return replace(found, truncated=0) if self.fault == "truncated says 0" else found

    def encode_text(self, text: TextBatch) -> Features:
        if self.fault == "padding":
            everything = torch.ones_like(text.mask)
            text = replace(text, mask=everything, special=~everything)
        return super().encode_text(text)

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = super().feature_maps(images)
        return tuple(item[..., :-1] for item in maps) if self.fault == "a map at stride" else maps

    def similarity(self, image: Features, text: Features) -> Tensor:
        found = super().similarity(image, text)
        return found.T if self.fault == "similarity of 4 images" else found

    def loss(self, batch: Batch, step: Step) -> Iterator[Mapping[str, Tensor]]:
        for terms in super().loss(batch, step):
            total = terms["total"]
            if self.fault == "not one finite number":
                total = total / 0
            if self.fault == "no gradient reaches":
                total = self.logit_scale() * total.detach()
            yield {"sum": total} if self.fault == "must be named total" else {"total": total}


FAULTS = {
    "changes its input": "image features", "L2-normalised": "image features", "expected float32": "image features",
    "NaN": "image features", "the encoder is dead": "image features", "other features the second time": "image features repeat",
    "with the rest of its batch": "images do not touch each other", "similarity of 4 images": "similarity",
    "truncated says 0": "long text", "padding": "texts do not touch each other", "a map at stride": "feature maps",
    "must be named total": "loss", "not one finite number": "loss", "no gradient reaches": "gradients",
}  # fmt: skip


def test_without_a_fault_nothing_is_broken() -> None:
    assert broken(check(Negligent, config=tiny("clip"))) == {}


@pytest.mark.parametrize(("fault", "clause"), FAULTS.items())
def test_a_fault_breaks_its_clause(fault: str, clause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Negligent, "fault", fault)
    found = broken(check(Negligent, config=tiny("clip")))
    assert fault in found[clause]


def test_state_outside_the_state_dict_is_found() -> None:
    class Forgetful(CLIP):
        def __init__(self, config: Any, tokenizer: Any) -> None:
            super().__init__(config, tokenizer)
            self.turn = torch.randn(16)

        def encode_image(self, images: Tensor) -> Features:
            return Features(torch.nn.functional.normalize(super().encode_image(images).pooled + self.turn, dim=1))

    assert "no parameter and no buffer" in broken(check(Forgetful, config=tiny("clip")))["weights in a file"]


def test_an_open_configuration_and_unseeded_weights_are_found() -> None:
    @dataclass
    class Open:
        sizes: tuple[int, ...] = (1, 2)

    class Careless(CLIP):
        @classmethod
        def preset(cls, preset: str) -> tuple[Any, Recipe]:
            return Open(), Recipe()

        @classmethod
        def build(cls, config: Any, tokenizer: Any) -> Any:
            with torch.random.fork_rng():
                torch.seed()
                return CLIP.build(tiny("clip"), tokenizer)

    found = broken(check(Careless))
    assert "frozen dataclass" in found["configuration"]
    assert "two builds from the same seed differ" in found["build"]


def test_a_method_that_raises_is_a_finding_and_the_other_clauses_go_on() -> None:
    class Raising(CLIP):
        def similarity(self, image: Features, text: Features) -> Tensor:
            raise KeyError("pooled")

    findings = check(Raising, config=tiny("clip"))
    assert broken(findings) == {"similarity": "KeyError: 'pooled'"}
    assert len(findings) == 18
