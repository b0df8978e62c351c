"""Sections, sentences and the vocabulary."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.text import SPECIAL, join_sections, split_sentences, train_tokenizer

REPORTS = [f"The heart is {size}. There is no {finding}." for size in ("large", "normal") for finding in ("effusion", "edema")]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("findings", "impression"), "Clear lungs. Normal."),
        (("impression", "findings"), "Normal. Clear lungs."),
        (("findings|report",), "Clear lungs."),
        (("report|findings",), "All of it."),
        (("missing|findings", "missing"), "Clear lungs."),
        (("blank|findings",), "Clear lungs."),
        (("blank", "missing"), ""),
        ((), ""),
    ],
)
def test_sections_are_joined_in_the_order_asked_for(names: tuple[str, ...], text: str) -> None:
    sections = {"findings": " Clear lungs.\n", "impression": "Normal.", "report": "All of it.", "blank": "  "}
    assert join_sections(sections, names) == text


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", ()),
        ("  \n\n ", ()),
        ("No period", ("No period",)),
        ("One. Two! Three? 4 lines.", ("One.", "Two!", "Three?", "4 lines.")),
        ("A 1.5 cm nodule. Stable.", ("A 1.5 cm nodule.", "Stable.")),
        ("Findings:\nClear\n\nNormal heart.", ("Findings:", "Clear", "Normal heart.")),
        ("seen vs. prior of the left lung.", ("seen vs. prior of the left lung.",)),
        ("1. No effusion. 2. Stable.", ("1. No effusion.", "2. Stable.")),
        ("Clear.\n1. 2 nodules.\n2) Stable.", ("Clear.", "1. 2 nodules.", "2) Stable.")),
        ("Discussed with Dr. XXXX. Dr. ___ agreed.", ("Discussed with Dr. XXXX.", "Dr. ___ agreed.")),
        ("At 3:15 p.m. on ___. ___ seen.", ("At 3:15 p.m. on ___.", "___ seen.")),
        ("A device, e.g. Swan-Ganz vs. PICC.", ("A device, e.g. Swan-Ganz vs. PICC.",)),
        ("No effusion.Heart normal.", ("No effusion.", "Heart normal.")),
        ("No pneumothorax. heart is large.", ("No pneumothorax.", "heart is large.")),
        ("Lat. view. [Clear.] (Old.) New.", ("Lat. view.", "[Clear.]", "(Old.)", "New.")),
        ("A 5 mm. nodule at T7. Stable", ("A 5 mm. nodule at T7.", "Stable")),
        ("1.", ("1.",)),
    ],
)
def test_sentences_are_split_at_their_ends_only(text: str, sentences: tuple[str, ...]) -> None:
    assert split_sentences(text) == sentences


def test_no_word_is_lost_by_splitting() -> None:
    text = "Heart is 2.5 cm. XXXX seen. Dr. Who: no change\nSee above."
    assert " ".join(split_sentences(text)).split() == text.split()


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="aZ1_.?! )(\n", max_size=60) | st.text(max_size=60))
def test_sentences_stand_in_the_text_in_order_and_nothing_else_does(text: str) -> None:
    rest = text
    for sentence in split_sentences(text):
        assert sentence == sentence.strip() != ""
        before, found, rest = rest.partition(sentence)
        assert found
        assert not before.strip()
    assert not rest.strip()


def test_the_vocabulary_is_the_same_for_the_same_texts() -> None:
    assert train_tokenizer(REPORTS).to_str() == train_tokenizer(REPORTS).to_str()
    assert train_tokenizer(REPORTS).get_vocab() != train_tokenizer(REPORTS[:1]).get_vocab()


def test_texts_are_wrapped_and_lower_cased_in_the_layout_of_bert() -> None:
    tokenizer = train_tokenizer(REPORTS)
    assert [tokenizer.token_to_id(name) for name in SPECIAL] == [0, 1, 2, 3, 4]
    encoding = tokenizer.encode("The HEART is large.")
    assert encoding.tokens[0] == "[CLS]"
    assert encoding.tokens[-1] == "[SEP]"
    assert tokenizer.decode(encoding.ids) == "the heart is large."
    assert "[UNK]" not in encoding.tokens


def test_an_unseen_letter_is_unknown_and_an_empty_text_has_two_tokens() -> None:
    tokenizer = train_tokenizer(REPORTS)
    assert "[UNK]" in tokenizer.encode("Ω").tokens
    assert tokenizer.encode("").tokens == ["[CLS]", "[SEP]"]


def test_the_vocabulary_keeps_its_limit() -> None:
    letters = len({letter for text in REPORTS for letter in text.lower()})
    assert train_tokenizer(REPORTS, vocabulary=3 * letters).get_vocab_size() <= 3 * letters
    assert train_tokenizer(REPORTS).get_vocab_size() > 3 * letters
