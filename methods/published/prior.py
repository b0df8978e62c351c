"""PRIOR's released files (QtacierP/PRIOR@086bf2e): the whole model, flat or out of Lightning, and the image encoder alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmark.errors import UserError
from benchmark.published import Converted, Layout, State, rename
from benchmark.types import Scalar

STRIDE = 32  # of ResNet-50's last map
HEAD_WIDTH = 64  # of BERT's attention heads, which no shape tells
MAX_TOKENS = 256
PIXELS: dict[str, Scalar] = {"pixel_stats": "0.4755,0.3011", "resize": "stretch"}  # as in pretraining
PREFIXES = {
    "image_encoder.encoder.": "image_tower.model.",
    "image_encoder.atten_pool.": "image_pool.",
    "text_encoder.encoder.": "text_tower.bert.",
    "sentence_decoder.": "sentence_decoder.bert.",
} | {
    name: name
    for name in (
        "prototype_queries", "logit_scale", "local_logit_scale", "global_text_attention.", "global_image_projection.",
        "local_image_projection.", "local_text_projection.", "predictor.", "image_decoder.", "local_cross_attention.",
        "sentence_bank.",
    )
}  # fmt: skip
UNNEEDED = (
    "global_text_projection.",  # used nowhere in the released code, like BERT's pooler
    "text_encoder.encoder.pooler.",
    "text_encoder.encoder.embeddings.position_ids",  # of transformers 4: 0, 1, 2, ...
    "sentence_decoder.embeddings.position_ids",
    "sentence_decoder.embeddings.word_embeddings.",  # the queries are vectors
)
WORDS = "text_encoder.encoder.embeddings.word_embeddings.weight"
POSITIONS = "image_encoder.atten_pool.positional_embedding"
IMAGE_FILE = ("conv1.weight", "layer4.2.conv3.weight")


def _whole(state: State) -> bool:
    return {"prototype_queries", "sentence_bank.embed.weight", POSITIONS, WORDS} <= state.keys()


def _image(state: State) -> bool:
    """One gray channel tells it from the many three-channel files with torchvision's names."""
    return all(key in state for key in IMAGE_FILE) and state["conv1.weight"].ndim == 4 and state["conv1.weight"].shape[1] == 1


def _shape(state: State, key: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor of the file. Raises UserError where it is missing or of another number of dimensions."""
    if key not in state or state[key].ndim != dimensions:
        raise UserError(f"published checkpoint of PRIOR: {key!r} is missing or has no {dimensions} dimensions")
    return tuple(state[key].shape)


def _layers(state: State, prefix: str) -> int:
    """How many numbered layers follow a prefix."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def _heads(width: int) -> int:
    return max(1, width // HEAD_WIDTH)


def _configure(state: State) -> dict[str, Scalar]:
    text = "text_encoder.encoder.embeddings"
    width = _shape(state, WORDS, 2)[1]
    positions = _shape(state, f"{text}.position_embeddings.weight", 2)[0]
    prototypes, dim = _shape(state, "sentence_bank.embed.weight", 2)
    side = round((_shape(state, POSITIONS, 2)[0] - 1) ** 0.5)
    return {
        "image_encoder": "resnet50",
        "image_weights": "none",
        "image_channels": _shape(state, "image_encoder.encoder.conv1.weight", 4)[1],
        "image_size": side * STRIDE,
        **PIXELS,
        "text_weights": "none",
        "text_width": width,
        "text_layers": _layers(state, "text_encoder.encoder.encoder.layer."),
        "text_heads": _heads(width),
        "text_positions": positions,
        "text_types": _shape(state, f"{text}.token_type_embeddings.weight", 2)[0],
        "max_tokens": min(MAX_TOKENS, positions),
        "dropout": 0.1,
        "embed_dim": dim,
        "sentence_pool": "mean",
        "prototypes": prototypes,
        "max_sentences": _shape(state, "prototype_queries", 3)[1],
        "decoder_layers": _layers(state, "sentence_decoder.encoder.layer."),
        "decoder_heads": _heads(dim),
        "decoder_positions": _shape(state, "sentence_decoder.embeddings.position_embeddings.weight", 2)[0],
        "image_decoder_channels": _shape(state, "image_decoder.blocks.0.conv1.0.weight", 4)[0],
        # the local modules were trained on it and on nothing else; the other quirks change no weight
        "patch_layout": "official",
    }


def _convert(state: State) -> Converted:
    found = rename(state, PREFIXES, UNNEEDED)
    return Converted({**found.state, "bank_since": torch.tensor(0)}, found.left_out)  # trained through all stages


def _configure_image(state: State) -> Mapping[str, Scalar]:
    return {"image_encoder": "resnet50", "image_weights": "none", "image_channels": 1, "image_size": 224, **PIXELS}


def _convert_image(state: State) -> Converted:
    stems = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
    return rename(state, {stem: f"image_tower.model.{stem}" for stem in stems})


def _image_class() -> Any:
    from methods.prior import PRIORImage

    return PRIORImage


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        title="PRIOR, whole model (QtacierP/PRIOR@086bf2e)",
        recognise=_whole,
        configure=_configure,
        convert=_convert,
        vocabulary=WORDS,
        tokenizer="emilyalsentzer/Bio_ClinicalBERT",
    ),
    Layout(
        title="PRIOR, image encoder prior_resnet50.pt (QtacierP/PRIOR@086bf2e)",
        recognise=_image,
        configure=_configure_image,
        convert=_convert_image,
        target=_image_class,
    ),
)
