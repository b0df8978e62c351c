"""Checkpoint files that others published: recognised by their keys, mapped whole, and nothing left out silently.

A method that can read some has a class method `published_layouts()`; `--checkpoint FILE` without a config.json of ours
beside it is matched against them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor, nn

from benchmark import weights
from benchmark.errors import UserError
from benchmark.hub import tokenizer_beside
from benchmark.types import Scalar

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Converted:
    """A published state under our names.

    state: our key -> tensor. left_out: keys of the file that nothing here needs, each listed by its layout, none by accident.
    """

    state: dict[str, Tensor]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One kind of published file.

    title: what it is and whose, as "MGCA, ViT-B/16 (HKU-MedAI/MGCA@680fe4a)".
    recognise: whether a state is of this kind, from a few keys that no other kind has.
    configure: the configuration fields that the file decides: architecture, read off the shapes, and preprocessing.
    convert: the state under our names. Raises UserError for a key that it neither maps nor lists.
    vocabulary: the key of the word embeddings, (V, D); "" where the file reads no text.
    tokenizer: the hub's name of the vocabulary, used where neither tokenizer.json nor vocab.txt lies beside the file.
    target: the class to build in place of the method's own, where the file holds less than the whole method.
    """

    title: str
    recognise: Callable[[State], bool]
    configure: Callable[[State], Mapping[str, Scalar]]
    convert: Callable[[State], Converted]
    vocabulary: str = ""
    tokenizer: str = ""
    target: Callable[[], Any] | None = field(default=None)


def layout_of(method: Any, state: State) -> Layout | None:
    """The layout of a method that a state is of; None where it is of none, or the method reads no published file."""
    layouts: Sequence[Layout] = method.published_layouts() if hasattr(method, "published_layouts") else ()
    return next((layout for layout in layouts if layout.recognise(state)), None)


def tokenizer_of(layout: Layout, state: State, file: Path) -> Tokenizer:
    """The vocabulary that a published checkpoint was trained with.

    Raises:
        Unavailable: it cannot be had. UserError: it has another number of words than the checkpoint.
    """
    tokenizer = tokenizer_beside(file, layout.tokenizer)
    words = len(state[layout.vocabulary])
    if tokenizer.get_vocab_size() != words:
        raise UserError(
            f"checkpoint {file} was trained with {words} words, and the vocabulary beside it or of {layout.tokenizer} has "
            f"{tokenizer.get_vocab_size()}; put its own tokenizer.json or vocab.txt beside it"
        )
    return tokenizer


def rename(state: State, prefixes: Mapping[str, str], unneeded: Sequence[str] = ()) -> Converted:
    """Every key under a prefix of the file gets our prefix; the longest that fits wins.

    Args:
        prefixes: theirs -> ours, each up to a dot or a whole key.
        unneeded: prefixes of keys that nothing here needs; they are listed in `left_out`.

    Raises:
        UserError: a key under none of them.
    """
    ours: dict[str, Tensor] = {}
    left_out: list[str] = []
    unknown: list[str] = []
    for key, value in state.items():
        if key.startswith(tuple(unneeded)):
            left_out.append(key)
            continue
        found = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len, default=None)
        if found is None:
            unknown.append(key)
        else:
            ours[prefixes[found] + key[len(found) :]] = value
    if unknown:
        raise UserError(f"published checkpoint: {len(unknown)} keys are not of this kind of file, first {sorted(unknown)[0]!r}")
    return Converted(ours, tuple(left_out))


def apply(module: nn.Module, layout: Layout, state: State, where: str) -> dict[str, Scalar]:
    """Loads a published state into a method built from its configuration, all or nothing; returns notes for the results.

    Raises:
        UserError: a key that is missing, unexpected or of another shape.
    """
    converted = layout.convert(state)
    weights.apply(module, converted.state, f"{where} ({layout.title})")
    return {
        "checkpoint_layout": layout.title,
        "checkpoint_keys_used": len(converted.state),
        "checkpoint_keys_left_out": len(converted.left_out),
    }
