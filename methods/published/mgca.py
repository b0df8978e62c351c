"""The two released MGCA models: Lightning files whose state is under "state_dict" (HKU-MedAI/MGCA@680fe4a).

Released images are padded to a square of 256 and cut to the middle 224; here the whole image is padded to 224, so that what
lies at the border is seen, and shapes are an eighth smaller. Their BERT has no embedding of segments: ours is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.published import Converted, Layout, State, rename
from benchmark.types import Scalar
from methods.mgca import PIXEL_STATS, UPSAMPLE
from methods.published.transformers_keys import bert_fields, bert_unneeded, depth, has, heads

IMAGE, TEXT = "img_encoder_q.", "text_encoder_q."
BERT = f"{TEXT}model."
WORDS = f"{BERT}embeddings.word_embeddings.weight"
SEGMENTS = f"{BERT}embeddings.token_type_embeddings.weight"
CLASS, POSITIONS, PATCHES = (f"{IMAGE}model.{name}" for name in ("cls_token", "pos_embed", "patch_embed.proj.weight"))
CONVOLUTION = f"{IMAGE}model.conv1.weight"
PROTOTYPES, HEAD = "prototype_layer.weight", f"{IMAGE}global_embed.head.0.weight"
TOKENIZER = "emilyalsentzer/Bio_ClinicalBERT"
MAX_TOKENS = 112
PREFIXES = {
    f"{IMAGE}model.": "image_tower.model.",
    f"{IMAGE}global_embed.head.": "image_global.",
    f"{IMAGE}local_embed.head.": "image_local.",
    BERT: "text_tower.bert.",
    f"{TEXT}global_embed.head.": "text_global.",
    f"{TEXT}local_embed.head.": "text_local.",
    PROTOTYPES: "prototypes",
}
# attention layers of an option of the released code (use_local_atten) that is off; in the files all the same
UNUSED = ("patch_local_atten_layer.", "word_local_atten_layer.")


def _segments(state: State) -> dict[str, Tensor]:
    """The state with an embedding of segments, which adds nothing where theirs is none."""
    return {SEGMENTS: torch.zeros(1, _shape(state, WORDS, 2)[1]), **state}


def _shape(state: State, key: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor of the file. Raises UserError where it is of another number of dimensions."""
    if state[key].ndim != dimensions:
        raise UserError(f"published checkpoint of MGCA: {key!r} has {state[key].ndim} dimensions, not {dimensions}")
    return tuple(state[key].shape)


def _fields(state: State) -> dict[str, Scalar]:
    text = bert_fields(_segments(state), BERT)
    prototypes, dim = _shape(state, PROTOTYPES, 2)
    return {
        **text, "image_weights": "none", "text_weights": "none", "image_size": 224,
        "pixel_stats": PIXEL_STATS, "resize": "pad", "text_cleaning": "words", "text_layers_kept": 0,
        "max_tokens": min(MAX_TOKENS, int(text["text_positions"] or MAX_TOKENS)), "dropout": 0.1,
        "prototypes": prototypes, "embed_dim": dim, "head_width": _shape(state, HEAD, 2)[0],
    }  # fmt: skip


def _resnet(state: State) -> dict[str, Scalar]:
    channels = _shape(state, CONVOLUTION, 4)[1]
    return {**_fields(state), "image_encoder": "resnet50", "image_channels": channels, "upsample": UPSAMPLE}


def _vit(state: State) -> dict[str, Scalar]:
    """A square of patches behind one class token."""
    width, channels, patch, _ = _shape(state, PATCHES, 4)
    side = round((_shape(state, POSITIONS, 3)[1] - 1) ** 0.5)
    return {
        **_fields(state), "image_encoder": "vit", "image_width": width, "image_depth": depth(state, f"{IMAGE}model.blocks."),
        "image_heads": heads(width), "patch_size": patch, "image_size": side * patch, "image_channels": channels, "upsample": 0,
    }  # fmt: skip


def _convert(state: State) -> Converted:
    """Convolutions over single tokens are linear layers."""
    crossing = tuple(key for key in state if key.startswith(BERT) and ".crossattention." in key)  # no part in reading text
    found = rename(_segments(state), PREFIXES, (*UNUSED, *bert_unneeded(BERT), *crossing))
    local = ("image_local.", "text_local.")
    flat = {key: value.squeeze(-1) for key, value in found.state.items() if key.startswith(local) and value.ndim == 3}
    return Converted({**found.state, **flat}, found.left_out)


LAYOUTS = (
    Layout(
        title="MGCA, ResNet-50 (HKU-MedAI/MGCA@680fe4a)",
        recognise=lambda state: has(state, WORDS, PROTOTYPES, HEAD, CONVOLUTION),
        configure=_resnet,
        convert=_convert,
        vocabulary=WORDS,
        tokenizer=TOKENIZER,
    ),
    Layout(
        title="MGCA, ViT-B/16 (HKU-MedAI/MGCA@680fe4a)",
        recognise=lambda state: has(state, WORDS, PROTOTYPES, HEAD, CLASS, POSITIONS, PATCHES),
        configure=_vit,
        convert=_convert,
        vocabulary=WORDS,
        tokenizer=TOKENIZER,
    ),
)
