"""The registry of methods: one file a method, one line here."""

from __future__ import annotations

from typing import Any

from benchmark.registry import Registry

METHODS: Registry[Any] = Registry(
    "method",
    group="benchmark.methods",
    entries={
        "mcr": "methods.mcr:MCR",
        "clip": "methods.clip:CLIP",
        "random": "methods.baselines:Random",
        "imagenet": "methods.baselines:ImageNet",
    },
)
