"""Prompt sets by name and version: templates of a positive and a negative statement about a class, and grids of phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from random import Random


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Templates with the place {name}; `absence` names classes that state that something is not there, and what.

    spaces: underscores of a name are read as spaces, as in NIH's Pleural_Thickening. A set is changed under a new name only:
    the name stands in the protocol's hash.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    absence: tuple[tuple[str, str], ...] = ()
    spaces: bool = False

    def prompts(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Positive and negative prompts of a class; for an absence the two sides change places."""
        absent = dict(self.absence).get(name)
        words = absent or (name.replace("_", " ") if self.spaces else name).lower()
        positive = tuple(template.format(name=words) for template in self.positive)
        negative = tuple(template.format(name=words) for template in self.negative)
        return (negative, positive) if absent else (positive, negative)


PROMPT_SETS: dict[str, PromptSet] = {
    "observed-2": PromptSet(
        positive=("{name} is observed.", "{name} is seen.", "findings consistent with {name}."),
        negative=("no {name} is observed.", "no {name} is seen.", "no findings consistent with {name}."),
        absence=(("No Finding", "abnormality"),),
    ),
}
PROMPT_SETS["observed-3"] = replace(PROMPT_SETS["observed-2"], spaces=True)


@dataclass(frozen=True, slots=True)
class PhraseGrid:
    """Prompts of each class: one phrase of each of its lists in their order, all combinations, the last list fastest.

    An empty phrase leaves no space. A grid is changed under a new name only.
    """

    phrases: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes it has prompts for."""
        return tuple(name for name, _ in self.phrases)

    def prompts(self, name: str) -> tuple[str, ...]:
        """Every prompt of a class; one that can be made twice stands there twice. Raises KeyError."""
        return tuple(" ".join(part for part in parts if part) for parts in product(*dict(self.phrases)[name]))


FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")

# Phrases of marshuang80/gloria, gloria/constants.py CHEXPERT_CLASS_PROMPTS (Apache-2.0), in their spelling, which decides
# tokens; RyanWangZf/MedCLIP and Soombit-ai/cxr-clip use the same.
_GLORIA = PhraseGrid(
    (
        (
            "Atelectasis",
            (
                ("", "mild", "minimal"),
                (
                    "subsegmental atelectasis", "linear atelectasis", "trace atelectasis", "bibasilar atelectasis",
                    "retrocardiac atelectasis", "bandlike atelectasis", "residual atelectasis",
                ),
                (
                    "at the mid lung zone", "at the upper lung zone", "at the right lung zone", "at the left lung zone",
                    "at the lung bases", "at the right lung base", "at the left lung base", "at the bilateral lung bases",
                    "at the left lower lobe", "at the right lower lobe",
                ),
            ),
        ),
        (
            "Cardiomegaly",
            (
                (
                    "cardiac silhouette size is upper limits of normal",
                    "cardiomegaly which is unchanged",
                    "mildly prominent cardiac silhouette",
                    "portable view of the chest demonstrates stable cardiomegaly",
                    "portable view of the chest demonstrates mild cardiomegaly",
                    "persistent severe cardiomegaly",
                    "heart size is borderline enlarged",
                    "cardiomegaly unchanged",
                    "heart size is at the upper limits of normal",
                    "redemonstration of cardiomegaly",
                    "ap erect chest radiograph demonstrates the heart size is the upper limits of normal",
                    "cardiac silhouette size is mildly enlarged",
                    "mildly enlarged cardiac silhouette, likely left ventricular enlargement. "
                    "other chambers are less prominent",
                    "heart size remains at mildly enlarged",
                    "persistent cardiomegaly with prominent upper lobe vessels",
                ),
            ),
        ),
        (
            "Consolidation",
            (
                ("", "increased", "improved", "apperance of"),
                (
                    "bilateral consolidation", "reticular consolidation", "retrocardiac consolidation", "patchy consolidation",
                    "airspace consolidation", "partial consolidation",
                ),
                (
                    "at the lower lung zone", "at the upper lung zone", "at the left lower lobe", "at the right lower lobe",
                    "at the left upper lobe", "at the right uppper lobe", "at the right lung base", "at the left lung base",
                ),
            ),
        ),
        (
            "Edema",
            (
                ("", "mild", "improvement in", "presistent", "moderate", "decreased"),
                ("pulmonary edema", "trace interstitial edema", "pulmonary interstitial edema"),
            ),
        ),
        (
            "Pleural Effusion",  # the place stands before the kind, and one kind stands there twice
            (
                ("", "small", "stable", "large", "decreased", "increased"),
                ("left", "right", "tiny"),
                ("bilateral pleural effusion", "subpulmonic pleural effusion", "bilateral pleural effusion"),
            ),
        ),
    )
)  # fmt: skip

PHRASE_GRIDS: dict[str, PhraseGrid] = {
    "gloria-grid": _GLORIA,
    # one prompt a class: QtacierP/PRIOR@086bf2e, codes/prior/downstream/zero_classification_model.py
    "prior-observed": PhraseGrid(tuple((name, ((f"{name} is observed",),)) for name in FIVE)),
}


def drawn(prompts: Sequence[Sequence[str]], each: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """Prompts drawn for each class without replacement, class after class from one stream; all of a class that has no more.

    Args:
        prompts: of each class. each: how many of a class, 0 for all. seed: of Python's `random`, as in GLoRIA's code.
    """
    stream = Random(seed)  # noqa: S311  (prompts, no secrets)
    return tuple(tuple(stream.sample(list(own), each)) if 0 < each < len(own) else tuple(own) for own in prompts)
