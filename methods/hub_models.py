"""Models of the Hugging Face hub, never trained here: BiomedCLIP and RAD-DINO; BioViL-T has a file of its own.

Their files are read as they lie on the hub, from its cache, from the network or from a local folder: --set weights=FOLDER.
Key names are those that mlfoundations/open_clip (TimmModel, HFTextEncoder) and transformers (Dinov2Model) write; no released
file was at hand, so a key that they do not write is refused, not guessed at. Where the models' own preprocessing cuts the
middle square out of an image, ours pads it to one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from huggingface_hub import hf_hub_download
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import weights
from benchmark.errors import Unavailable, UserError
from benchmark.hub import HUB_ERRORS, check_hub, tokenizer_beside
from benchmark.published import State, rename
from benchmark.types import PRESETS, Features, InputSpec, MethodCard, Recipe, TextBatch
from methods.base import check_range
from methods.encoders import ImageTower, ViTTower
from methods.published.transformers_keys import DINOV2, bert_fields, bert_unneeded, depth, has, heads, to_timm, under
from methods.text_encoder import TextTower

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubImageConfig:
    """weights: "hub", or a local folder with the hub's files. image_size: 0 for the model's own."""

    weights: str = "hub"
    image_size: int = 0

    def __post_init__(self) -> None:
        if self.weights in ("", "none"):
            raise UserError(f"weights={self.weights!r} would be a random start; give weights=hub or a local folder")
        if self.image_size:
            check_range(self, "image_size", 28, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig(HubImageConfig):
    """max_tokens: of a text, special ones included."""

    max_tokens: int = 256

    def __post_init__(self) -> None:
        HubImageConfig.__post_init__(self)
        check_range(self, "max_tokens", 3, 512)


class HubModel(nn.Module):
    """What the three share.

    Raises:
        Unavailable: files that cannot be had. UserError: files of another model.
    """

    repository: ClassVar[str]
    config_class: ClassVar[type[HubImageConfig]] = HubImageConfig
    config: Any
    image_tower: ImageTower

    @classmethod
    def preset(cls, preset: str) -> tuple[Any, Recipe]:
        """The same at every preset; no steps. Raises UserError for an unknown preset."""
        if preset not in PRESETS:
            raise UserError(f"preset {preset!r} is not one of {', '.join(PRESETS)}")
        return cls.config_class(), Recipe(steps=0)

    @classmethod
    def build(cls, config: Any, tokenizer: Tokenizer | None) -> Self:
        """The trained model, which brings its own vocabulary. Raises Unavailable if its files cannot be had."""
        return cls(config)

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, 3, h, w) -> maps as `feature_info` says."""
        return self.image_tower.maps(images)

    def similarity(self, image: Features, text: Features) -> Tensor:
        """(N, M) float32 cosine of the pooled vectors."""
        return image.pooled @ text.pooled.T

    def file(self, *names: str) -> Path:
        """The first of the names that lies in the local folder, or the first from the hub. Raises Unavailable."""
        remedy = f"give --set weights=FOLDER with the files of {self.repository}, or run where huggingface.co can be reached"
        given = self.config.weights
        if given != "hub":
            found = next((path for path in (Path(given) / name for name in names) if path.is_file()), None)
            if found is None:
                raise Unavailable(f"weights folder {given!r} has no {' and no '.join(names)}", remedy)
            return found
        check_hub(f"{names[0]} of {self.repository}", self.repository, names[0], remedy)
        try:
            return Path(hf_hub_download(self.repository, names[0]))
        except HUB_ERRORS as error:
            raise Unavailable(f"{names[0]} of {self.repository} cannot be had ({type(error).__name__})", remedy) from error

    def read(self, path: Path, *keys: str) -> dict[str, Tensor]:
        """A file's tensors. Raises UserError unless the keys, by which the model is known, are there."""
        state = weights.load(path)
        if not has(state, *keys):
            raise UserError(f"{path} is not of {self.repository}: it has no {next(key for key in keys if key not in state)!r}")
        return state


class HubTextModel(HubModel):
    """With a BERT beside the image tower."""

    config_class: ClassVar[type[HubImageConfig]] = HubConfig
    text_tower: TextTower

    def prepare_text(self, texts: Sequence[str]) -> TextBatch:
        """B texts -> tokens, padded to the longest; texts over `max_tokens` lose their end and are counted."""
        return self.text_tower.prepare(texts)

    def text_part(self, state: State, prefix: str, file: Path) -> TextTower:
        """A text tower of the sizes of the BERT under a prefix, with the vocabulary beside the file. Raises UserError."""
        for name in ("tokenizer_config.json", "vocab.txt") if self.config.weights == "hub" else ():
            self.file(name)  # beside the weights in the hub's cache from now on
        tokenizer, sizes = tokenizer_beside(file, self.repository), bert_fields(state, prefix)
        rows = len(state[f"{prefix}embeddings.word_embeddings.weight"])
        if tokenizer.get_vocab_size() != rows:
            raise UserError(f"{file} was trained with {rows} words, the vocabulary beside it has {tokenizer.get_vocab_size()}")
        width, layers, count, positions, types = (int(sizes[name] or 0) for name in sizes)
        limit = min(self.config.max_tokens, positions)
        return TextTower((width, layers, count), limit, 0.0, "none", tokenizer, (positions, types))


def vit(state: State, count: int, layer_scale: bool = False) -> ViTTower:
    """A vision transformer of the sizes of a timm state, not yet with its weights; `count` heads."""
    width, channels, patch, _ = state["patch_embed.proj.weight"].shape
    side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    model = VisionTransformer(
        img_size=side * patch, patch_size=patch, in_chans=channels, embed_dim=width, depth=depth(state, "blocks."),
        num_heads=count, num_classes=0, global_pool="", dynamic_img_size=True, dynamic_img_pad=True,
        init_values=1.0 if layer_scale else None,
    )  # fmt: skip
    return ViTTower(model)


