"""SSDLite: the modules of its plan, put together as torchvision's `SSD`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDScoringHead

from effnets.detection.detector import Detector, DetectorSettings
from effnets.detection.plan import COARSE, FINE, ExtraPlan, PredictorPlan, SSDLitePlan, plan_ssdlite
from effnets.nn.blocks import InvertedResidual, LinearBottleneck
from effnets.nn.build import Parts
from effnets.nn.classifier import Classifier
from effnets.nn.features import FeaturePyramid
from effnets.spec.plan import FeaturePlan

_CANDIDATES = 300  # boxes of a class that enter non-maximum suppression, as in torchvision's ssdlite320
_INITIAL_STD = 0.03  # of the weights of extras and predictors, as in the TF Object Detection API
_MIN_SCALE, _MAX_SCALE = 0.2, 0.95


class SSDLiteBody(FeaturePyramid):
    """The zoo's network for SSDLite: two maps, of strides 16 and 32.

    The first is the expansion of the first block of stride 32, or that block's input; the second the output of the head
    convolution, or of the last stage in a network without one.
    """

    def __init__(self, network: Classifier | FeaturePyramid, plan: SSDLitePlan) -> None:
        levels = tuple(
            FeaturePlan(stage=stage, channels=channels, reduction=reduction)
            for stage, channels, reduction in zip(
                (plan.tap, len(network.stages) - 1), plan.channels, (FINE, COARSE), strict=False
            )
        )
        super().__init__(
            spec=network.spec, plan=replace(plan.network, features=levels), stem=network.stem, stages=network.stages
        )
        self.load_report = network.load_report
        self.head = network.head if isinstance(network, Classifier) else nn.Identity()
        self.tap = plan.tap
        self.expanded = plan.expanded

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        fine = x
        for index, stage in enumerate(self.stages):
            if index == self.tap:
                fine, x = self._forward_tapped(stage, x)
            else:
                x = stage(x)
        return [fine, self.head(x)]

    def _forward_tapped(self, stage: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the finest map and the output of the stage that it is within."""
        assert isinstance(stage, nn.Sequential), "the builder makes no other"
        fine = x
        for index, block in enumerate(stage):
            if index == 0 and self.expanded:
                assert isinstance(block, InvertedResidual | LinearBottleneck), "only these have an expansion"
                fine = block.expand(x)
                x = block.forward_expanded(fine)  # with its stride the block has no shortcut
            else:
                x = block(x)
        return fine, x


class SSDLiteBackbone(nn.Module):
    """The six maps by name, ``[N, C, S / 16, S / 16]`` and half the side each time."""

    def __init__(self, body: SSDLiteBody, extras: Sequence[nn.Module], channels: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.extras = nn.ModuleList(extras)
        self.out_channels = list(channels)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.body(x)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return OrderedDict((str(index), level) for index, level in enumerate(maps))


class SSDLiteHead(nn.Module):
    """Class logits ``[N, A, num_classes]`` and offsets ``[N, A, 4]`` of all A anchors, as torchvision's SSD wants."""

    def __init__(self, classes: Sequence[nn.Module], boxes: Sequence[nn.Module], num_classes: int) -> None:
        super().__init__()
        self.classification_head = SSDScoringHead(nn.ModuleList(classes), num_classes)
        self.regression_head = SSDScoringHead(nn.ModuleList(boxes), 4)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        return {"bbox_regression": self.regression_head(maps), "cls_logits": self.classification_head(maps)}


class SSDAnchors(DefaultBoxGenerator):  # type: ignore[misc]  # torchvision is untyped
    """The anchors of the TF Object Detection API's ``ssd_anchor_generator``, as in ``ssdlite_mobilenet_v2_coco``.

    Scales rise from 0.2 to 0.95 of the image's side. Each place has boxes of the aspect ratios 1, 2, 1/2, 3 and 1/3 and
    a square of the geometric mean of this scale and the next; the finest map only a square of 0.1 and boxes of ratios 2
    and 1/2. No side is clipped. torchvision's ssdlite320 differs: six boxes on the finest map too, and no side over 1.
    """

    def __init__(self, levels: int) -> None:
        super().__init__([[2, 3]] * levels, min_ratio=_MIN_SCALE, max_ratio=_MAX_SCALE, clip=False)
        scale, root = self.scales[0], 2**0.5
        sides = [[0.1, 0.1], [scale * root, scale / root], [scale / root, scale * root]]
        self._wh_pairs[0] = torch.tensor(sides, dtype=self._wh_pairs[0].dtype)

    def num_anchors_per_location(self) -> list[int]:
        """Return the number of boxes at each place of each map."""
        return [len(pairs) for pairs in self._wh_pairs]


class SSDLite(SSD, Detector):  # type: ignore[misc]
    """SSDLite (MobileNetV2, arXiv:1801.04381, section 6.2) with torchvision's matching, losses and postprocessing."""


def build_ssdlite(network: Classifier | FeaturePyramid, settings: DetectorSettings) -> SSDLite:
    """Build the detector on `network`, whose modules become part of it; extras and head are newly initialized.

    Raises:
        ArgumentError: as `plan_ssdlite`.
    """
    plan = plan_ssdlite(network.spec, network.plan, settings.num_classes)
    weight = next(network.stem.parameters())
    parts = Parts(network.spec, weight.device, weight.dtype)
    extras = [_build_extra(extra, parts) for extra in plan.extras]
    head = SSDLiteHead(
        [_build_predictor(predictor, parts) for predictor in plan.classes],
        [_build_predictor(predictor, parts) for predictor in plan.boxes],
        settings.num_classes,
    )
    for module in (*extras, head):
        _initialize(module)
    preprocess = network.spec.preprocess.for_channels(3)
    anchors = SSDAnchors(len(plan.anchors))
    assert tuple(anchors.num_anchors_per_location()) == plan.anchors, "plan and anchors are of one design"
    return SSDLite(
        SSDLiteBackbone(SSDLiteBody(network, plan), extras, plan.channels),
        anchors,
        (settings.image_size, settings.image_size),
        settings.num_classes,
        image_mean=list(preprocess.mean),
        image_std=list(preprocess.std),
        head=head,
        score_thresh=settings.score_threshold,
        nms_thresh=settings.nms_threshold,
        detections_per_img=settings.max_detections,
        topk_candidates=_CANDIDATES,
    )


def _build_extra(plan: ExtraPlan, parts: Parts) -> nn.Sequential:
    return nn.Sequential(*(parts.conv_bn_act((conv,), "relu6") for conv in plan.convolutions))


def _build_predictor(plan: PredictorPlan, parts: Parts) -> nn.Sequential:
    return nn.Sequential(parts.conv_bn_act((plan.depthwise,), "relu6"), parts.conv(plan.pointwise, bias=True))


def _initialize(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and not part.weight.is_meta:
            nn.init.normal_(part.weight, 0.0, _INITIAL_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
