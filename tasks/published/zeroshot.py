"""Zero-shot protocols of papers, as literals. A change of any value needs a new version."""

from __future__ import annotations

from benchmark.data.sources.chexpert import CLASSES as CHEXPERT
from benchmark.data.sources.nih import CLASSES as NIH
from benchmark.types import Protocol, Scalar

FIVE = "Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion"  # of the CheXpert competition, and of 5x200


def _five_by_200(name: str, summary: str, **settings: Scalar) -> Protocol:
    """One class of five, for test rows that have exactly one of them: `--split 5x200-mgca`, for one."""
    common: dict[str, Scalar] = {
        "answer": "highest class score", "classes": FIVE, "normalisation": "none", "rule": "prompts", "prompt_draws": 0,
        "prompt_seed": 0, "prompts_each": 0,
    }  # fmt: skip
    pairs = tuple(sorted({**common, **settings}.items()))
    return Protocol(
        name=f"zeroshot-5x200-{name}", version=1, task="zeroshot", primary="accuracy", settings=pairs, summary=summary
    )


def _findings(name: str, classes: str, summary: str, prompts: str = "observed-2") -> Protocol:
    """Positive less negative prompts of each finding; thresholds of val, and the spread over the templates."""
    return Protocol(
        name=f"zeroshot-{name}",
        version=1,
        task="zeroshot",
        primary="auroc",
        settings=(
            ("classes", classes),
            ("ensemble", "mean of normalized"),
            ("prompts", prompts),
            ("spread", "templates"),
            ("threshold", "f1 on val"),
        ),
        summary=f"{summary} by positive less negative prompts; macro AUROC.",
    )


PROTOCOLS: tuple[Protocol, ...] = (
    _five_by_200(
        "prior",
        'PRIOR: one prompt a class, "X is observed"; the method\'s own zero-shot rule where it has one, else its similarity.',
        prompts="prior-observed", pooling="max", rule="method", similarity="method",
    ),
    _five_by_200(
        "gloria",
        "GLoRIA: 5 prompts a class of its grid, drawn with its seed 6, the best of them; classes standardised over all images.",
        prompts="gloria-grid", pooling="max", similarity="method", prompts_each=5, prompt_seed=6, prompt_draws=5,
        normalisation="z-score over test images",
    ),
    _five_by_200(
        "medclip",
        "MedCLIP: 10 prompts a class of GLoRIA's grid, drawn with the seed 42 of its script; their mean cosine.",
        prompts="gloria-grid", pooling="mean", similarity="pooled", prompts_each=10, prompt_seed=42, prompt_draws=5,
    ),
    _five_by_200(
        "cxrclip",
        "CXR-CLIP: every prompt of GLoRIA's grid; the mean cosine.",
        prompts="gloria-grid", pooling="mean", similarity="pooled",
    ),
    _findings("chexpert-5", FIVE, "The five findings of the CheXpert competition"),
    _findings("chexpert-14", ",".join(CHEXPERT), "CheXpert's fourteen observations, those of MIMIC-CXR-JPG too"),
    _findings("nih-14", ",".join(NIH), "The fourteen findings of NIH ChestX-ray14", "observed-3"),
    _findings("rsna", "Pneumonia", "RSNA's Pneumonia"),
    _findings("siim", "Pneumothorax", "SIIM's Pneumothorax"),
    _findings("covidx", "COVID-19", "COVIDx's COVID-19"),
)  # fmt: skip
