"""Classification protocols of papers, as literals. A change of any value needs a new version.

docs/protocols-classification.md says of each setting whose it is, and what differs from the source.
"""

from __future__ import annotations

from dataclasses import replace

from benchmark.data.sources.nih import CLASSES as NIH
from benchmark.types import Protocol, Scalar

FRACTIONS = (0.01, 0.1, 1.0)  # of the training patients
COMPETITION = "Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion"  # the five findings of CheXpert's competition
# the five findings of CheXpert's competition, what reports leave open settled as GLoRIA and MGCA do
MGCA_LABELS: dict[str, Scalar] = {"classes": COMPETITION, "label_policy": "mgca"}
_PROBE: dict[str, Scalar] = {
    "features": "tower, unprojected",
    "head": "linear",
    "selection": "lowest loss on val",
    "standardize": False,
    "threshold": "f1 on val",
}


VERSIONS = dict.fromkeys(("probe-mgca-chexpert", "probe-gloria-chexpert", "probe-gloria-rsna"), 2)  # 2: split, label policy


def _protocol(name: str, summary: str, **settings: Scalar) -> Protocol:
    return Protocol(
        name=name,
        version=VERSIONS.get(name, 1),
        task="classification",
        primary="auroc",
        fractions=FRACTIONS,
        settings=tuple(sorted(settings.items())),
        summary=summary,
    )


_MGCA: dict[str, Scalar] = {
    **_PROBE, "optimizer": "adamw", "learning_rate": 5e-4, "beta1": 0.9, "beta2": 0.999, "weight_decay": 1e-6, "batch_size": 48,
    "rounds": 50, "round_steps": 0, "patience": 10, "clip_norm": 0.0, "schedule": "constant",
}  # fmt: skip
_GLORIA: dict[str, Scalar] = {
    **_PROBE, "optimizer": "adam", "beta1": 0.5, "beta2": 0.999, "weight_decay": 1e-6, "batch_size": 64, "rounds": 50,
    "round_steps": 0, "patience": 10, "schedule": "plateau:0.5,5,3",
}  # fmt: skip

_TUNED: dict[str, Scalar] = {
    "augment": 1.0, "batch_size": 64, "beta1": 0.9, "beta2": 0.999, "clip_norm": 1.0, "encoder_rate": 0.1, "freeze_bn": False,
    "head": "linear, encoder trained", "learning_rate": 1e-4, "optimizer": "adamw", "patience": 5, "round_steps": 200,
    "rounds": 15, "schedule": "cosine:50", "weight_decay": 0.05,
}  # fmt: skip


def _one_of(name: str, summary: str, **settings: Scalar) -> Protocol:
    """Which one of COVIDx's three classes: the lists of its A releases, as MGCA reads them."""
    fixed: dict[str, Scalar] = {
        "answer": "highest class score", "classes": "Normal,Pneumonia,COVID-19", "loss": "softmax cross-entropy",
        "split": "mgca",
    }  # fmt: skip
    return replace(_protocol(name, summary, **fixed, **settings), primary="accuracy")


BENCHX = (  # name, classes ("": all of the set), primary metric
    ("nih", ",".join(NIH), "auroc"),
    ("vindr", "", "auroc"),
    ("covidx", "COVID-19", "f1_argmax"),
    ("siim", "Pneumothorax", "f1_argmax"),
    ("rsna", "Pneumonia", "f1_argmax"),
)


def _benchx(name: str, classes: str, primary: str) -> Protocol:
    """BenchX's sets and test metrics, its lists by --split FOLDER; one recipe for all where it searches one for each."""
    narrow: dict[str, Scalar] = {"classes": classes} if classes else {}
    metric = "macro AUROC" if primary == "auroc" else "F1 of the positive at the likelier answer"
    found = _protocol(
        f"finetune-benchx-{name}",
        f"BenchX's {name} with the recipe of finetune-linear, where BenchX searches one for each method; {metric}.",
        **_TUNED,
        **narrow,
        selection="highest macro auroc on val",
        split="list",
        threshold="f1 on val",
    )
    return replace(found, primary=primary)


PROTOCOLS: tuple[Protocol, ...] = (
    _protocol("probe-mgca", "MGCA's linear layer on frozen features, AdamW, every class of the set; macro AUROC.", **_MGCA),
    _protocol(
        "probe-mgca-chexpert",
        "MGCA's linear layer on frozen features, AdamW, CheXpert's five competition findings; macro AUROC.",
        **_MGCA,
        **MGCA_LABELS,
        split="mgca",
    ),
    _protocol(
        "probe-mgca-rsna",
        "MGCA's linear layer on frozen features, AdamW, RSNA's Pneumonia on the split of its classification; AUROC.",
        **_MGCA,
        classes="Pneumonia",
        split="gloria",
    ),
    _protocol(
        "probe-gloria-chexpert",
        "GLoRIA's linear layer on frozen features, Adam, CheXpert's five competition findings; macro AUROC.",
        **_GLORIA,
        **MGCA_LABELS,
        split="gloria",
        learning_rate=1e-4,
        clip_norm=0.25,
    ),
    _protocol(
        "probe-gloria-rsna",
        "GLoRIA's linear layer on frozen features, Adam, RSNA's Pneumonia; AUROC.",
        **_GLORIA,
        classes="Pneumonia",
        split="gloria",
        learning_rate=5e-4,
        clip_norm=0.0,
    ),
    _protocol(
        "finetune-linear",
        "The whole image encoder and a linear layer, AdamW, cosine over 3,000 steps, best of 15 on val; macro AUROC.",
        **_TUNED,
        selection="highest macro auroc on val",
        threshold="f1 on val",
    ),
    *(_benchx(*row) for row in BENCHX),
    _protocol(
        "finetune-prior-622",
        "PRIOR's 6:2:2 of the patients with the recipe of finetune-linear, our choice since PRIOR states none; macro AUROC.",
        **_TUNED,
        selection="highest macro auroc on val",
        split="prior-622",
        threshold="f1 on val",
    ),
    _one_of(
        "probe-mgca-covidx",
        "MGCA's linear layer on frozen features, COVIDx: one of three classes, softmax cross-entropy; accuracy.",
        **{name: value for name, value in _MGCA.items() if name != "threshold"},
    ),
    _one_of(
        "finetune-linear-covidx",
        "The whole image encoder and a linear layer, COVIDx: one of three classes, softmax cross-entropy; accuracy.",
        **_TUNED,
        selection="lowest loss on val",
    ),
    _protocol(
        "knn",
        "The 20 nearest neighbours by cosine on frozen features, weighted as DINO's (temperature 0.07); macro AUROC.",
        features="tower, unprojected",
        head="nearest neighbours",
        k=20,
        metric="cosine",
        standardize=False,
        temperature=0.07,
        threshold="f1 on val",
    ),
)
