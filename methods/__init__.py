"""The registry of methods: one file a method, one line here."""

from __future__ import annotations

from typing import Any

from benchmark.registry import Registry

METHODS: Registry[Any] = Registry(
    "method",
    group="benchmark.methods",
    entries={
        # trained here, from images and reports
        "mcr": "methods.mcr:MCR",
        "prior": "methods.prior:PRIOR",
        "convirt": "methods.convirt:ConVIRT",
        "gloria": "methods.gloria:GLoRIA",
        "mgca": "methods.mgca:MGCA",
        "mrm": "methods.mrm:MRM",
        "clip": "methods.clip:CLIP",
        "medclip": "methods.medclip:MedCLIP",
        "cxr_clip": "methods.cxr_clip:CXRCLIP",
        # from images alone
        "simclr": "methods.simclr:SimCLR",
        "mae": "methods.mae:MAE",
        # not trained here
        "random": "methods.baselines:Random",
        "imagenet": "methods.baselines:ImageNet",
        "xrv": "methods.xrv:Xrv",
        "biomedclip": "methods.hub_models:BiomedCLIP",
        "biovil_t": "methods.biovil_t:BioViLT",
        "rad_dino": "methods.hub_models:RadDino",
    },
)
