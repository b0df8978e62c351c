"""The text tower: a BERT encoder and the tokens it reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertModel

from benchmark.data.text import split_sentences
from benchmark.errors import Unavailable, UserError
from benchmark.hub import check_hub
from benchmark.types import TextBatch

HUB_NAME = "emilyalsentzer/Bio_ClinicalBERT"
MOST_TEXTS = 1 << 17  # whose tokens are kept: of 112 tokens each, 200 MiB
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class TextTower(nn.Module):
    """BERT without a pooler.

    Args:
        shape: width, layers and heads; the inner width is four times the width.
        max_tokens: of a text, special ones included.
        dropout: while training.
        weights: "none", "hub" (Bio_ClinicalBERT), OWNER/NAME there, or a local folder in its layout; all but "none" bring a
            vocabulary.
        tokenizer: the vocabulary otherwise.
        embeddings: numbers of positions and of segment types, without weights; None: max_tokens and one.

    Raises:
        Unavailable: weights that cannot be had. UserError: no tokenizer, or one without BERT's special tokens.
    """

    def __init__(
        self, shape: tuple[int, int, int], max_tokens: int, dropout: float, weights: str, tokenizer: Tokenizer | None,
        embeddings: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        width, layers, heads = shape
        self.width, self.max_tokens = width, max_tokens
        if weights == "none":
            if tokenizer is None:
                raise UserError(
                    "this method reads reports: give it a tokenizer, as benchmark.data.text.train_tokenizer makes one"
                )
            self.tokenizer = own_copy(tokenizer)
            positions, types = embeddings or (max_tokens, 1)
            config = BertConfig(
                vocab_size=self.tokenizer.get_vocab_size(), hidden_size=width, num_hidden_layers=layers,
                num_attention_heads=heads, intermediate_size=4 * width, max_position_embeddings=positions,
                hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, type_vocab_size=types,
                pad_token_id=_token_id(self.tokenizer, "[PAD]"), attn_implementation="sdpa",
            )  # fmt: skip
            self.bert: Any = BertModel(config, add_pooling_layer=False)
            soften_positions(self.bert)
        else:
            self.bert, loaded = load_bert(weights, dropout)
            self.tokenizer = own_copy(loaded)
            loaded_config = self.bert.config
            found = (loaded_config.hidden_size, loaded_config.num_hidden_layers, loaded_config.num_attention_heads)
            if found != shape:
                asked = " ".join(f"--set text_{part}={value}" for part, value in zip(("width", "layers", "heads"), found))
                raise UserError(f"text_weights={weights!r} has width, layers, heads {found}; add {asked}")
            own = (loaded_config.max_position_embeddings, loaded_config.type_vocab_size)
            if embeddings is not None and embeddings != own:
                raise UserError(
                    f"text_weights={weights!r} has {own[0]} positions and {own[1]} segment types; "
                    f"add --set text_positions={own[0]} --set text_types={own[1]}"
                )
            if max_tokens > own[0]:
                raise UserError(f"max_tokens={max_tokens} is over the {own[0]} positions of text_weights={weights!r}")
        self._tokens: dict[str, tuple[NDArray[np.int32], bool]] = {}
        self.pad_id, self.end_id, self.mask_id = (_token_id(self.tokenizer, name) for name in ("[PAD]", "[SEP]", "[MASK]"))

    @property
    def words(self) -> nn.Parameter:
        """(V, width) the word embeddings."""
        matrix: nn.Parameter = self.bert.embeddings.word_embeddings.weight
        return matrix

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (B, T) int64, mask (B, T) bool, False at padding, which changes nothing -> (B, T, width)."""
        output: Tensor = self.bert(input_ids=ids, attention_mask=None if bool(mask.all()) else mask).last_hidden_state
        return output

    def states(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """The embeddings and the output of every layer, layers + 1 times (B, T, width), of what `forward` reads."""
        seen = None if bool(mask.all()) else mask
        found: tuple[Tensor, ...] = self.bert(input_ids=ids, attention_mask=seen, output_hidden_states=True).hidden_states
        return found

    def prepare(self, texts: Sequence[str]) -> TextBatch:
        """B texts -> tokens on the CPU, padded to the longest; an empty text is [CLS] [SEP].

        A text over `max_tokens` keeps its beginning, closes with [SEP] and counts as truncated.
        """
        rows = self._known(texts)
        lengths = [row.shape[1] for row, _ in rows]
        table = np.empty((3, len(rows), max(lengths, default=2)), np.int64)
        table[:] = np.array([self.pad_id, -1, -1]).reshape(3, 1, 1)
        for place, (row, _) in enumerate(rows):
            table[:, place, : row.shape[1]] = row
        ids, sentences, words = torch.from_numpy(table)
        mask = torch.arange(table.shape[2]) < torch.tensor(lengths, dtype=torch.int64).unsqueeze(1)
        return TextBatch(ids, mask, sentences < 0, sentences, words, sum(cut for _, cut in rows))

    def _known(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int32], bool]]:
        """Of each text its ids, sentences and words (3, T), and whether it was cut; kept, since texts come again each epoch."""
        asked = dict.fromkeys(texts)
        if len(self._tokens) + len(asked) > MOST_TEXTS:
            self._tokens.clear()
        new = [text for text in asked if text not in self._tokens]
        for text, encoding in zip(new, self.tokenizer.encode_batch(new)):
            row = np.array(_rows(encoding, text, self.max_tokens, self.end_id), np.int32)
            self._tokens[text] = (row, len(encoding.ids) > self.max_tokens)
        return [self._tokens[text] for text in texts]


