"""The released GLoRIA: a Lightning file whose keys begin with "gloria." (marshuang80/gloria@416466a), or the same without.

Released images are padded to a square of 256 and cut to the middle 224; here the whole image is padded to 224, so that what
lies at the border is seen, and shapes are an eighth smaller. Both are scaled to 299 before the network. The file's
hyper-parameters are an OmegaConf object, which has to be taken out of it first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from benchmark.published import Converted, Layout, State, rename
from benchmark.types import Scalar
from methods.gloria import PIXEL_STATS, UPSAMPLE
from methods.published.transformers_keys import bert_fields, bert_unneeded, has

TEXT = "text_encoder.model."
IMAGE = "img_encoder."
WORDS = f"{TEXT}embeddings.word_embeddings.weight"
TOKENIZER = "emilyalsentzer/Bio_ClinicalBERT"


def _recognise(start: str, state: State) -> bool:
    return has(state, *(start + key for key in (WORDS, f"{IMAGE}global_embedder.weight", f"{IMAGE}local_embedder.weight")))


def _configure(start: str, state: State) -> Mapping[str, Scalar]:
    text = bert_fields(state, start + TEXT)
    return {
        **text, "image_encoder": "resnet50", "image_size": 224, "image_channels": 3, "pixel_stats": PIXEL_STATS,
        "resize": "pad", "upsample": UPSAMPLE, "max_tokens": min(97, int(text["text_positions"] or 97)),
        "embed_dim": state[f"{start}{IMAGE}global_embedder.weight"].shape[0],
        "sentence_mean": "positions", "start_word": True,  # as trained: [CLS] and [SEP] are parts of a text
    }  # fmt: skip


def _convert(start: str, state: State) -> Converted:
    """A 1x1 convolution over the map is a linear layer over its positions."""
    prefixes = {
        f"{start}{TEXT}": "text_tower.bert.",
        f"{start}{IMAGE}model.": "image_tower.model.",
        f"{start}{IMAGE}global_embedder.": "global_embedder.",
        f"{start}{IMAGE}local_embedder.": "local_embedder.",
    }
    found = rename(state, prefixes, bert_unneeded(start + TEXT))
    local = found.state["local_embedder.weight"]
    return Converted({**found.state, "local_embedder.weight": local.flatten(1)}, found.left_out)


LAYOUTS = tuple(
    Layout(
        title=f"GLoRIA, ResNet-50 (marshuang80/gloria@416466a{', from Lightning' if start else ''})",
        recognise=partial(_recognise, start),
        configure=partial(_configure, start),
        convert=partial(_convert, start),
        vocabulary=start + WORDS,
        tokenizer=TOKENIZER,
    )
    for start in ("gloria.", "")
)
