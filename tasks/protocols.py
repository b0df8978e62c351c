"""Protocols of retrieval, zero-shot and classification as literals. A change of any value needs a new version.

Those of segmentation and detection, whose heads differ with the preset, stand in tasks/protocols_dense.py.
"""

from __future__ import annotations

from benchmark.data.text import REPORT
from benchmark.types import Protocol

RETRIEVAL = (
    Protocol(
        name="retrieval-unique",
        version=1,
        task="retrieval",
        primary="recall@10",
        one_per_study=True,
        text=REPORT,
        settings=(("match", "unique-text"), ("pool", "full")),
        summary="Full gallery of the test split, one frontal image a study; equal reports are one candidate.",
    ),
    Protocol(
        name="retrieval-exact",
        version=1,
        task="retrieval",
        primary="recall@10",
        one_per_study=True,
        text=REPORT,
        settings=(("match", "exact-pair"), ("pool", "full")),
        summary="Full gallery of the test split, one frontal image a study; only the image's own report counts.",
    ),
)

ZERO_SHOT = (
    Protocol(
        name="zeroshot-prompt-pairs",
        version=1,
        task="zeroshot",
        primary="auroc",
        settings=(("ensemble", "mean of normalized"), ("prompts", "observed-2"), ("threshold", "f1 on val")),
        summary="Similarity to positive less similarity to negative prompts, averaged over templates; macro AUROC.",
    ),
)

CLASSIFICATION = (
    Protocol(
        name="classification-linear-probe",
        version=2,
        task="classification",
        primary="auroc",
        fractions=(0.01, 0.1, 1.0),
        settings=(
            ("features", "tower, unprojected"),
            ("grid", "1e-4,1e-3,1e-2,1e-1,1"),
            ("head", "logistic regression, L2 (scikit-learn)"),
            ("selection", "macro auroc on val"),
            ("standardize", True),
            ("threshold", "f1 on val"),
        ),
        summary="Logistic regression on the frozen tower's own features; nested fractions of the patients; macro AUROC.",
    ),
)
