"""Fine-tuning: a copy is trained and the method stays as it is, whatever the batch parts, batch norms and methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported, UserError
from benchmark.types import Features, InputSpec, Predictions, Protocol
from methods import METHODS
from tasks.classification import Classification
from tasks.heads.finetune import FineTuning, Tuned
from tasks.heads.supervised import Training
from tasks.published.classification import PROTOCOLS
from tests.conftest import Command
from tests.test_pretrain import Setup
from tests.toy import ToySource

LITERAL = next(protocol for protocol in PROTOCOLS if protocol.name == "finetune-linear")
KNN = next(protocol for protocol in PROTOCOLS if protocol.name == "knn")
DATA = Dataset(ToySource(30))


def quick(**settings: Any) -> Protocol:
    """The literal for a moment: twelve steps at a rate that shows."""
    short = {"rounds": 3, "round_steps": 4, "batch_size": 12, "schedule": "cosine:2", "learning_rate": 3e-3, **settings}
    return replace(LITERAL, settings=tuple(sorted({**dict(LITERAL.settings), **short}.items())))


class Normed(nn.Module):
    """A convolution with batch norm, and a part that the tower features do not read."""

    name = "normed"
    input = InputSpec(32)

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.tower = nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU())
            self.other = nn.Linear(4, 4)

    def tower_features(self, images: Tensor) -> Tensor:
        return self.tower(images).mean(dim=(2, 3))

    def encode_image(self, images: Tensor) -> Features:
        return Features(nn.functional.normalize(self.other(self.tower_features(images)), dim=1))


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    def made(**words: Any) -> Context:
        return Context(device=torch.device("cpu"), cache=tmp_path, progress=False, **{"batch_size": 64, **words})

    return made


def run(method: Any, protocol: Protocol, context: Context, fraction: float = 1.0) -> Predictions:
    return Classification().run(method, DATA, protocol, fraction, context)


def tuned(protocol: Protocol, context: Context) -> FineTuning:
    tuning = FineTuning(Normed().eval(), DATA, protocol, context)
    rows = [DATA.rows(split) for split in ("train", "val")]
    tuning.fit((rows[0], DATA.labels(rows[0])), (rows[1], DATA.labels(rows[1])))
    return tuning


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Setup(tmp_path_factory.mktemp("cache"), "random").method().eval()


# ------------------------------------------------------------------------------------------- what is trained


def test_the_literal_is_what_is_run() -> None:
    training = Training.of(LITERAL)
    assert (training.optimizer, training.learning_rate, training.weight_decay) == ("adamw", 1e-4, 0.05)
    assert (training.batch_size, training.rounds * training.round_steps, training.schedule) == (64, 3000, "cosine:50")
    assert (training.patience, training.clip_norm, training.selection) == (5, 1.0, "highest macro auroc on val")
    assert (LITERAL.setting("encoder_rate"), LITERAL.setting("freeze_bn"), LITERAL.fractions) == (0.1, False, (0.01, 0.1, 1.0))


@pytest.mark.parametrize("name", ["random", "normed"])
def test_the_method_is_untouched_for_the_next_cell(name: str, random: Any, context: Callable[..., Context]) -> None:
    method: Any = random if name == "random" else Normed().eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    flags = [item.requires_grad for item in method.parameters()]
    first = run(method, KNN, context()).arrays["scores"]
    found = run(method, quick(), context()).arrays["scores"]
    assert np.isfinite(found).all()
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert [item.requires_grad for item in method.parameters()] == flags
    assert all(item.grad is None for item in method.parameters())
    assert not method.training
    assert np.array_equal(run(method, KNN, context()).arrays["scores"], first)


def test_encoder_and_head_learn_and_the_rest_does_not(context: Callable[..., Context]) -> None:
    start, found = Normed(), tuned(quick(rounds=8), context()).tuned.method
    assert not torch.equal(found.tower[0].weight, start.tower[0].weight)
    assert torch.equal(found.other.weight, start.other.weight)
    assert not found.other.weight.requires_grad
    still = tuned(quick(encoder_rate=0.0), context()).tuned
    assert torch.equal(still.method.tower[0].weight, start.tower[0].weight)
    rates = {group["lr"] for group in still.groups(1e-3, 0.1)}
    assert rates == {1e-4, 1e-3}
    decayed = [item for group in still.groups(1e-3, 0.1) if "weight_decay" not in group for item in group["params"]]
    assert [tuple(item.shape) for item in decayed] == [(4, 1, 3, 3), (3, 4)]


def test_a_loss_goes_down_on_rows_it_is_trained_on(random: Any, context: Callable[..., Context]) -> None:
    rows, task = DATA.rows("train"), quick(rounds=10, round_steps=10, augment=0.0, selection="lowest loss on val")
    tuning, shared = FineTuning(random, DATA, task, context()), context()
    tuning.context = shared
    tuning.fit((rows, DATA.labels(rows)), (rows, DATA.labels(rows)))
    assert float(shared.notes["val_score"] or 1) < 0.6  # 0.69 where nothing is known


@pytest.mark.parametrize("freeze", [True, False])
def test_batch_norms_do_as_the_literal_says(freeze: bool, context: Callable[..., Context]) -> None:
    start, found = Normed(), tuned(quick(freeze_bn=freeze), context()).tuned
    assert torch.equal(found.method.tower[1].running_mean, start.tower[1].running_mean) is freeze
    assert not torch.equal(found.method.tower[1].weight, start.tower[1].weight)
    assert found.train().method.tower[1].training is not freeze
    assert found.method.tower[0].training


# --------------------------------------------------------------------------------- batches and augmentation


def test_scores_do_not_depend_on_the_parts_of_a_batch(random: Any, context: Callable[..., Context]) -> None:
    contexts = [context(batch_size=size) for size in (64, 12, 5)]
    found = [run(random, quick(), item).arrays["scores"] for item in contexts]
    assert np.allclose(found[0], found[1], atol=1e-4)
    assert np.allclose(found[0], found[2], atol=1e-4)
    assert [item.notes.get("batch_part") for item in contexts] == [None, None, 5]


def test_a_run_twice_is_the_same_run_and_another_seed_is_not(random: Any, context: Callable[..., Context]) -> None:
    first, second = (run(random, quick(), context()).arrays["scores"] for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(run(random, quick(), context(eval_seed=1)).arrays["scores"], first)


def test_augmentation_is_drawn_from_seed_epoch_and_uid(context: Callable[..., Context]) -> None:
    rows = DATA.rows("train")[:4]

    def images(epoch: int, seed: int, strength: float, order: int = 1) -> NDArray[Any]:
        tuning = FineTuning(Normed(), DATA, quick(augment=strength), context(eval_seed=seed))
        return tuning._augmented(rows[::order], epoch).numpy()[::order]

    first = images(0, 0, 1.0)
    assert np.array_equal(images(0, 0, 1.0, order=-1), first)
    for other in (images(1, 0, 1.0), images(0, 1, 1.0), images(0, 0, 0.0)):
        assert not np.array_equal(other, first)
    assert np.array_equal(images(0, 0, 0.0), images(1, 1, 0.0))


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision_trains_too(precision: str, random: Any, context: Callable[..., Context]) -> None:
    whole = run(random, quick(), context()).arrays["scores"]
    mixed = run(random, quick(), context(precision=precision)).arrays["scores"]
    assert not np.array_equal(whole, mixed)
    assert np.allclose(whole, mixed, atol=0.1)


def test_a_loss_that_is_not_finite_names_the_rows(context: Callable[..., Context]) -> None:
    class Exploding(Normed):
        def tower_features(self, images: Tensor) -> Tensor:
            return super().tower_features(images) * (float("nan") if self.training else 1.0)

    with pytest.raises(UserError, match=r"not finite at step 1 \(rows p\d+-\d, "):
        run(Exploding().eval(), quick(), context())


# ---------------------------------------------------------------------------------------------- who can


def test_a_method_without_a_differentiable_tower_is_unsupported(context: Callable[..., Context]) -> None:
    class Frozen(Normed):
        def tower_features(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                return super().tower_features(images)

    with pytest.raises(Unsupported, match="tower_features of normed give no gradient"):
        run(Frozen().eval(), quick(), context())

    class Pooled(nn.Module):
        name, input, encode_image = "pooled", Normed.input, Normed.encode_image

    with pytest.raises(Unsupported, match="pooled has no tower_features"):
        run(Pooled().eval(), quick(), context())


TRAINABLE = [name for name in METHODS if name not in ("imagenet", "xrv", "biomedclip", "biovil_t", "rad_dino")]


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_method_that_is_built_here_can_be_fine_tuned(name: str, tmp_path: Path) -> None:
    method = Setup(tmp_path, name).method().eval()
    copy = Tuned(method, classes=3, freeze_bn=False, seed=0).train()
    size = method.input
    logits = copy(torch.randn(2, size.channels, size.size, size.size))
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    trained = [item for item in copy.parameters() if item.requires_grad]
    assert all(item.grad is not None for item in trained)
    assert sum(item.numel() for item in trained) <= sum(item.numel() for item in method.parameters())
    assert not any("text" in key for key, item in copy.named_parameters() if item.requires_grad)


def test_a_method_that_comes_frozen_as_from_the_runner_is_trained_all_the_same(context: Callable[..., Context]) -> None:
    frozen = Normed().eval()
    frozen.requires_grad_(False)
    found, free = (run(method, quick(), context()).arrays["scores"] for method in (frozen, Normed().eval()))
    assert np.array_equal(found, free)
    assert not any(item.requires_grad for item in frozen.parameters())


def test_fine_tuning_runs_from_the_command_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.published.classification.PROTOCOLS", (quick(),))
    assert command.run("random", "classification", "--protocol", "finetune-linear", "--labels", "1") == 0
    (result,) = command.results()
    assert result.status == "ok", result.error
    assert int(result.notes["trained_params"] or 0) > 1000


def test_fine_tuning_says_from_the_command_line_who_cannot(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.published.classification.PROTOCOLS", (quick(),))
    monkeypatch.setattr("methods.baselines.Random.tower_features", property())
    assert command.run("random", "classification", "--protocol", "finetune-linear", "--labels", "1") == 0
    (result,) = command.results()
    assert result.status == "unsupported"
    assert "no tower_features" in str(result.error)
