"""BiomedCLIP, BioViL-T and RAD-DINO from small folders in the hub's layout, and clear words where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50
from transformers import BertConfig, BertForMaskedLM, BertModel, Dinov2Config, Dinov2Model

from benchmark import hub, weights
from benchmark.contract import check
from benchmark.data.text import train_tokenizer
from benchmark.errors import Unavailable, UserError
from benchmark.types import capabilities
from methods import hub_models
from methods.biovil_t import BioViLT
from methods.hub_models import BiomedCLIP, HubConfig, HubImageConfig, RadDino

REPORTS = (
    "Heart size is normal. No effusion.",
    "Small left effusion with words of many kinds: " + " ".join(map(str, range(200))),
)
WORDS = 120
BERT = {"vocab_size": WORDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 256,
        "max_position_embeddings": 40}  # fmt: skip
POSITION_IDS = torch.arange(40).unsqueeze(0)


@pytest.fixture(scope="module")
def vocabulary() -> Tokenizer:
    return train_tokenizer(REPORTS, WORDS)


# ---------------------------------------------------------------------------------------------- BiomedCLIP


@pytest.fixture(scope="module")
def biomedclip(tmp_path_factory: pytest.TempPathFactory, vocabulary: Tokenizer) -> tuple[Path, nn.Module, BertModel]:
    """A folder as open_clip writes one, with the towers it was made of."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("biomedclip")
    trunk = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=0).eval()
    bert = BertModel(BertConfig(**BERT), add_pooling_layer=False).eval()
    state = {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items()}
    state |= {f"text.transformer.{key}": value for key, value in bert.state_dict().items()}
    state |= {"text.transformer.embeddings.position_ids": POSITION_IDS, "logit_scale": torch.tensor(4.4)}
    state |= {"visual.head.proj.weight": torch.randn(24, 64), "text.proj.0.weight": torch.randn(44, 64)}
    state["text.proj.2.weight"] = torch.randn(24, 44)
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    vocabulary.save(str(folder / "tokenizer.json"))
    return folder, trunk, bert


def test_biomedclip_equals_its_parts(biomedclip: tuple[Path, Any, Any]) -> None:
    folder, trunk, bert = biomedclip
    state = weights.load(folder / "open_clip_pytorch_model.bin")
    method = BiomedCLIP.build(HubConfig(weights=str(folder)), None).eval()
    images, text = torch.randn(2, 3, 32, 32), method.prepare_text(REPORTS[:1])
    with torch.inference_mode():
        expected = trunk(images) @ state["visual.head.proj.weight"].T  # the class token, normalised
        assert torch.allclose(method.encode_image(images).pooled, F.normalize(expected, dim=-1), atol=1e-5)
        start = bert(input_ids=text.ids).last_hidden_state[:, 0]
        expected = F.gelu(start @ state["text.proj.0.weight"].T) @ state["text.proj.2.weight"].T
        assert torch.allclose(method.encode_text(text).pooled, F.normalize(expected, dim=-1), atol=1e-5)
    assert (method.input.size, method.input.mean[0], method.text_tower.max_tokens) == (32, 0.48145466, 40)


def test_biomedclip_keeps_the_contract(biomedclip: tuple[Path, Any, Any]) -> None:
    findings = check(BiomedCLIP, config=HubConfig(weights=str(biomedclip[0])))
    assert [item for item in findings if not item.ok] == []
    assert capabilities(BiomedCLIP) == {"text", "dense"}


def test_biomedclip_refuses_other_files(biomedclip: tuple[Path, Any, Any], tmp_path: Path, vocabulary: Tokenizer) -> None:
    state = weights.load(biomedclip[0] / "open_clip_pytorch_model.bin")
    refused(BiomedCLIP, state, tmp_path, "open_clip_pytorch_model.bin", vocabulary, {
        "surplus.weight": (torch.ones(1), "not of this kind of file, first 'surplus"),
        "visual.trunk.norm.bias": (None, "missing"),
        "text.proj.0.weight": (None, "it has no 'text.proj.0.weight'"),
        "visual.trunk.blocks.0.mlp.fc1.weight": (torch.ones(3, 3), "has shape"),
    })  # fmt: skip
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    train_tokenizer(["other words"], 60).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="trained with 120 words"):
        BiomedCLIP.build(HubConfig(weights=str(tmp_path)), None)


