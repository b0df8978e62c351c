"""The registry of task families: one file a family, one line here."""

from __future__ import annotations

from typing import Any

from benchmark.registry import Registry

TASKS: Registry[Any] = Registry(
    "task",
    group="benchmark.tasks",
    entries={
        "retrieval": "tasks.retrieval:Retrieval",
        "zeroshot": "tasks.zeroshot:ZeroShot",
        "classification": "tasks.classification:Classification",
        "segmentation": "tasks.segmentation:Segmentation",
        "detection": "tasks.detection:Detection",
    },
)