class BiomedCLIP(HubTextModel):
    """ViT-B/16 and PubMedBERT, contrasted on figures and captions of PubMed Central; open_clip's layout."""

    name: ClassVar[str] = "biomedclip"
    version: ClassVar[int] = 2  # 2: probes read the tower before any projection
    repository: ClassVar[str] = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
    card: ClassVar[MethodCard] = MethodCard(
        title="BiomedCLIP", paper="https://arxiv.org/abs/2303.00915", year=2023, license="MIT", pretraining_data=("PMC-15M",)
    )

    def __init__(self, config: HubConfig) -> None:
        super().__init__()
        self.config = config
        file, text = self.file("open_clip_pytorch_model.bin", "open_clip_model.safetensors"), "text.transformer."
        words = f"{text}embeddings.word_embeddings.weight"
        state = self.read(file, words, "visual.trunk.pos_embed", "visual.head.proj.weight", "text.proj.0.weight")
        trunk = under(state, "visual.trunk.")
        self.image_tower = vit(trunk, heads(trunk["pos_embed"].shape[2]))
        self.feature_info = self.image_tower.info
        size = config.image_size or self.image_tower.model.patch_embed.img_size[0]
        self.input = InputSpec(size=size, channels=3, mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic")
        self.text_tower = self.text_part(state, text, file)
        self.tokenizer = self.text_tower.tokenizer
        (hidden, inner), joint = state["text.proj.0.weight"].shape, state["visual.head.proj.weight"].shape[0]
        self.image_projection = nn.Linear(self.image_tower.width, joint, bias=False)
        self.text_projection = nn.Sequential(
            nn.Linear(inner, hidden, bias=False), nn.GELU(), nn.Linear(hidden, joint, bias=False)
        )
        prefixes = {
            "visual.trunk.": "image_tower.model.", "visual.head.proj.": "image_projection.", text: "text_tower.bert.",
            "text.proj.": "text_projection.",
        }  # fmt: skip
        weights.apply(self, rename(state, prefixes, ("logit_scale", *bert_unneeded(text))).state, str(file))

    def encode_image(self, images: Tensor) -> Features:
        """images (B, 3, h, w) float32 -> pooled (B, D) of the class token, tokens (B, P, D)."""
        tokens = self.image_projection(self.image_tower.forward_tokens(images))
        return Features(F.normalize(tokens[:, 0].float(), dim=-1), tokens[:, 1:], None)

    def tower_features(self, images: Tensor) -> Tensor:
        """images (B, 3, h, w) -> (B, D) float32, what probes read: the class token of the tower."""
        return self.image_tower.forward_tokens(images)[:, 0].float()

    def encode_text(self, text: TextBatch) -> Features:
        """(B, T) tokens -> pooled (B, D) of [CLS]."""
        pooled = self.text_projection(self.text_tower(text.ids, text.mask)[:, 0])
        return Features(F.normalize(pooled.float(), dim=-1))


class RadDino(HubModel):
    """A DINOv2 that went on with chest X-rays and without reports; images only."""

    name: ClassVar[str] = "rad_dino"
    version: ClassVar[int] = 2  # 2: probes read the tower before any projection
    repository: ClassVar[str] = "microsoft/rad-dino"
    card: ClassVar[MethodCard] = MethodCard(
        title="RAD-DINO",
        paper="https://arxiv.org/abs/2401.10815",
        year=2024,
        license="MIT",
        pretraining_data=("BRAX", "CheXpert", "MIMIC-CXR", "ChestX-ray14", "PadChest"),
    )

    def __init__(self, config: HubImageConfig) -> None:
        super().__init__()
        self.config = config
        file = self.file("model.safetensors")
        state = self.read(file, "embeddings.position_embeddings", "encoder.layer.0.layer_scale1.lambda1", "layernorm.weight")
        settings, pixels = (self.settings(name) for name in ("config.json", "preprocessor_config.json"))
        try:
            count, side = int(settings["num_attention_heads"]), int(pixels["crop_size"]["height"])
            mean, std = (tuple(map(float, pixels[key])) for key in ("image_mean", "image_std"))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"config.json or preprocessor_config.json beside {file} lacks {error}; copy both from the hub"
            ) from error
        size = config.image_size or side
        self.input = InputSpec(size=size, channels=3, mean=mean, std=std, interpolation="bicubic")
        kept = {key: value for key, value in state.items() if key != "embeddings.mask_token"}  # of pretraining
        converted = to_timm(kept, DINOV2)
        self.image_tower = vit(converted, count, layer_scale=True)
        self.feature_info = self.image_tower.info
        model: Any = self.image_tower.model
        weights.apply(model, converted, str(file))

    def settings(self, name: str) -> Mapping[str, Any]:
        """A JSON file beside the weights. Raises UserError if it is broken, Unavailable if it is not there."""
        path = self.file(name)
        try:
            found: Mapping[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} is no JSON file; copy it from the hub again") from error
        return found

    def encode_image(self, images: Tensor) -> Features:
        """images (B, 3, h, w) float32 -> pooled (B, D) of the class token, tokens (B, P, D)."""
        tokens = self.image_tower.forward_tokens(images)
        return Features(F.normalize(tokens[:, 0].float(), dim=-1), tokens[:, 1:], None)

    def tower_features(self, images: Tensor) -> Tensor:
        """images (B, 3, h, w) -> (B, D) float32, what probes read: the class token of the tower."""
        return self.image_tower.forward_tokens(images)[:, 0].float()
