"""torchxrayvision's networks: the same features from a local file, and clear words where weights cannot be had."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import resnet50

from benchmark import weights
from benchmark.contract import check
from benchmark.data.transform import to_input
from benchmark.errors import Unavailable, UserError
from benchmark.types import capabilities
from methods import xrv
from methods.xrv import DEFAULT, Xrv, XrvConfig, features_state


@pytest.fixture(scope="module")
def densenet() -> Any:
    """The library's own network, its norms away from their start."""
    with warnings.catch_warnings():
        from torchxrayvision.models import DenseNet

    torch.manual_seed(0)
    network = DenseNet().train()
    with torch.no_grad():
        network(torch.randn(2, 1, 64, 64) * 512)
    return network.eval()


@pytest.fixture(scope="module")
def densenet_file(densenet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the documented conversion writes it: a state dict with thresholds."""
    path = tmp_path_factory.mktemp("xrv") / "densenet.pt"
    torch.save({**densenet.state_dict(), "op_threshs": torch.full((18,), 0.5)}, path)
    return path


def test_a_densenet_file_gives_the_features_of_the_library(densenet: Any, densenet_file: Path) -> None:
    method = Xrv.build(XrvConfig(weights=str(densenet_file)), None).eval()
    images = torch.randn(2, 1, 64, 64) * 512
    with torch.inference_mode():
        expected = F.normalize(densenet.features2(images), dim=-1)
        assert torch.allclose(method.encode_image(images).pooled, expected, atol=1e-5)
        maps = method.feature_maps(images)
    assert [tuple(item.shape[1:]) for item in maps] == [(256, 16, 16), (512, 8, 8), (1024, 4, 4), (1024, 2, 2)]
    assert (method.input.size, method.feature_info[-1]) == (224, (1024, 32))


def test_a_resnet_file_gives_the_features_of_its_own_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = resnet50(num_classes=18)
    network.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    network.eval()
    images = torch.randn(2, 1, 64, 64) * 512
    plain, whole = tmp_path / "inner.pt", tmp_path / "outer.safetensors"
    torch.save(network.state_dict(), plain)  # as it is published
    outer = torch.nn.Module()
    outer.model = network  # as the library's class writes it
    weights.save_module(whole, outer)
    network.fc = torch.nn.Identity()
    with torch.inference_mode():
        expected = F.normalize(network(images), dim=-1)
        for path in (plain, whole):
            method = Xrv.build(XrvConfig(weights=str(path), image_size=64), None).eval()
            assert torch.allclose(method.encode_image(images).pooled, expected, atol=1e-5)
    assert method.input.size == 64
    assert Xrv.build(XrvConfig(weights=str(plain)), None).input.size == 512


def test_pixels_span_the_range_that_the_networks_know(densenet_file: Path) -> None:
    spec = Xrv.build(XrvConfig(weights=str(densenet_file), image_size=32), None).input
    pixels = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    assert float(to_input(pixels, spec).min()) == -1024
    assert float(to_input(pixels + 255, spec).max()) == 1024


def test_the_contract_is_kept_and_text_is_unsupported(tmp_path: Path) -> None:
    from torchxrayvision.models import DenseNet

    torch.manual_seed(0)
    torch.save(DenseNet().state_dict(), tmp_path / "drawn.pt")  # as drawn: the contract's pixels are of unit variance
    assert capabilities(Xrv) == {"dense"}
    findings = check(Xrv, config=XrvConfig(weights=str(tmp_path / "drawn.pt"), image_size=64))
    assert [item for item in findings if not item.ok] == []


def test_a_file_of_another_network_is_refused(densenet: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    state = densenet.state_dict()
    assert not any(key.startswith(("classifier", "op_threshs")) for key in features_state(state))
    for other, words in (
        ({**state, "surplus": torch.ones(1)}, "unexpected"),
        ({key: value for key, value in state.items() if "norm5.bias" not in key}, "missing"),
        ({**state, "features.conv0.weight": torch.ones(64, 3, 7, 7)}, "has shape"),
        ({"linear.weight": torch.ones(2, 2)}, "missing"),
    ):
        torch.save(other, path)
        with pytest.raises(UserError, match=words):
            Xrv.build(XrvConfig(weights=str(path)), None)
    torch.save(densenet, path)  # a whole pickled model, as the library publishes its DenseNets
    with pytest.raises(UserError, match="cannot be read without running code"):
        Xrv.build(XrvConfig(weights=str(path)), None)


def test_weights_that_cannot_be_had_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xrv, "cache", lambda: tmp_path)
    with pytest.raises(Unavailable, match="pickled model") as raised:
        Xrv.build(XrvConfig(weights="densenet121-res224-all"), None)
    assert "--set weights=densenet121-res224-all.pt" in raised.value.remedy
    with pytest.raises(Unavailable, match="no file and no name of torchxrayvision"):
        Xrv.build(XrvConfig(weights="no-such-file.pt"), None)
    address = "http://127.0.0.1:9/resnet-state.pt"  # nothing listens there
    monkeypatch.setattr(xrv, "release", lambda: {DEFAULT: address})
    with pytest.raises(Unavailable, match="cannot be fetched") as raised:
        Xrv.build(XrvConfig(), None)
    assert address in raised.value.remedy
    assert list(tmp_path.iterdir()) == []
    for value in ("", "none"):
        with pytest.raises(UserError, match="random start"):
            XrvConfig(weights=value)
    with pytest.raises(UserError, match="preset"):
        Xrv.preset("tiny")


def test_a_name_is_fetched_once_and_kept(densenet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setattr(xrv, "cache", lambda: folder)
    monkeypatch.setattr(xrv, "release", lambda: {DEFAULT: f"{densenet_file.parent.as_uri()}/net-state.pt"})
    densenet_file.with_name("net-state.pt").write_bytes(densenet_file.read_bytes())
    first = Xrv.build(XrvConfig(), None)
    densenet_file.with_name("net-state.pt").unlink()
    second = Xrv.build(XrvConfig(), None)
    assert [item.name for item in folder.iterdir()] == ["net-state.pt"]
    assert torch.equal(
        first.tower.model.state_dict()["features.norm5.bias"], second.state_dict()["tower.model.features.norm5.bias"]
    )


def test_the_library_does_not_turn_warnings_off() -> None:
    sys.modules.pop("torchxrayvision.models", None)
    before = list(warnings.filters)
    assert DEFAULT in xrv.release()
    assert list(warnings.filters) == before
