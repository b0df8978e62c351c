"""Protocols that papers follow, by family; they run when named: `--protocol NAME`. docs/protocols.md says what differs."""

from __future__ import annotations

from benchmark.data.text import REPORT
from benchmark.types import Protocol

RETRIEVAL = (
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
)

PUBLISHED: dict[str, tuple[Protocol, ...]] = {
    "retrieval": RETRIEVAL,
    "zeroshot": (),
    "classification": (),
    "segmentation": (),
    "detection": (),
}
