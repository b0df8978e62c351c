"""The released CXR-CLIP models: `ckpt["model"]` of their .tar files (Soombit-ai/cxr-clip@3118885).

The file's own configuration is an OmegaConf object, which is never unpickled: extract `model` in a place you trust. Images are
normalised to mean and deviation 0.5; the released preprocessing cuts the middle square out of an image, ours pads it to one. A
Swin's image feature is its first position, as it was trained; --set cannot change that, for other features were never trained.
"""

from __future__ import annotations

from benchmark.published import Converted, Layout, State, rename
from benchmark.types import Scalar
from methods.medclip import SWIN_TINY
from methods.published.transformers_keys import bert_fields, bert_unneeded, convert_swin, has

TEXT = "text_encoder.text_encoder."
SWIN_PREFIX = "image_encoder.image_encoder."
WORDS = f"{TEXT}embeddings.word_embeddings.weight"
TOKENIZER = "emilyalsentzer/Bio_ClinicalBERT"
SHARED = {
    TEXT: "text_tower.bert.",
    "image_projection.projection.": "image_projection.",
    "text_projection.projection.": "text_projection.",
    "logit_scale": "logit_scale.log_scale",
}


def _fields(state: State, encoder: str, pooling: str) -> dict[str, Scalar]:
    text = bert_fields(state, TEXT)
    return {
        **text, "image_encoder": encoder, "image_size": 224, "image_channels": 3, "pixel_stats": "0.5,0.5", "resize": "pad",
        "max_tokens": min(256, int(text["text_positions"] or 256)), "image_pooling": pooling, "text_pooling": "end",
        "embed_dim": state["text_projection.projection.weight"].shape[0],
    }  # fmt: skip


def _convert_resnet(state: State) -> Converted:
    return rename(state, {**SHARED, "image_encoder.resnet.": "image_tower.model."}, bert_unneeded(TEXT))


def _convert_swin(state: State) -> Converted:
    return convert_swin(state, SWIN_PREFIX, SHARED, bert_unneeded(TEXT))


LAYOUTS = (
    Layout(
        title="CXR-CLIP, ResNet-50 (Soombit-ai/cxr-clip@3118885)",
        recognise=lambda state: has(state, WORDS, "image_encoder.resnet.conv1.weight"),
        configure=lambda state: _fields(state, "resnet50", "mean"),
        convert=_convert_resnet,
        vocabulary=WORDS,
        tokenizer=TOKENIZER,
    ),
    Layout(
        title="CXR-CLIP, Swin-T (Soombit-ai/cxr-clip@3118885)",
        recognise=lambda state: has(state, WORDS, f"{SWIN_PREFIX}embeddings.norm.weight"),
        configure=lambda state: _fields(state, SWIN_TINY, "first"),
        convert=_convert_swin,
        vocabulary=WORDS,
        tokenizer=TOKENIZER,
    ),
)
