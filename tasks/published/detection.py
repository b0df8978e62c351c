"""Detection protocols of papers, and mmdet's modern heads, as literals. A change of any value needs a new version.

Sources, and what differs from them: docs/protocols-detection.md. The split is chosen beside the protocol, by `--split`.
"""

from __future__ import annotations

from benchmark.types import Protocol, Scalar

FRACTIONS = (0.01, 0.1, 1.0)  # of the training patients


def _literal(name: str, primary: str, summary: str, **settings: Scalar) -> Protocol:
    return Protocol(
        name=name,
        version=1,
        task="detection",
        primary=primary,
        fractions=FRACTIONS,
        settings=tuple(sorted(settings.items())),
        summary=summary,
    )


def _yolo(name: str, summary: str, **settings: Scalar) -> Protocol:
    """What LoVT's and MGCA's code have in common."""
    return _literal(
        name,
        "map40_75",
        summary,
        clip_norm=10.0,
        direct=True,
        evaluations=20,
        head="yolov3-by-scale",
        ignore=0.5,
        loss_cls=1.0,
        loss_conf=1.0,
        loss_wh=2.5,
        loss_xy=2.5,
        neck_channels="512,256,128",
        pyramid_width=256,
        steps=10000,
        train_rows=None,
        weight_decay=1e-6,
        **settings,
    )


def _modern(name: str, summary: str, **settings: Scalar) -> Protocol:
    return _literal(
        name,
        "map50",
        summary,
        batch_size=16,
        clip_norm=10.0,
        evaluations=10,
        learning_rate=5e-4,
        pyramid_width=256,
        steps=10000,
        train_rows=None,
        weight_decay=0.01,
        **settings,
    )


PROTOCOLS: tuple[Protocol, ...] = (
    _yolo(
        "yolov3-mgca",
        "MGCA's YOLOv3 on the frozen encoder: COCO anchors, confidence 0.5, NMS 0.5; mAP over IoU .40-.75, every image",
        anchors="coco",
        batch_size=16,
        confidence=0.5,
        filtered_confidence=0.5,
        learning_rate=5e-4,
        nms_iou=0.5,
    ),
    _yolo(
        "yolov3-lovt",
        "LoVT's YOLOv3 on the frozen encoder: its anchors, confidence 0.2, NMS 0.4; mAP over IoU .40-.75, and FROC",
        anchors="lovt",
        batch_size=64,
        confidence=0.2,
        learning_rate=1e-3,
        nms_iou=0.4,
    ),
    _yolo(
        "yolov3-prior-5fold",
        "our choice where PRIOR is silent: LoVT's head at batch 16, for the folds of images with boxes (--split prior-5fold:K)",
        anchors="lovt",
        batch_size=16,
        confidence=0.2,
        learning_rate=1e-3,
        nms_iou=0.4,
    ),
    _modern(
        "fcos-frozen",
        "mmdet's FCOS with a feature pyramid network on the frozen encoder; COCO AP in original pixels, every image counts",
        convolutions=4,
        head="fcos",
    ),
    _modern(
        "faster-rcnn-frozen",
        "mmdet's Faster R-CNN with a feature pyramid network on the frozen encoder; COCO AP in original pixels",
        head="faster-rcnn",
        hidden=1024,
    ),
)
