"""ConVIRT as BenchX trained it anew on MIMIC-CXR: ConVIRT.pth, under "model" (yangzhou12/BenchX@b874fa6).

Names and sizes follow from its code: unifier/models/vilmedic/ConVIRT.py (`visual`, `linguistic`, `vis_proj`, `lin_proj`),
configs/_base_/models/convirt-mimic.yml (torchvision's ResNet-50 up to its pooling, allenai/biomed_roberta_base with pooler) and
its converter for segmentation (`visual.model.`). The file itself could not be had, so it is not known whether it holds more.

The text encoder is a RoBERTa: a BERT whose first position has number 2, so the first two rows of its positions are never
read; whose norms have another epsilon; and whose special tokens have other names. Images were scaled to 224 by the shorter
side and cut to the middle square, normalised as ImageNet; here the whole image is padded to 224.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmark.published import Converted, Layout, State, rename
from benchmark.types import Scalar
from methods.published.transformers_keys import bert_fields, has

TEXT = "linguistic.encoder."
WORDS = f"{TEXT}embeddings.word_embeddings.weight"
POSITIONS = "text_tower.bert.embeddings.position_embeddings.weight"
OFFSET = 2  # RoBERTa's padding id, which is 1, and one
HEADS = ("vis_proj.0.weight", "vis_proj.2.weight", "lin_proj.0.weight", "lin_proj.2.weight")
PREFIXES = {
    TEXT: "text_tower.bert.",
    f"{TEXT}pooler.dense.": "pooler.",
    "visual.model.": "image_tower.model.",
    "vis_proj.": "image_head.",
    "lin_proj.": "text_head.",
}
UNNEEDED = (f"{TEXT}embeddings.position_ids", f"{TEXT}embeddings.token_type_ids")


def _configure(state: State) -> Mapping[str, Scalar]:
    text = bert_fields(state, TEXT)
    positions = int(text["text_positions"] or 0) - OFFSET
    return {
        **text, "text_positions": positions, "text_epsilon": 1e-5, "text_pool": "pooler", "max_tokens": min(128, positions),
        "image_encoder": "resnet50", "image_size": 224, "image_channels": 3, "pixel_stats": "", "resize": "pad",
        "projection_width": state["vis_proj.0.weight"].shape[0], "embed_dim": state["vis_proj.2.weight"].shape[0],
        "frozen_text_layers": 0,
    }  # fmt: skip


def _convert(state: State) -> Converted:
    found = rename(state, PREFIXES, UNNEEDED)
    return Converted({**found.state, POSITIONS: found.state[POSITIONS][OFFSET:].clone()}, found.left_out)


LAYOUTS = (
    Layout(
        title="ConVIRT, ResNet-50 and RoBERTa (yangzhou12/BenchX@b874fa6)",
        recognise=lambda state: has(state, WORDS, "visual.model.conv1.weight", *HEADS),
        configure=_configure,
        convert=_convert,
        vocabulary=WORDS,
        tokenizer="allenai/biomed_roberta_base",
    ),
)
