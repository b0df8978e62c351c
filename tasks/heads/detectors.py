"""The detection head that a protocol names."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.types import Protocol
from tasks.heads.box_head import BoxHead
from tasks.heads.fit import numbers


def build_head(protocol: Protocol, info: Sequence[tuple[int, int]], classes: int, size: int) -> BoxHead:
    """A head with weights drawn from the global torch generator.

    Args:
        protocol: its setting "head" is "yolov3" (also where there is none), "yolov3-by-scale", "fcos", "retinanet" or
            "faster-rcnn".
        info: (channels, stride) of each native map. classes: number of box classes. size: of the square images in pixels.

    Raises:
        ValueError: another head.
    """
    name, width = dict(protocol.settings).get("head", "yolov3"), protocol.setting("pyramid_width")
    if name == "fcos":
        from tasks.heads.modern_boxes import FcosHead

        return FcosHead(info, width, protocol.setting("convolutions"), classes, size)
    if name == "faster-rcnn":
        from tasks.heads.modern_boxes import FasterRcnnHead

        return FasterRcnnHead(info, width, protocol.setting("hidden"), classes, size)
    if name == "retinanet":
        from tasks.heads.retinanet import RetinaNetHead

        return RetinaNetHead(info, width, protocol.setting("convolutions"), classes, size)
    from tasks.heads.yolo import YoloHead, YoloOptions
    from tasks.heads.yolo_by_scale import YoloByScale

    kinds = {"yolov3": YoloHead, "yolov3-by-scale": YoloByScale}
    if name not in kinds:
        raise ValueError(
            f"protocol {protocol.name} names head {name!r}; use {', '.join(kinds)}, fcos, retinanet or faster-rcnn"
        )
    return kinds[name](info, width, numbers(protocol, "neck_channels"), classes, size, YoloOptions.of(protocol))
