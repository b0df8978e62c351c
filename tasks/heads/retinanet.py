"""RetinaNet (Lin et al. 2017) of mmdet with a feature pyramid network.

Settings are those of open-mmlab/mmdetection@v3.3.0 configs/_base_/models/retinanet_r50_fpn.py at our widths and strides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.heads.box_head import Array, configured, load_mmdet, quiet
from tasks.heads.modern_boxes import ONE_STAGE_TEST, OneStageHead, assigner
from tasks.heads.pyramid import FeaturePyramid

BASE_SCALE = 2  # anchors of 2, 2.5 and 3.2 strides, 16 to 203 pixels; 4 at the 800 pixels that mmdet's settings are for


class RetinaNetHead(OneStageHead):
    """One stage: nine anchors a place at strides 8, 16, 32, 64, focal loss over all of them; a score is a sigmoid.

    mmdet's has stride 128 as well, for images of 800 pixels.

    Args:
        info: (channels, stride) of each native map. width: channels throughout. convolutions: stacked in the head.
        classes: number of box classes. size: of the square images in pixels.
    """

    STRIDES = (8, 16, 32)

    def __init__(self, info: Sequence[tuple[int, int]], width: int, convolutions: int, classes: int, size: int) -> None:
        super().__init__()
        library = load_mmdet()
        self.size = size
        self.pyramid = FeaturePyramid(info, self.STRIDES, width)
        self.neck = library["fpn"](in_channels=[width] * 3, out_channels=width, num_outs=4, add_extra_convs="on_input")
        settings = {
            "num_classes": classes,
            "in_channels": width,
            "feat_channels": width,
            "stacked_convs": convolutions,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "octave_base_scale": BASE_SCALE,
                "scales_per_octave": 3,
                "ratios": [0.5, 1.0, 2.0],
                "strides": [*self.STRIDES, 64],
            },
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [1.0] * 4},
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
            "train_cfg": {
                "assigner": assigner(0.5, 0.4, 0.0, low_quality=True),
                "sampler": {"type": "PseudoSampler"},
                "allowed_border": -1,
                "pos_weight": -1,
                "debug": False,
            },
            "test_cfg": ONE_STAGE_TEST,
        }
        self.head = library["retina"](**configured(settings))
        with quiet():
            self.neck.init_weights()
            self.head.init_weights()

    def losses(self, maps: Sequence[Tensor], boxes: Sequence[Array]) -> dict[str, Tensor]:
        """{"cls", "bbox"} scalars, sums over levels, means over positives. Maps (B, channels, h, w), boxes B x (n, 5)."""
        with quiet():
            terms = self.head.loss(self._levels(maps), self.samples(boxes, maps[0].device))
        return {name.removeprefix("loss_"): torch.stack(list(levels)).sum() for name, levels in terms.items()}
