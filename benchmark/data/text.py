"""Reports: sections to text, text to sentences, and a WordPiece vocabulary trained on training reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

REPORT = ("findings|report", "impression")  # findings, or the whole report where sections are not parsed, then the impression
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])|\n+")


def join_sections(sections: Mapping[str, str], names: Sequence[str]) -> str:
    """The named sections joined by a space; "a|b" takes a where it is there, else b. Empty where there is none.

    >>> join_sections({"findings": "Clear lungs.", "report": "All."}, ("findings", "impression|report"))
    'Clear lungs. All.'
    """
    chosen = []
    for name in names:
        found = (sections.get(option, "").strip() for option in name.split("|"))
        chosen.append(next((text for text in found if text), ""))
    return " ".join(text for text in chosen if text)


def split_sentences(text: str) -> tuple[str, ...]:
    """Sentences of a report, in order, without empty ones.

    >>> split_sentences("No effusion. Heart size is 1.5 times normal.")
    ('No effusion.', 'Heart size is 1.5 times normal.')
    """
    return tuple(part.strip() for part in _SENTENCE_END.split(text) if part.strip())


def train_tokenizer(texts: Iterable[str], vocabulary: int = 2000) -> Tokenizer:
    """A lower-case WordPiece vocabulary in BERT's layout, the same for the same texts in the same order.

    Args:
        texts: reports of the training split, and of no other.
        vocabulary: the most pieces to keep, special ones included.
    """
    corpus = list(texts)
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    learner.normalizer, learner.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    # The trainer numbers pieces that continue a word in the order of a randomly seeded hash map and breaks ties by number:
    # given their numbers beforehand, as if they were special, it learns the same vocabulary every time.
    inner = [f"##{letter}" for letter in sorted(_inner_letters(learner, corpus))]
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=[*SPECIAL, *inner], show_progress=False)
    learner.train_from_iterator(corpus, trainer)
    tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer, tokenizer.pre_tokenizer = learner.normalizer, learner.pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL))
    separator, first = SPECIAL.index("[SEP]"), SPECIAL.index("[CLS]")  # special pieces come first, in this order
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", separator), ("[CLS]", first))
    return tokenizer


def _inner_letters(tokenizer: Tokenizer, texts: Iterable[str]) -> set[str]:
    """Every letter that stands in a word after its first one."""
    normalize, split = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    return {letter for text in texts for word, _ in split(normalize(text)) for letter in word[1:]}
