"""The protocols of the two dense families, as literals; a number changed here is another hash on the board."""

from __future__ import annotations

from dataclasses import replace

from benchmark.types import Protocol

FRACTIONS = (0.01, 0.1, 1.0)  # of the training patients, as the field reports masks and boxes


def _linear(name: str, steps: int, train_rows: int | None, evaluations: int, reference_size: int) -> Protocol:
    """The linear evaluation of segmentation at one size."""
    return Protocol(
        name=name,
        version=1,
        task="segmentation",
        primary="dice_empty1",
        settings=(
            ("batch_size", 16),
            ("clip_norm", 1.0),
            ("evaluations", evaluations),
            ("head", "linear"),
            ("learning_rate", 1e-2),
            ("reference_size", reference_size),
            ("steps", steps),
            ("train_rows", train_rows),
            ("weight_decay", 0.01),
        ),
        summary="a linear map from positions of the frozen encoder to masks, resampled to the image: what the features know",
    )


SEGMENTATION: dict[str, tuple[Protocol, ...]] = {
    "quick": (
        Protocol(
            name="unet-frozen-quick",
            version=1,
            task="segmentation",
            primary="dice_empty1",
            settings=(
                ("batch_size", 16),
                ("clip_norm", 1.0),
                ("decoder_channels", "32,24,16"),
                ("evaluations", 0),
                ("learning_rate", 3e-3),
                ("pyramid_strides", "4,8,16"),
                ("pyramid_width", 32),
                ("reference_size", 64),
                ("steps", 200),
                ("train_rows", 400),
                ("weight_decay", 0.01),
            ),
            summary="small U-Net decoder on the frozen encoder; Dice per image in original pixels, empty and empty = 1",
        ),
        _linear("linear-masks-quick", 200, 400, 0, 64),
    ),
    "small": (
        Protocol(
            name="unet-frozen-small",
            version=2,
            task="segmentation",
            primary="dice_empty1",
            fractions=FRACTIONS,
            settings=(
                ("batch_size", 16),
                ("clip_norm", 1.0),
                ("decoder_channels", "64,48,32"),
                ("evaluations", 5),
                ("learning_rate", 2e-3),
                ("pyramid_strides", "4,8,16"),
                ("pyramid_width", 64),
                ("reference_size", 128),
                ("steps", 1000),
                ("train_rows", None),
                ("weight_decay", 0.01),
            ),
            summary="U-Net decoder of reduced width on the frozen encoder; 1, 10, 100 % of the patients; best of five on val",
        ),
        replace(_linear("linear-masks-small", 1000, None, 5, 128), version=2, fractions=FRACTIONS),
    ),
    "paper": (
        Protocol(
            name="unet-frozen",
            version=1,
            task="segmentation",
            primary="dice_empty1",
            fractions=FRACTIONS,
            settings=(
                ("batch_size", 16),
                ("clip_norm", 1.0),
                ("decoder_channels", "256,128,64,32,16"),
                ("evaluations", 10),
                ("learning_rate", 5e-4),
                ("pyramid_strides", "2,4,8,16,32"),
                ("pyramid_width", 256),
                ("reference_size", 224),
                ("steps", 10000),
                ("train_rows", None),
                ("weight_decay", 0.05),
            ),
            summary="U-Net decoder (256, 128, 64, 32, 16) on the frozen encoder at 1, 10 and 100 % of the patients",
        ),
        replace(_linear("linear-masks", 10000, None, 10, 224), fractions=FRACTIONS),
    ),
}

DETECTION: dict[str, tuple[Protocol, ...]] = {
    "quick": (
        Protocol(
            name="yolov3-frozen-quick",
            version=1,
            task="detection",
            primary="map50",
            settings=(
                ("batch_size", 16),
                ("clip_norm", 10.0),
                ("evaluations", 0),
                ("learning_rate", 3e-3),
                ("neck_channels", "64,32,16"),
                ("pyramid_width", 32),
                ("steps", 200),
                ("train_rows", 400),
                ("weight_decay", 0.01),
            ),
            summary="small YOLOv3 neck and head on the frozen encoder; COCO AP in original pixels, every image counts",
        ),
    ),
    "small": (
        Protocol(
            name="yolov3-frozen-small",
            version=2,
            task="detection",
            primary="map50",
            fractions=FRACTIONS,
            settings=(
                ("batch_size", 16),
                ("clip_norm", 10.0),
                ("evaluations", 5),
                ("learning_rate", 2e-3),
                ("neck_channels", "128,64,32"),
                ("pyramid_width", 64),
                ("steps", 1000),
                ("train_rows", None),
                ("weight_decay", 0.01),
            ),
            summary="YOLOv3 head of reduced width on the frozen encoder; 1, 10, 100 % of the patients; best of five on val",
        ),
    ),
    "paper": (
        Protocol(
            name="yolov3-frozen",
            version=1,
            task="detection",
            primary="map50",
            fractions=FRACTIONS,
            settings=(
                ("batch_size", 16),
                ("clip_norm", 10.0),
                ("evaluations", 10),
                ("learning_rate", 5e-4),
                ("neck_channels", "512,256,128"),
                ("pyramid_width", 256),
                ("steps", 10000),
                ("train_rows", None),
                ("weight_decay", 1e-6),
            ),
            summary="YOLOv3 neck (512, 256, 128) and head on the frozen encoder at 1, 10 and 100 % of the patients",
        ),
    ),
}