def refused(
    method: Any, state: dict[str, Tensor], folder: Path, name: str, vocabulary: Tokenizer,
    changes: dict[str, tuple[Tensor | None, str]],
) -> None:  # fmt: skip
    """Each change of one key is refused in the words given."""
    vocabulary.save(str(folder / "tokenizer.json"))
    for key, (value, words) in changes.items():
        changed = {**state, key: value}
        torch.save({name: item for name, item in changed.items() if item is not None}, folder / name)
        with pytest.raises(UserError, match=words):
            method.build(method.config_class(weights=str(folder)), None)


# ------------------------------------------------------------------------------------------------ BioViL-T


class Head(nn.Module):
    """The projection head as hi-ml names it."""

    def __init__(self) -> None:
        super().__init__()
        self.dense_to_hidden, self.dense_to_output = nn.Linear(64, 16), nn.Linear(16, 16)
        self.LayerNorm = nn.LayerNorm(16, eps=1e-12)


@pytest.fixture(scope="module")
def biovil_t(tmp_path_factory: pytest.TempPathFactory, vocabulary: Tokenizer) -> tuple[Path, Any, Any, Any]:
    """A folder with both files, and the networks they were made of."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("biovil")
    network, bert, head = resnet50().eval(), BertForMaskedLM(BertConfig(**BERT)).eval(), Head()
    text = {**bert.state_dict(), "bert.embeddings.position_ids": POSITION_IDS}
    text |= {f"cls_projection_head.{key}": value for key, value in head.state_dict().items()}
    projector = nn.Sequential(nn.Conv2d(64, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1)).eval()
    image = {f"encoder.encoder.{key}": value for key, value in network.state_dict().items()}
    image |= {f"projector.model.{key}": value for key, value in projector.state_dict().items()}
    image |= {
        "encoder.backbone_to_vit.weight": torch.randn(32, 2048, 1, 1),
        "encoder.vit_pooler.type_embed": torch.randn(2, 1, 32),
    }
    image |= {"encoder.missing_previous_emb": torch.randn(1, 32, 1, 1), "encoder.vit_pooler.norm_post.weight": torch.randn(32)}
    torch.save(text, folder / "pytorch_model.bin")
    torch.save(image, folder / "biovil_t_image_model_proj_size_128.pt")
    vocabulary.save(str(folder / "tokenizer.json"))
    return folder, network, projector, (bert, head)


def test_biovil_t_equals_its_parts(biovil_t: tuple[Path, Any, Any, Any]) -> None:
    folder, network, projector, (bert, head) = biovil_t
    state = weights.load(folder / "biovil_t_image_model_proj_size_128.pt")
    method = BioViLT.build(HubConfig(weights=str(folder)), None).eval()
    images, text = torch.rand(2, 3, 64, 96), method.prepare_text(REPORTS[:1])
    with torch.inference_mode():
        stem = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        last = network.layer4(network.layer3(network.layer2(network.layer1(stem))))
        static = F.conv2d(last, state["encoder.backbone_to_vit.weight"])
        missing = state["encoder.missing_previous_emb"].repeat(2, 1, *static.shape[2:])
        expected = projector(torch.cat([static, missing], dim=1)).mean(dim=(2, 3))
        assert torch.allclose(method.encode_image(images).pooled, F.normalize(expected, dim=-1), atol=1e-5)
        start = bert.bert(input_ids=text.ids).last_hidden_state[:, 0]
        expected = head.dense_to_output(head.LayerNorm(F.gelu(head.dense_to_hidden(start))))
        assert torch.allclose(method.encode_text(text).pooled, F.normalize(expected, dim=-1), atol=1e-5)
    assert (method.input.size, method.input.mean, method.input.std) == (448, (0.0,) * 3, (1.0,) * 3)


def test_biovil_t_keeps_the_contract(biovil_t: tuple[Path, Any, Any, Any]) -> None:
    findings = check(BioViLT, config=HubConfig(weights=str(biovil_t[0]), image_size=64))
    assert [item for item in findings if not item.ok] == []


def test_biovil_t_refuses_other_files(biovil_t: tuple[Path, Any, Any, Any], tmp_path: Path, vocabulary: Tokenizer) -> None:
    name = "biovil_t_image_model_proj_size_128.pt"
    (tmp_path / "pytorch_model.bin").write_bytes((biovil_t[0] / "pytorch_model.bin").read_bytes())
    with pytest.raises(Unavailable, match=f"has no {name}"):
        BioViLT.build(HubConfig(weights=str(tmp_path)), None)
    state = weights.load(biovil_t[0] / name)
    refused(BioViLT, state, tmp_path, name, vocabulary, {
        "classifier.fc_0.model.weight": (torch.ones(1), "not of this kind of file, first 'classifier"),
        "encoder.encoder.bn1.bias": (None, "missing"),
    })  # fmt: skip


# ------------------------------------------------------------------------------------------------ RAD-DINO


@pytest.fixture(scope="module")
def rad_dino(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dinov2Model]:
    """A folder as transformers writes one, with the pixels' settings of an image processor."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("rad_dino")
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    model = Dinov2Model(config).eval()
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.layer_scale1.lambda1.normal_()
            layer.layer_scale2.lambda1.normal_()
    model.save_pretrained(folder)
    settings = {"crop_size": {"height": 56, "width": 56}, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder, model


def test_rad_dino_equals_transformers_own(rad_dino: tuple[Path, Dinov2Model]) -> None:
    folder, model = rad_dino
    assert "encoder.layer.0.attention.attention.query.weight" in load_file(folder / "model.safetensors")
    method = RadDino.build(HubImageConfig(weights=str(folder)), None).eval()
    images = torch.randn(2, 3, 56, 56)
    with torch.inference_mode():
        expected = model(images)
        found = method.encode_image(images)
        assert torch.allclose(found.pooled, F.normalize(expected.pooler_output, dim=-1), atol=1e-5)
        assert found.tokens is not None
        assert torch.allclose(found.tokens, expected.last_hidden_state[:, 1:], atol=1e-5)
    assert (method.input.size, method.input.mean, method.input.std) == (56, (0.5,) * 3, (0.2,) * 3)


def test_rad_dino_keeps_the_contract_and_reads_no_text(rad_dino: tuple[Path, Dinov2Model]) -> None:
    findings = check(RadDino, config=HubImageConfig(weights=str(rad_dino[0])))
    assert [item for item in findings if not item.ok] == []
    assert capabilities(RadDino) == {"dense"}
    assert RadDino.build(HubImageConfig(weights=str(rad_dino[0]), image_size=112), None).input.size == 112


def test_rad_dino_refuses_what_is_incomplete(rad_dino: tuple[Path, Dinov2Model], tmp_path: Path) -> None:
    folder, _ = rad_dino
    state = load_file(folder / "model.safetensors")
    save_file({**state, "classifier.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    config = HubImageConfig(weights=str(tmp_path))
    with pytest.raises(Unavailable, match=r"has no preprocessor_config\.json"):  # whose mean and deviation are not guessed
        RadDino.build(config, None)
    (tmp_path / "preprocessor_config.json").write_text('{"crop_size": 1}')
    with pytest.raises(UserError, match="copy both from the hub"):
        RadDino.build(config, None)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match="is no JSON file"):
        RadDino.build(config, None)
    (tmp_path / "preprocessor_config.json").write_bytes((folder / "preprocessor_config.json").read_bytes())
    with pytest.raises(UserError, match=r"'classifier\.weight' is not of this kind"):
        RadDino.build(config, None)


# ------------------------------------------------------------------------------------------ without network


@pytest.mark.parametrize("method", [BiomedCLIP, BioViLT, RadDino])
def test_without_network_or_folder_it_says_both_ways(method: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *names: None)
    for preset in ("quick", "small", "paper"):
        config, recipe = method.preset(preset)
        assert (config.weights, recipe.steps) == ("hub", 0)
    with pytest.raises(Unavailable, match="HF_HUB_OFFLINE") as raised:
        method.build(config, None)
    assert "--set weights=FOLDER" in raised.value.remedy
    assert "huggingface.co" in raised.value.remedy
    with pytest.raises(Unavailable, match="has no"):
        method.build(method.config_class(weights=str(tmp_path)), None)
    with pytest.raises(UserError, match="random start"):
        method.config_class(weights="none")
    with pytest.raises(UserError, match="preset"):
        method.preset("tiny")


def test_files_of_the_hub_come_from_its_cache(rad_dino: tuple[Path, Dinov2Model], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(rad_dino[0] / name)

    monkeypatch.setattr(hub_models, "check_hub", lambda *words: None)
    monkeypatch.setattr(hub_models, "hf_hub_download", download)
    assert RadDino.build(HubImageConfig(), None).input.size == 56
    names = ("model.safetensors", "config.json", "preprocessor_config.json")
    assert asked == [("microsoft/rad-dino", name) for name in names]
