"""Miniature replicas of the real sets, each in its official layout: file names, columns, encodings, several images a patient.

Pictures, reports, boxes and masks are the phantom's: nothing here is of a patient. `REPLICAS[NAME](ROOT)` writes one below
ROOT, in the folder that `--data NAME --data-root ROOT` looks for, and returns that folder. The same call writes the same
bytes. Every split has images with and without each class that the phantom can show.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.replicas import (
    chexpert,
    covid_rural,
    covidx,
    mimic_cxr,
    nih,
    object_cxr,
    open_i,
    rsna,
    siim,
    tbx11k,
    vindr_cxr,
)  # fmt: skip

REPLICAS: dict[str, Callable[[Path], Path]] = {
    "chexpert": chexpert.write,
    "mimic-cxr": mimic_cxr.write,
    "rsna": rsna.write,
    "siim": siim.write,
    "vindr-cxr": vindr_cxr.write,
    "nih": nih.write,
    "object-cxr": object_cxr.write,
    "open-i": open_i.write,
    "covidx": covidx.write,
    "tbx11k": tbx11k.write,
    "covid-rural": covid_rural.write,
}
