"""An encoder in training is a copy: the method stays as it was, and what cannot be trained is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported
from benchmark.features import FrozenMaps
from benchmark.features_trained import TrainedEncoder, TrainedMaps
from benchmark.types import InputSpec
from methods import METHODS
from tests.conftest import TINY
from tests.toy import ToySource


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(device=torch.device("cpu"), cache=tmp_path, batch_size=4, progress=False)


class Tower(nn.Module):
    """Two stages with batch norm and dropout, and a text tower that maps never read."""

    input = InputSpec(size=64)
    feature_info = ((4, 4), (8, 8))
    name = "tower"

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 8, 2, stride=2), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.text = nn.Embedding(10, 8)

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        fine = self.first(images)
        return fine, self.second(fine)


def prepared() -> Tower:
    """As the runner hands a method to a task."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tower().eval().requires_grad_(False)


def step(maps: TrainedMaps, encoder: TrainedEncoder) -> None:
    optimizer = torch.optim.SGD(encoder.trained, lr=0.1)
    sum(item.square().mean() for item in maps.batch(range(4))).backward()
    optimizer.step()


def test_the_method_keeps_weights_statistics_mode_and_gradients(context: Context) -> None:
    method, data = prepared(), Dataset(ToySource(10))
    before = {name: item.clone() for name, item in method.state_dict().items()}
    encoder = TrainedEncoder(method, freeze_bn=False)
    maps = TrainedMaps(encoder, data, data.rows("train"), context)
    encoder.train()
    step(maps, encoder)
    after = encoder.method.state_dict()
    assert not torch.equal(after["first.0.weight"], before["first.0.weight"])
    assert not torch.equal(after["first.1.running_mean"], before["first.1.running_mean"])
    assert all(torch.equal(item, before[name]) for name, item in method.state_dict().items())
    assert not method.training
    assert all(item.grad is None and not item.requires_grad for item in method.parameters())


def test_only_what_maps_read_is_trained(context: Context) -> None:
    encoder = TrainedEncoder(prepared(), freeze_bn=False)
    chosen = {id(item) for item in encoder.trained}
    names = {name for name, item in encoder.method.named_parameters() if id(item) in chosen}
    assert names == {name for name, item in encoder.method.named_parameters() if item.requires_grad}
    assert names == {name for name, _ in prepared().named_parameters() if not name.startswith("text")}
    assert all(item.grad is None for item in encoder.trained)


def test_untrained_and_in_eval_mode_it_gives_the_maps_of_the_frozen_method(context: Context) -> None:
    method, data = prepared(), Dataset(ToySource(10))
    rows = data.rows("train")
    trained = TrainedMaps(TrainedEncoder(method, freeze_bn=False).eval(), data, rows, context)
    frozen = FrozenMaps(method, data, rows, context)
    assert (len(trained), trained.info) == (len(frozen), frozen.info)
    for chosen in ([0, 3], [2]):
        for one, two in zip(trained.batch(chosen), frozen.batch(chosen), strict=True):
            torch.testing.assert_close(one.detach(), two)


def test_modes_follow_freeze_bn_and_hold() -> None:
    for freeze_bn in (True, False):
        encoder = TrainedEncoder(prepared(), freeze_bn=freeze_bn).train()
        assert encoder.method.second[2].training
        assert encoder.method.second[1].training is not freeze_bn
        assert not encoder.method.training  # its input is that of eval mode
        encoder.hold(True)
        assert not any(part.training for part in encoder.method.modules())
        assert not encoder(torch.zeros(1, 1, 64, 64))[0].requires_grad
        encoder.train()
        assert not any(part.training for part in encoder.method.modules())
        encoder.hold(False)
        assert encoder.method.second[2].training
        assert encoder(torch.zeros(2, 1, 64, 64))[0].requires_grad
        encoder.eval()
        assert not any(part.training for part in encoder.method.modules())


class Detached(Tower):
    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return super().feature_maps(images)


class Fixed(nn.Module):
    input = InputSpec(size=64)
    feature_info = ((1, 1),)

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        return (images,)


@pytest.mark.parametrize(("method", "name"), [(Detached(), "tower"), (Fixed(), "Fixed")], ids=["no gradient", "no weights"])
def test_maps_without_a_gradient_are_refused_with_the_way_out(method: nn.Module, name: str) -> None:
    with pytest.raises(Unsupported, match=f"{name} cannot be fine-tuned: .*use a protocol with a frozen encoder"):
        TrainedEncoder(method, freeze_bn=True)


@pytest.mark.parametrize("name", ["random", "mrm", "mae"])
def test_methods_of_the_registry_can_be_trained_at_the_size_of_evaluation(name: str, context: Context) -> None:
    from benchmark.data.text import train_tokenizer
    from benchmark.options import override, parse_settings
    from benchmark.types import reads_reports

    method = METHODS.load(name)
    config, recipe = method.preset("quick")
    known = [item for item in TINY if hasattr(config, item.split("=")[0])]
    config, _, _ = override(config, recipe, parse_settings(known), name)
    data = Dataset(ToySource(10))
    texts = data.texts(data.rows("train"), ("findings",))
    built = method.build(config, train_tokenizer(texts) if reads_reports(method) else None).eval().requires_grad_(False)
    encoder = TrainedEncoder(built, freeze_bn=True).train()
    maps = TrainedMaps(encoder, data, data.rows("train"), context)
    step(maps, encoder)
    assert all(torch.isfinite(item).all() for item in encoder.trained)
    assert [item.shape[1] for item in maps.batch([0])] == [channels for channels, _ in built.feature_info]
