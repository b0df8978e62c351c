"""The published checkpoint of MRM: a torch file, `model` inside, MAE's names beside those of transformers 4.17.

Its vocabulary (mimic_wordpiece.json) has no [SEP] and is not needed: evaluation reads no report.
"""

from __future__ import annotations

from math import isqrt

from torch import Tensor

from benchmark.errors import UserError
from benchmark.published import Converted, Layout, State, rename
from benchmark.types import Scalar
from methods.published.transformers_keys import depth, heads

REPORT = "bert_encoder.model"
ENCODER = "image_tower.model"
PREFIXES = {
    "cls_token": f"{ENCODER}.cls_token",
    "pos_embed": f"{ENCODER}.pos_embed",
    "patch_embed.": f"{ENCODER}.patch_embed.",
    "blocks.": f"{ENCODER}.blocks.",
    "norm.": f"{ENCODER}.norm.",
    "mask_token": "image_decoder.mask_token",
    "decoder_pos_embed": "image_decoder.positions",
    "decoder_embed.": "image_decoder.embed.",
    "decoder_blocks.": "image_decoder.blocks.",
    "decoder_norm.": "image_decoder.norm.",
    "decoder_pred.": "image_decoder.head.",
    f"{REPORT}.bert.": "text_tower.bert.",
    f"{REPORT}.cls.predictions.transform.dense.": "text_head.transform.",
    f"{REPORT}.cls.predictions.transform.LayerNorm.": "text_head.norm.",
    f"{REPORT}.cls.predictions.decoder.bias": "text_head.bias",
    f"{REPORT}.cls.predictions.decoder.weight": "word_head",
    "bert_mlp.": "to_report.",
}
UNNEEDED = (
    f"{REPORT}.bert.pooler.",  # built, and its output never read
    f"{REPORT}.bert.embeddings.position_ids",  # 0, 1, 2, ...
    f"{REPORT}.cls.predictions.bias",  # the decoder's own bias under a second name
)
WORDS = f"{REPORT}.bert.embeddings.word_embeddings.weight"


def recognise(state: State) -> bool:
    """A masked autoencoder with a report branch: no other published file has both."""
    return "bert_mlp.weight" in state and "decoder_pred.weight" in state


def configure(state: State) -> dict[str, Scalar]:
    """The configuration that a file was trained with; numbers of heads, which no shape tells, by the released widths of one.

    Preprocessing: gray copied to three channels, mean 0.4978, std 0.2449 (main_pretrain.py). It crops with aspect ratios of 3/4
    to 4/3, so an image stretched to a square is what it knows, and black borders are not.

    Raises:
        UserError: a key that is missing or has another number of axes.
    """
    patch_weight = _tensor(state, "patch_embed.proj.weight", 4)
    width, channels, patch = patch_weight.shape[0], patch_weight.shape[1], patch_weight.shape[2]
    side = isqrt(_tensor(state, "pos_embed", 3).shape[1] - 1)
    decoder_width = _tensor(state, "decoder_embed.weight", 2).shape[0]
    positions, text_width = _tensor(state, f"{REPORT}.bert.embeddings.position_embeddings.weight", 2).shape
    pixels = _tensor(state, "decoder_pred.weight", 2).shape[0]
    return {
        "image_encoder": "vit", "image_size": side * patch, "image_channels": channels, "image_width": width,
        "image_depth": depth(state, "blocks."), "image_heads": heads(width), "patch_size": patch,
        "pixel_stats": "0.4978,0.2449", "resize": "stretch", "positions": "fixed", "position_code": "released",
        "antialias": False, "target_scale": isqrt(pixels // (channels * patch**2)),
        "decoder_width": decoder_width, "decoder_depth": depth(state, "decoder_blocks."),
        "decoder_heads": max(1, decoder_width // 128),
        "text_width": text_width, "text_layers": depth(state, f"{REPORT}.bert.encoder.layer."),
        "text_heads": heads(text_width), "text_positions": positions, "max_tokens": positions,
        "text_types": len(_tensor(state, f"{REPORT}.bert.embeddings.token_type_embeddings.weight", 2)),
        "text_vocabulary": len(_tensor(state, WORDS, 2)), "word_head": "separate", "report_labels": "all",
    }  # fmt: skip


def convert(state: State) -> Converted:
    """Every key under our name. Raises UserError for one that is neither mapped nor listed."""
    converted = rename(state, PREFIXES, UNNEEDED)
    for name, shape in (("image_decoder.mask_token", (-1,)), ("image_decoder.positions", None)):
        if (value := converted.state.get(name)) is not None:
            converted.state[name] = value.reshape(shape) if shape else value.flatten(0, -2)  # (1, N, D) -> (N, D)
    return converted


def _tensor(state: State, key: str, axes: int) -> Tensor:
    if key not in state or state[key].ndim != axes:
        raise UserError(
            f"published checkpoint of MRM: {key!r} is missing or has not {axes} axes; the file is damaged or changed"
        )
    return state[key]


LAYOUTS = (
    Layout(
        title="MRM, ViT-B/16 (RL4M/MRM-pytorch@3730ba4)", recognise=recognise, configure=configure, convert=convert
    ),
)  # fmt: skip
