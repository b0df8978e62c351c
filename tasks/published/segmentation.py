"""Segmentation protocols of papers, as literals. A change of any value needs a new version.

Sources, and what differs from them: docs/protocols.md. `split` names the rule of `--split` that belongs to the numbers; on
other rows the protocol runs as well, and the result says so.
"""

from __future__ import annotations

from dataclasses import replace

from benchmark.types import Protocol, Scalar

FRACTIONS = (0.01, 0.1, 1.0)

SHARED: dict[str, Scalar] = {
    "augmentation": "none",
    "clip_norm": None,
    "decoder_channels": "256,128,64,32,16",
    "encoder": "frozen",
    "freeze_bn": True,
    "head": "unet-native",
    "head_one_map": "setr",
    "negatives": "all",
    "reference_size": 224,
    "setr_channels": "512,256,128,64",
    "setr_width": 768,
    "train_rows": None,
}

# 50 epochs, the best val loss, given up after ten epochs without a better one
MGCA: dict[str, Scalar] = SHARED | {
    "epochs": 50,
    "learning_rate": 5e-4,
    "loss": "10focal-logdice",
    "monitor": "loss",
    "optimizer": "adamw",
    "stop_patience": 10,
    "weight_decay": 0.05,
}

# the best pooled Dice on val, given up after ten epochs; rates halve when the val loss has not fallen for over three
LOVT: dict[str, Scalar] = SHARED | {
    "loss": "dice",
    "monitor": "dice_micro",
    "optimizer": "adam",
    "plateau": "loss",
    "plateau_factor": 0.5,
    "plateau_patience": 3,
    "stop_patience": 10,
    "weight_decay": 1e-6,
}

LINEAR: dict[str, Scalar] = {"head": "last-linear", "head_one_map": "last-linear"}
TUNED: dict[str, Scalar] = {"encoder": "finetune", "freeze_bn": False, "frozen_learning_rate": 1e-3}


def _literal(name: str, primary: str, settings: dict[str, Scalar], summary: str) -> Protocol:
    version = 2 if settings["encoder"] == "finetune" else 1  # 2: batches in parts, and fp16, train the encoder too
    return Protocol(
        name=name, version=version, task="segmentation", primary=primary, settings=tuple(sorted(settings.items())),
        summary=summary,
    )  # fmt: skip


def _mgca(name: str, changes: dict[str, Scalar], summary: str) -> Protocol:
    return replace(_literal(name, "dice_empty1", MGCA | changes, summary), fractions=FRACTIONS)


def _lovt(name: str, rates: tuple[float, int, int], changes: dict[str, Scalar], summary: str) -> Protocol:
    """rates: learning rate, batch size, epochs."""
    fixed: dict[str, Scalar] = {"learning_rate": rates[0], "batch_size": rates[1], "epochs": rates[2], "split": "lovt-sizes"}
    return _literal(name, "dice_micro", LOVT | fixed | changes, summary)


_GLORIA: dict[str, Scalar] = {
    "augmentation": "turn-and-zoom", "batch_size": 8, "encoder": "finetune", "epochs": 100, "freeze_bn": False,
    "monitor": "dice_empty1", "negatives": "as many as positives", "optimizer": "adam", "split": "mgca-by-image",
    "stop_patience": 20, "weight_decay": 1e-6,
}  # fmt: skip
_SIIM = _lovt(
    "unet-lovt-finetune", (1e-3, 64, 50), TUNED | {"frozen_steps": 100},
    "LoVT, SIIM: U-Net fine-tuned with the encoder after 100 steps without; Dice pooled over all pixels",
)  # fmt: skip

PROTOCOLS: tuple[Protocol, ...] = (
    _mgca(
        "unet-mgca-siim",
        {"batch_size": 8, "negatives": "as many as positives", "split": "mgca-by-image"},
        "MGCA, SIIM: U-Net (ViT: SETR) on the frozen encoder at 1, 10, 100 %; Dice per image, empty and empty = 1",
    ),
    _mgca(
        "unet-mgca-rsna",
        {"batch_size": 16, "split": "mgca"},
        "MGCA, RSNA: U-Net (ViT: SETR) on the frozen encoder at 1, 10, 100 %; Dice per image, empty and empty = 1",
    ),
    _mgca(
        "unet-gloria-siim",
        _GLORIA,
        "GLoRIA, SIIM: U-Net fine-tuned with the encoder and augmented, at 1, 10, 100 %; Dice per image, empty and empty = 1",
    ),
    _lovt("unet-lovt-frozen", (1e-3, 64, 50), {}, "LoVT, SIIM: U-Net on the frozen encoder; Dice pooled over all pixels"),
    _SIIM,
    _lovt(
        "unet-lovt-frozen-covid-rural", (3e-4, 8, 100), {},
        "LoVT, COVID Rural: U-Net on the frozen encoder; Dice pooled over all pixels",
    ),
    _lovt(
        "unet-lovt-finetune-covid-rural", (1e-4, 8, 100), TUNED | {"frozen_steps": 20},
        "LoVT, COVID Rural: U-Net fine-tuned with the encoder after 20 steps without; Dice pooled over all pixels",
    ),
    replace(
        _lovt("linear-lovt-rsna-1", (1e-2, 8, 500), LINEAR, "LoVT, RSNA: linear map of the last map, 1 % of the patients"),
        fractions=(0.01,),
    ),
    replace(
        _lovt("linear-lovt-rsna-10", (3e-2, 64, 100), LINEAR, "LoVT, RSNA: linear map of the last map, 10 % of the patients"),
        fractions=(0.1,),
    ),
    _lovt("linear-lovt-rsna", (1e-2, 64, 50), LINEAR, "LoVT, RSNA: linear map of the last map, all patients"),
    _lovt("linear-lovt", (1e-2, 64, 100), LINEAR, "LoVT, Object-CXR and NIH: linear map of the last map"),
    _lovt("linear-lovt-covid-rural", (3e-2, 8, 100), LINEAR, "LoVT, COVID Rural: linear map of the last map"),
    replace(
        _SIIM,
        name="unet-prior-5fold",
        primary="dice_nonempty",
        settings=tuple(sorted((dict(_SIIM.settings) | {"monitor": "dice_nonempty", "split": "prior-5fold"}).items())),
        summary="PRIOR's folds of SIIM's positives with LoVT's recipe, our choice since PRIOR states none; Dice per image",
    ),
)  # fmt: skip
