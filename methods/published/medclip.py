"""The two released MedCLIP models: the pytorch_model.bin in their zip files (RyanWangZf/MedCLIP@9c3396f).

Images are padded to a square, resized to 224 with bicubic interpolation and normalised by one mean and deviation, which is
what our own `pad` does. Texts were trained in batches padded to their longest (truncation=True, padding=True, at most 77
tokens), and their mean counts that padding: the trained value of a text depends on its batch. The default leaves padding out,
which is what the released code gives for a text alone or for the longest of a batch; --set text_pooling=padded counts it.
"""

from __future__ import annotations

from benchmark.published import Converted, Layout, State, rename
from benchmark.types import Scalar
from methods.medclip import PIXEL_STATS, SWIN_TINY
from methods.published.transformers_keys import bert_fields, bert_unneeded, convert_swin, has

TEXT = "text_model.model."
SWIN_PREFIX = "vision_model.model."
WORDS = f"{TEXT}embeddings.word_embeddings.weight"
RESNET_HEAD = "vision_model.model.fc.weight"
SWIN_HEAD = "vision_model.projection_head.weight"
TOKENIZER = "emilyalsentzer/Bio_ClinicalBERT"
SHARED = {
    TEXT: "text_tower.bert.",
    "text_model.projection_head.": "text_projection.",
    "logit_scale": "logit_scale.log_scale",
}


def _fields(state: State, encoder: str) -> dict[str, Scalar]:
    text = bert_fields(state, TEXT)
    return {
        **text, "image_encoder": encoder, "image_size": 224, "image_channels": 3, "pixel_stats": PIXEL_STATS,
        "resize": "pad", "max_tokens": min(77, int(text["text_positions"] or 77)),
        "embed_dim": state["text_model.projection_head.weight"].shape[0],
    }  # fmt: skip


def _convert_resnet(state: State) -> Converted:
    prefixes = {**SHARED, RESNET_HEAD: "image_projection.weight", "vision_model.model.": "image_tower.model."}
    return rename(state, prefixes, bert_unneeded(TEXT))


def _convert_swin(state: State) -> Converted:
    return convert_swin(state, SWIN_PREFIX, {**SHARED, SWIN_HEAD: "image_projection.weight"}, bert_unneeded(TEXT))


LAYOUTS = (
    Layout(
        title="MedCLIP, ResNet-50 (RyanWangZf/MedCLIP@9c3396f)",
        recognise=lambda state: has(state, WORDS, RESNET_HEAD),
        configure=lambda state: _fields(state, "resnet50"),
        convert=_convert_resnet,
        vocabulary=WORDS,
        tokenizer=TOKENIZER,
    ),
    Layout(
        title="MedCLIP, Swin-T (RyanWangZf/MedCLIP@9c3396f)",
        recognise=lambda state: has(state, WORDS, SWIN_HEAD),
        configure=lambda state: _fields(state, SWIN_TINY),
        convert=_convert_swin,
        vocabulary=WORDS,
        tokenizer=TOKENIZER,
    ),
)
