"""Retrieval protocols of papers, as literals. A change of any value needs a new version."""

from __future__ import annotations

from benchmark.data.text import REPORT
from benchmark.types import Protocol

_EIGHT = "Atelectasis,Cardiomegaly,Edema,Fracture,No Finding,Pleural Effusion,Pneumonia,Pneumothorax"


def _eight_by_200(queries: str, similarity: str, summary: str) -> Protocol:
    return Protocol(
        name=f"retrieval-8x200-{queries.removesuffix('s')}",
        version=1,
        task="retrieval",
        primary="precision@10",
        settings=(
            ("classes", _EIGHT),
            ("match", "query class"),
            ("pool", "full"),
            ("queries", queries),
            ("similarity", similarity),
        ),
        summary=summary,
    )


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        name="retrieval-pool-1000",
        version=1,
        task="retrieval",
        primary="recall@10",
        one_per_study=True,
        text=REPORT,
        settings=(("draws", 5), ("match", "exact-pair"), ("pool", 1000)),
        summary="Pools of 1,000 pairs as LIMITR's batches; mean over the pools and 5 seeded draws of them; own report counts.",
    ),
    Protocol(
        name="retrieval-class-5x200",
        version=1,
        task="retrieval",
        primary="i2t_precision@5",
        text=("impression|findings|report",),
        settings=(
            ("classes", "Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion"),
            ("match", "class"),
            ("pool", "full"),
            ("similarity", "method"),
        ),
        summary="GLoRIA's task: reports of the query's class are right; test rows with one of five classes; P@5, 10, 100.",
    ),
    _eight_by_200(
        "images",
        "cosine of the tower, unprojected",
        "ConVIRT's image-image task: candidates with the class of a query image are right; P@1, 5, 10, 50; --split its folder.",
    ),
    _eight_by_200(
        "texts",
        "method",
        "ConVIRT's text-image task: candidates with the class of a query text are right; P@1, 5, 10, 50; --split its folder.",
    ),
)
