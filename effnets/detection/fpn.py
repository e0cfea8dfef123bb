"""Faster R-CNN and RetinaNet of torchvision on a feature pyramid network over the zoo's maps."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from effnets.detection.detector import Detector, DetectorSettings
from effnets.errors import ArgumentError
from effnets.nn.features import FeaturePyramid

REDUCTIONS = (8, 16, 32)
# Torchvision's for its MobileNetV3: every size on every map.
_RCNN_SIZES = (32, 64, 128, 256, 512)
_RATIOS = (0.5, 1.0, 2.0)


class FPNBackbone(nn.Module):
    """Maps of equal width by name (FPN, arXiv:1612.03144): those of `body`, and coarser ones that torchvision adds.

    For Faster R-CNN the coarsest map is pooled once; for RetinaNet (arXiv:1708.02002) two convolutions add P6 and P7.
    """

    def __init__(self, body: FeaturePyramid, out_channels: int, *, retinanet: bool) -> None:
        super().__init__()
        channels = body.feature_info.channels()
        extra = LastLevelP6P7(channels[-1], out_channels) if retinanet else LastLevelMaxPool()
        self.body = body
        self.fpn = FeaturePyramidNetwork(channels, out_channels, extra_blocks=extra)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps: OrderedDict[str, Tensor] = self.fpn(
            OrderedDict((str(index), level) for index, level in enumerate(self.body(x)))
        )
        return maps


class FasterRCNN(TorchvisionFasterRCNN, Detector):  # type: ignore[misc]  # torchvision is untyped
    """Torchvision's Faster R-CNN (arXiv:1506.01497)."""


class RetinaNet(TorchvisionRetinaNet, Detector):  # type: ignore[misc]
    """Torchvision's RetinaNet (arXiv:1708.02002)."""


def build_faster_rcnn(body: FeaturePyramid, settings: DetectorSettings) -> FasterRCNN:
    """Build Faster R-CNN on the maps of `body`, which becomes part of it; the rest is newly initialized.

    Raises:
        ArgumentError: if the reductions of the maps do not double.
    """
    levels = len(_check_levels(body))
    sizes = (_RCNN_SIZES,) * (levels + 1)
    return FasterRCNN(
        FPNBackbone(body, settings.fpn_channels, retinanet=False),
        settings.num_classes,
        rpn_anchor_generator=AnchorGenerator(sizes, (_RATIOS,) * len(sizes)),
        box_roi_pool=MultiScaleRoIAlign([str(index) for index in range(levels)], output_size=7, sampling_ratio=2),
        box_score_thresh=settings.score_threshold,
        box_nms_thresh=settings.nms_threshold,
        box_detections_per_img=settings.max_detections,
        **_transform(body, settings),
    ).to(_weight(body))


def build_retinanet(body: FeaturePyramid, settings: DetectorSettings) -> RetinaNet:
    """Build RetinaNet on the maps of `body`; arguments and errors as of `build_faster_rcnn`.

    Anchors have three sizes on each map, from four times its stride on, as in the paper's section 4.
    """
    reductions = _check_levels(body)
    strides = [*reductions, 2 * reductions[-1], 4 * reductions[-1]]
    sizes = tuple(tuple(int(4 * stride * 2 ** (third / 3)) for third in range(3)) for stride in strides)
    return RetinaNet(
        FPNBackbone(body, settings.fpn_channels, retinanet=True),
        settings.num_classes,
        anchor_generator=AnchorGenerator(sizes, (_RATIOS,) * len(sizes)),
        score_thresh=settings.score_threshold,
        nms_thresh=settings.nms_threshold,
        detections_per_img=settings.max_detections,
        **_transform(body, settings),
    ).to(_weight(body))


def _check_levels(body: FeaturePyramid) -> list[int]:
    """Return the reductions of the maps, which pooling by the size of boxes wants to double."""
    reductions = body.feature_info.reduction()
    if len(reductions) < 2 or any(2 * fine != coarse for fine, coarse in pairwise(reductions)):
        found = ", ".join(map(str, reductions))
        raise ArgumentError(
            f"{body.spec.name}: the maps have the reductions {found}, and a detector needs two or more, each twice the "
            "one before; choose them with out_indices, and an output_stride of 32"
        )
    return reductions


def _transform(body: FeaturePyramid, settings: DetectorSettings) -> dict[str, Any]:
    preprocess = body.spec.preprocess.for_channels(3)
    return {
        "min_size": settings.image_size,
        "max_size": settings.max_size,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


def _weight(body: FeaturePyramid) -> Tensor:
    return next(body.parameters())
