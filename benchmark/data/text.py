"""Reports: sections to text, text to sentences, and a WordPiece vocabulary trained on training reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

REPORT = ("findings|report", "impression")  # findings, or the whole report where sections are not parsed, then the impression
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_STOP = re.compile(  # where a sentence may end: a line end; a stop before a space; a stop that lacks its space
    r"\n+|[.!?][)\]\"']*\s+(?=[(\[\"']*[A-Za-z0-9_])|(?<=[a-z]{3})[.!?](?=[A-Z][a-z])"
)
_NUMBER = re.compile(r"\s*\(?\d{1,2}[.)]\s*")  # of an item in a list: it belongs to the sentence behind it
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:Drs?|Mrs?|Ms|St|vs|approx|e\.g|i\.e|cf|Fig)\.\s*$")
_WORD = re.compile(r"[a-z]{5,}[.!?][)\]\"']*\s*$")  # too long for an abbreviation


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
    """Sentences of a report, in order, without empty ones; each stands in the text as it is.

    A line end is a border. A stop is one before a capital, a number, ___ or a bracket, but not behind an abbreviation or
    the number of a list's item; before a small letter only behind a longer word.

    >>> split_sentences("1. No effusion. 2. Heart size is 1.5 times normal, as Dr. XXXX says.")
    ('1. No effusion.', '2. Heart size is 1.5 times normal, as Dr. XXXX says.')
    """
    found, start = [], 0
    for stop in _STOP.finditer(text):
        if "\n" in stop[0] or not _goes_on(text[start : stop.end()], text[stop.end()]):
            found.append(text[start : stop.end()].strip())
            start = stop.end()
    return tuple(sentence for sentence in (*found, text[start:].strip()) if sentence)


def _goes_on(part: str, following: str) -> bool:
    """Whether a sentence goes on behind a stop."""
    if _NUMBER.fullmatch(part) or _ABBREVIATION.search(part):
        return True
    return following.islower() and not _WORD.search(part)


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
