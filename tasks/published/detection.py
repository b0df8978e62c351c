"""Detection protocols of papers, and mmdet's modern heads, as literals. A change of any value needs a new version.

Sources, and what differs from them: docs/protocols-detection.md. `split` names the rule of `--split` that belongs to the
numbers; on other rows the protocol runs as well, and the result says so.
"""

from __future__ import annotations

from benchmark.types import Protocol, Scalar

# LoVT's and MGCA's code have these in common
YOLO: dict[str, Scalar] = {
    "clip_norm": None,
    "direct": True,
    "encoder": "frozen",
    "freeze_bn": True,
    "head": "yolov3-by-scale",
    "ignore": 0.5,
    "loss_cls": 1.0,
    "loss_conf": 1.0,
    "loss_wh": 2.5,
    "loss_xy": 2.5,
    "monitor": "map40_75",
    "neck_channels": "512,256,128",
    "pyramid_width": 256,
    "stop_patience": 10,
    "train_rows": None,
    "weight_decay": 1e-6,
}

MGCA: dict[str, Scalar] = YOLO | {
    "anchors": "coco",
    "batch_size": 16,
    "confidence": 0.5,
    "epochs": 50,
    "filtered_confidence": 0.5,
    "learning_rate": 5e-4,
    "nms_iou": 0.5,
    "optimizer": "adamw",
    "split": "mgca",
}

LOVT: dict[str, Scalar] = YOLO | {
    "anchors": "lovt",
    "confidence": 0.2,
    "nms_iou": 0.4,
    "optimizer": "adam",
    "plateau": "map40_75",
    "plateau_factor": 0.5,
    "plateau_patience": 3,
    "split": "lovt-sizes",
}

TUNED: dict[str, Scalar] = {"encoder": "finetune", "freeze_bn": False, "frozen_learning_rate": 1e-3, "frozen_steps": 100}
FROC: dict[str, Scalar] = {"monitor": "froc", "plateau": "froc"}

MODERN: dict[str, Scalar] = {
    "batch_size": 16,
    "clip_norm": 10.0,
    "evaluations": 10,
    "learning_rate": 5e-4,
    "pyramid_width": 256,
    "steps": 10000,
    "train_rows": None,
    "weight_decay": 0.01,
}


def _literal(name: str, primary: str, settings: dict[str, Scalar], fractions: tuple[float, ...], summary: str) -> Protocol:
    return Protocol(
        name=name,
        version=2 if settings.get("encoder") == "finetune" else 1,  # 2: batches in parts, and fp16, train the encoder too
        task="detection",
        primary=primary,
        fractions=fractions,
        settings=tuple(sorted(settings.items())),
        summary=summary,
    )


def _mgca(name: str, changes: dict[str, Scalar], fractions: tuple[float, ...], summary: str) -> Protocol:
    return _literal(name, "map40_75", MGCA | changes, fractions, f"MGCA: YOLOv3 on the frozen encoder; {summary}")


def _lovt(name: str, rates: tuple[float, int, int], changes: dict[str, Scalar], fraction: float, summary: str) -> Protocol:
    """rates: learning rate, batch size, epochs."""
    fixed: dict[str, Scalar] = {"learning_rate": rates[0], "batch_size": rates[1], "epochs": rates[2]}
    settings = LOVT | fixed | changes
    return _literal(name, str(settings["monitor"]), settings, (fraction,), f"LoVT: YOLOv3 {summary}")


PROTOCOLS: tuple[Protocol, ...] = (
    _mgca("yolov3-mgca", {}, (0.1, 1.0), "RSNA, Object-CXR at 10 and 100 %; mAP over IoU .40-.75, every image counts"),
    _mgca("yolov3-mgca-rsna-1", {"batch_size": 8, "learning_rate": 2e-4}, (0.01,), "RSNA at 1 %"),
    _mgca("yolov3-mgca-object-cxr-1", {"batch_size": 8, "learning_rate": 2.5e-4}, (0.01,), "Object-CXR at 1 %"),
    _lovt("yolov3-lovt", (1e-3, 64, 50), {}, 1.0, "on the frozen encoder, RSNA; mAP over IoU .40-.75, every image counts"),
    _lovt("yolov3-lovt-10", (1e-3, 64, 100), {}, 0.1, "on the frozen encoder, RSNA at 10 %"),
    _lovt("yolov3-lovt-1", (1e-3, 8, 500), {}, 0.01, "on the frozen encoder, RSNA at 1 %"),
    _lovt("yolov3-lovt-finetune", (1e-4, 64, 50), TUNED, 1.0, "fine-tuned with the encoder after 100 steps without, RSNA"),
    _lovt("yolov3-lovt-finetune-10", (3e-4, 64, 100), TUNED, 0.1, "fine-tuned with the encoder, RSNA at 10 %"),
    _lovt("yolov3-lovt-finetune-1", (1e-4, 8, 500), TUNED, 0.01, "fine-tuned with the encoder, RSNA at 1 %"),
    _lovt("yolov3-lovt-object-cxr", (1e-3, 64, 100), FROC, 1.0, "on the frozen encoder, Object-CXR; FROC"),
    _lovt("yolov3-lovt-object-cxr-finetune", (3e-4, 64, 100), FROC | TUNED, 1.0, "fine-tuned, Object-CXR; FROC"),
    _lovt(
        "yolov3-prior-5fold", (1e-3, 64, 50), {"split": "prior-5fold"}, 1.0,
        "on the frozen encoder, for the folds of images with boxes: our choice, since PRIOR states no recipe",
    ),
    _literal(
        "fcos-frozen", "map50", MODERN | {"convolutions": 4, "head": "fcos"}, (0.01, 0.1, 1.0),
        "mmdet's FCOS with a feature pyramid network on the frozen encoder; COCO AP in original pixels, every image counts",
    ),
    _literal(
        "retinanet-frozen", "map50", MODERN | {"convolutions": 4, "head": "retinanet"}, (0.01, 0.1, 1.0),
        "mmdet's RetinaNet with a feature pyramid network on the frozen encoder; COCO AP, every image counts",
    ),
    _literal(
        "faster-rcnn-frozen", "map50", MODERN | {"head": "faster-rcnn", "hidden": 1024}, (0.01, 0.1, 1.0),
        "mmdet's Faster R-CNN with a feature pyramid network on the frozen encoder; COCO AP, every image counts",
    ),
)  # fmt: skip
