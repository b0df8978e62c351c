"""BioViL-T: reports against images and their predecessors (Bannur et al., arXiv 2301.04558); one image at a time here.

Key names are those that microsoft/hi-ml writes (hi-ml-multimodal: MultiImageEncoder with a ResNet-50, the MLP of 1x1
convolutions and CXRBertModel); no released file was at hand, so a key that it does not write is refused, not guessed at. Its
preprocessing scales the shorter side to 512 and cuts out the middle 448 pixels; ours pads to a square of 448.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import weights
from benchmark.published import Converted, State, rename
from benchmark.types import Features, InputSpec, MethodCard, TextBatch
from methods.encoders import ConvTower, create
from methods.hub_models import HubConfig, HubTextModel
from methods.published.transformers_keys import bert_unneeded


class BioViLT(HubTextModel):
    """ResNet-50 and CXR-BERT, contrasted on reports with what came before; here one image at a time."""

    name: ClassVar[str] = "biovil_t"
    version: ClassVar[int] = 2  # 2: probes read the tower before any projection
    repository: ClassVar[str] = "microsoft/BiomedVLP-BioViL-T"
    card: ClassVar[MethodCard] = MethodCard(
        title="BioViL-T", paper="https://arxiv.org/abs/2301.04558", year=2023, license="MIT", pretraining_data=("MIMIC-CXR",)
    )

    def __init__(self, config: HubConfig) -> None:
        super().__init__()
        self.config = config
        text_file = self.file("pytorch_model.bin", "model.safetensors")
        image_file = self.file("biovil_t_image_model_proj_size_128.pt", "biovil_t_image_model_proj_size_128.safetensors")
        text = self.read(text_file, "bert.embeddings.word_embeddings.weight", "cls_projection_head.dense_to_hidden.weight")
        image = self.read(
            image_file, "encoder.encoder.conv1.weight", "encoder.backbone_to_vit.weight", "projector.model.0.weight"
        )
        size = config.image_size or 448
        # pixels from 0 to 1, as hi-ml gives them
        self.input = InputSpec(size=size, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
        self.image_tower = ConvTower(create("resnet50", size, 3))
        self.feature_info = self.image_tower.info
        reduced, wide = image["encoder.backbone_to_vit.weight"].shape[:2]
        hidden, joint = image["projector.model.0.weight"].shape[0], image["projector.model.3.weight"].shape[0]
        self.reduce = nn.Conv2d(wide, reduced, 1, bias=False)
        self.no_previous = nn.Parameter(torch.zeros(1, reduced, 1, 1))  # stands for an earlier image, which there is not
        self.projector = nn.Sequential(
            nn.Conv2d(2 * reduced, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, joint, 1)
        )
        self.text_tower = self.text_part(text, "bert.", text_file)
        self.tokenizer = self.text_tower.tokenizer
        self.text_head = ProjectionHead(*reversed(text["cls_projection_head.dense_to_hidden.weight"].shape))
        converted = {**image_names(image).state, **text_names(text).state}
        weights.apply(self, converted, f"{image_file} with {text_file.name}")

    def encode_image(self, images: Tensor) -> Features:
        """images (B, 3, h, w) float32 in 0 to 1 -> pooled (B, D) mean of the projected positions, tokens (B, P, D)."""
        static = self.reduce(self.image_tower.maps(images)[-1])
        fused = torch.cat([static, self.no_previous.expand_as(static)], dim=1)
        tokens = self.projector(fused).flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, P, D)
        return Features(F.normalize(tokens.float().mean(dim=1), dim=-1), tokens, None)

    def tower_features(self, images: Tensor) -> Tensor:
        """images (B, 3, h, w) -> (B, D) float32, what probes read: the mean of the ResNet's last map."""
        return self.image_tower.maps(images)[-1].float().mean(dim=(2, 3))

    def encode_text(self, text: TextBatch) -> Features:
        """(B, T) tokens -> pooled (B, D) of [CLS]."""
        pooled = self.text_head(self.text_tower(text.ids, text.mask)[:, 0])
        return Features(F.normalize(pooled.float(), dim=-1))


class ProjectionHead(nn.Module):
    """CXR-BERT's head: linear, GELU, norm, linear (hi-ml-multimodal, modelling_cxrbert.py)."""

    def __init__(self, width: int, joint: int) -> None:
        super().__init__()
        self.dense_to_hidden = nn.Linear(width, joint)
        self.LayerNorm = nn.LayerNorm(joint, eps=1e-12)
        self.dense_to_output = nn.Linear(joint, joint)

    def forward(self, states: Tensor) -> Tensor:
        """(B, width) -> (B, joint)."""
        found: Tensor = self.dense_to_output(self.LayerNorm(F.gelu(self.dense_to_hidden(states))))
        return found


def image_names(state: State) -> Converted:
    """BioViL-T's image file under our names; its temporal transformer compares two images and is left out."""
    prefixes = {
        "encoder.encoder.": "image_tower.model.", "encoder.backbone_to_vit.": "reduce.",
        "encoder.missing_previous_emb": "no_previous", "projector.model.": "projector.",
    }  # fmt: skip
    return rename(state, prefixes, ("encoder.encoder.fc.", "encoder.vit_pooler."))


def text_names(state: State) -> Converted:
    """BioViL-T's text file under our names, without the head of the masked language model."""
    prefixes = {"bert.": "text_tower.bert.", "cls_projection_head.": "text_head."}
    return rename(state, prefixes, ("cls.predictions.", *bert_unneeded("bert.")))
