"""Which of our protocols is which published one: stated here, checked by hash, never guessed from a likeness of names.

A published number may stand beside a measured one only where the protocol of the result is listed in COUNTERPARTS with the
very hash of the result, and its data set in the entry. Whoever builds a protocol that does what a published one did adds
one entry; a protocol that changes gets another hash and loses its counterpart until somebody looks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterpart:
    """The published family that a protocol of ours repeats.

    notes: what a result must note of its rows, where the name of the data set does not say which images were used.
    """

    protocol_hash: str  # of our protocol as it was when the two were compared
    family: str  # protocol of the published numbers
    task: str
    setting: str = ""
    metrics: Mapping[str, str]  # our metric -> published metric
    datasets: Mapping[str, str]  # our data set -> published data set
    notes: Mapping[str, object] = field(default_factory=dict)


# our protocol -> counterpart
COUNTERPARTS: dict[str, Counterpart] = {
    # The lists are public (yuhaozhang/convirt@cf6add8) and state queries, candidates and what is right; precision at K leaves
    # no room. EGMA's values step by 2.5, as 40 queries make them. Which similarity others took of a method with local terms is
    # not printed; ours is the method's own.
    "retrieval-8x200-text": Counterpart(
        protocol_hash="79e3ca0a",
        family="convirt-8x200",
        task="retrieval",
        setting="class match, text to image",
        metrics={"precision@1": "P@1", "precision@5": "P@5", "precision@10": "P@10"},
        datasets={"chexpert": "CheXpert 8x200"},
        notes={"queries": 40, "candidates": 1600},
    ),
}

_PROBE = "the head is trained on whole images, without the random crops, and fractions are of patients"
_LOVT = "the decoder is another, images are not equalized, and the split has lovt's sizes with images of our draw"
_MGCA_BOXES = "mAP is over every image, where mgca leaves out images without boxes; fractions are of patients"
_BENCHX = "one recipe for all methods, where benchx searches 192 settings for each method and set"
_5X200 = "the thousand images are drawn again, where the list behind the printed numbers is not public"

# our protocol -> why no published number is comparable with it
UNLIKE: dict[str, str] = {
    **{f"probe-mgca{name}": _PROBE for name in ("", "-chexpert", "-rsna", "-covidx")},
    **{f"probe-gloria-{name}": _PROBE for name in ("chexpert", "rsna")},
    **{f"finetune-benchx-{name}": _BENCHX for name in ("nih", "vindr", "covidx", "siim", "rsna")},
    "finetune-linear": _BENCHX,
    "finetune-linear-covidx": _BENCHX,
    **{f"zeroshot-5x200-{name}": _5X200 for name in ("prior", "gloria", "medclip", "cxrclip")},
    "retrieval-class-5x200": f"{_5X200}; and gloria standardizes scores over the candidates of a query",
    "retrieval-pool-1000": "limitr ranks by its learned similarity, in pools that its data loader draws",
    "retrieval-8x200-image": "published numbers of 8x200 rank texts for an image, or images for a text",
    "unet-mgca-siim": "nothing is augmented, and a frozen encoder keeps the statistics of its batch norm",
    "unet-mgca-rsna": "nothing is augmented, and a frozen encoder keeps the statistics of its batch norm",
    "unet-gloria-siim": "images are of another size, and the optimizer has other momenta",
    **{f"unet-lovt-{name}": _LOVT for name in ("frozen", "finetune", "frozen-covid-rural", "finetune-covid-rural")},
    **{f"linear-lovt{name}": _LOVT for name in ("", "-rsna", "-rsna-10", "-rsna-1", "-covid-rural")},
    **{f"yolov3-mgca{name}": _MGCA_BOXES for name in ("", "-rsna-1", "-object-cxr-1")},
    **{f"yolov3-lovt{name}": _LOVT for name in ("", "-10", "-1", "-finetune", "-finetune-10", "-finetune-1")},
    **{f"yolov3-lovt-object-cxr{name}": _LOVT for name in ("", "-finetune")},
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
