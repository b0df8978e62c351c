"""Which of our protocols is which published one: stated here, checked by hash, never guessed from a likeness of names.

A published number may stand beside a measured one only where the protocol of the result is listed in COUNTERPARTS with the
very hash of the result, and its data set in the entry. Whoever builds a protocol that does what a published one did adds
one entry; a protocol that changes gets another hash and loses its counterpart until somebody looks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterpart:
    """The published family that a protocol of ours repeats."""

    protocol_hash: str  # of our protocol as it was when the two were compared
    family: str  # protocol of the published numbers
    task: str
    setting: str = ""
    metrics: Mapping[str, str]  # our metric -> published metric
    datasets: Mapping[str, str]  # our data set -> published data set


# our protocol -> counterpart
COUNTERPARTS: dict[str, Counterpart] = {}

# our protocol -> why no published number is comparable with it
UNLIKE: dict[str, str] = {
    "retrieval-unique": "the nearest, cxr-clip, takes the first image of a study and one section of the report, and was tested "
    "in one direction; others rank pools of 1,000",
    "retrieval-exact": "published recalls merge equal texts or rank pools of 1,000 pairs",
    "zeroshot-prompt-pairs": "published families use other prompts, and several standardize over the test set",
    "classification-linear-probe": "mgca and gloria train the head with Adam and stop on the validation loss; this is a "
    "logistic regression with its penalty chosen on validation AUROC, at fractions of patients",
    "unet-frozen-quick": "a decoder and a schedule for a quick look",
    "unet-frozen-small": "a decoder of reduced width",
    "unet-frozen": "mgca and lovt use other heads, losses and schedules, and average Dice in other ways",
    "yolov3-frozen-quick": "a head and a schedule for a quick look",
    "yolov3-frozen-small": "a head of reduced width",
    "yolov3-frozen": "mgca and lovt average AP over IoU 0.40 to 0.75 and use other thresholds and schedules",
}
_BETWEEN = str.maketrans("", "", " -_.")
UNSTATED = "the protocol states no published family"

# our method -> start of its image encoder -> names under which it was published. A method that is not here has one name,
# the same as ours but for case and hyphens.
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "clip": {},  # published rows named CLIP are OpenAI's weights here and a new training there
    "mgca": {"resnet": ("MGCA", "MGCA-R50"), "vit": ("MGCA-ViT",)},
    "medclip": {"resnet": ("MedCLIP-R50",), "swin": ("MedCLIP-ViT",)},
}


def plain(name: str) -> str:
    """A name without case, spaces, hyphens, underscores and points: "BioViL-T" and "biovil_t" are one, "PRIOR+" is another."""
    return name.casefold().translate(_BETWEEN)


def published_names(method: str, config: Mapping[str, object]) -> frozenset[str]:
    """Under which names, made plain, a method of ours was published; empty where no name is certain."""
    if method not in VARIANTS:
        return frozenset({plain(method)})
    encoder = str(config.get("image_encoder", ""))
    return frozenset(plain(name) for start, names in VARIANTS[method].items() if encoder.startswith(start) for name in names)