def _rows(encoding: Encoding, text: str, limit: int, end_id: int) -> tuple[list[int], list[int], list[int]]:
    """ids, sentence indices and word indices of one text; -1 at special tokens."""
    ids, words = list(encoding.ids), [-1 if word is None else word for word in encoding.word_ids]
    starts = sentence_starts(text)
    sentences = [
        -1 if special else max(0, sum(start <= offset[0] for start in starts) - 1)
        for offset, special in zip(encoding.offsets, encoding.special_tokens_mask)
    ]
    words = [-1 if special else word for word, special in zip(words, encoding.special_tokens_mask)]
    if len(ids) > limit:
        ids, sentences, words = [*ids[: limit - 1], end_id], [*sentences[: limit - 1], -1], [*words[: limit - 1], -1]
    return ids, sentences, words


def sentence_starts(text: str) -> list[int]:
    """Where each sentence of `split_sentences` begins in the text, in characters."""
    starts, cursor = [], 0
    for sentence in split_sentences(text):
        cursor = text.index(sentence, cursor)
        starts.append(cursor)
        cursor += len(sentence)
    return starts


def own_copy(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without padding and truncation, which are the tower's to do."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def soften_positions(bert: Any) -> None:
    """Starts words at standard deviation 0.04 and positions at 0.005, where BERT starts both at 0.02.

    The mean over tokens then begins as what a text says rather than as what all texts share: mean-pooled towers leave the
    flat start of the contrastive loss sooner.
    """
    with torch.no_grad():
        bert.embeddings.word_embeddings.weight.mul_(2.0)
        bert.embeddings.position_embeddings.weight.mul_(0.25)


def load_bert(weights: str, dropout: float) -> tuple[Any, Tokenizer]:
    """A BERT and its vocabulary from the hub or a local folder.

    Args:
        weights: "hub" (Bio_ClinicalBERT), a folder, or OWNER/NAME on the hub.

    Raises:
        Unavailable: they cannot be had. UserError: another kind of model than BERT.
    """
    named = REPOSITORY.fullmatch(weights) and not Path(weights).exists()
    name, local = (HUB_NAME, False) if weights == "hub" else (weights, not named)
    remedy = (
        "give text_weights=FOLDER with config.json, model.safetensors and vocab.txt or tokenizer.json, or text_weights=hub "
        "or OWNER/NAME where huggingface.co can be reached; text_weights=none starts from random weights"
    )
    if local and not Path(name).is_dir():
        raise Unavailable(f"text weights folder {name!r} is not there", remedy)
    if not local:
        check_hub(f"text weights {name!r}", name, "config.json", remedy)
    options: dict[str, Any] = {"local_files_only": local}
    try:
        kind = AutoConfig.from_pretrained(name, **options).model_type
        if kind != "bert":
            raise UserError(f"text_weights={weights!r} is a {kind} model, and the text tower is a BERT; give one of that kind")
        tokenizer = AutoTokenizer.from_pretrained(name, **options).backend_tokenizer
        model = BertModel.from_pretrained(
            name, add_pooling_layer=False, attn_implementation="sdpa", hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout, weights_only=True, **options,
        )  # fmt: skip
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise Unavailable(f"text weights {name!r} cannot be had ({type(error).__name__})", remedy) from error
    return model, tokenizer


def _token_id(tokenizer: Tokenizer, name: str) -> int:
    found: int | None = tokenizer.token_to_id(name)
    if found is None:
        raise UserError(f"the tokenizer has no {name} token; train one with benchmark.data.text.train_tokenizer")
    return found
