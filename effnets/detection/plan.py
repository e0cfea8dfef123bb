"""Every convolution of an SSDLite detector with its numbers, and what they cost. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from effnets.errors import ArgumentError
from effnets.spec.cost import Cost, conv_bn_cost, stage_costs, strided_size, sum_costs
from effnets.spec.models import load_spec
from effnets.spec.plan import ConvPlan, FeaturePlan, NetworkPlan, make_plan
from effnets.spec.specs import ModelSpec
from effnets.utils.arguments import check_integer, check_size

FINE, COARSE = 16, 32  # reductions of the two maps that the network itself provides
_EXTRA_CHANNELS = (512, 256, 256, 128)
_MIN_CHANNELS = 16
_ANCHORS = (3, 6, 6, 6, 6, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraPlan:
    """A map of half the size: 1×1 to half the channels, depthwise 3×3 of stride 2, 1×1; each with BN and ReLU6."""

    squeeze: ConvPlan
    depthwise: ConvPlan
    expand: ConvPlan

    @property
    def convolutions(self) -> tuple[ConvPlan, ConvPlan, ConvPlan]:
        """The three, in the order in which they run."""
        return self.squeeze, self.depthwise, self.expand


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorPlan:
    """What predicts on one map: depthwise 3×3 with BN and ReLU6, then 1×1 with bias."""

    depthwise: ConvPlan
    pointwise: ConvPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class SSDLitePlan:
    """An SSDLite detector (MobileNetV2, arXiv:1801.04381, section 6.2).

    Attributes:
        network: the classifier's network without its classifier.
        tap: the stage whose block expands the finest map; that map is the expansion of the stage's first block, where
            `expanded`, else the input of that block, which has no expansion (MobileNetV1).
        channels: of each map, from the finest to the coarsest.
        extras: the maps after the network's last.
        anchors: boxes at each place of each map.
        boxes, classes: the predictors on each map.
    """

    network: NetworkPlan
    tap: int
    expanded: bool
    channels: tuple[int, ...]
    extras: tuple[ExtraPlan, ...]
    anchors: tuple[int, ...]
    boxes: tuple[PredictorPlan, ...]
    classes: tuple[PredictorPlan, ...]


def check_num_classes(num_classes: object) -> int:
    """Return the number of classes of a detector, background included; raises ArgumentError if it is below 2."""
    hint = "as in torchvision it includes the background, label 0: give at least 2 (COCO: 91)"
    return check_integer("num_classes", num_classes, 2, hint)


def plan_ssdlite(spec: ModelSpec, network: NetworkPlan, num_classes: int) -> SSDLitePlan:
    """Plan SSDLite on `network`, the plan of `spec`.

    The finest map is the expansion of the first block of stride 32, of stride 16 itself (MobileNetV2's layer 15); of a
    block without expansion, its input. The second is the network's last map, after its head convolution if it has one.
    Four further maps of 512, 256, 256 and 128 channels, times the width multiplier, halve the resolution.

    Raises:
        ArgumentError: if the network has no maps of these reductions, or `num_classes` is below 2.
    """
    num_classes = check_num_classes(num_classes)
    fine = _level(spec, network, FINE)
    _level(spec, network, COARSE)
    block = network.stages[fine.stage + 1][0]
    network = replace(network, num_classes=0, hidden_channels=0)
    widths = [max(_MIN_CHANNELS, int(channels * spec.width)) for channels in _EXTRA_CHANNELS]
    channels = (block.expanded_channels if block.expand else fine.channels, network.num_features, *widths)
    return SSDLitePlan(
        network=network,
        tap=fine.stage + 1,
        expanded=bool(block.expand),
        channels=channels,
        extras=tuple(_plan_extra(inputs, outputs) for inputs, outputs in zip(channels[1:], widths, strict=False)),
        anchors=_ANCHORS,
        boxes=_plan_predictors(channels, 4),
        classes=_plan_predictors(channels, num_classes),
    )


def _level(spec: ModelSpec, network: NetworkPlan, reduction: int) -> FeaturePlan:
    levels = {level.reduction: level for level in network.features}
    if reduction not in levels:
        found = ", ".join(map(str, levels))
        raise ArgumentError(
            f"{spec.name}: has maps of reduction {found}, and SSDLite needs {FINE} and {COARSE}; take another "
            "backbone, with its output_stride of 32"
        )
    return levels[reduction]


def _plan_extra(in_channels: int, out_channels: int) -> ExtraPlan:
    middle = out_channels // 2
    return ExtraPlan(
        squeeze=ConvPlan(in_channels=in_channels, out_channels=middle, kernel_size=1),
        depthwise=_depthwise(middle, stride=2),
        expand=ConvPlan(in_channels=middle, out_channels=out_channels, kernel_size=1),
    )


def _plan_predictors(channels: Sequence[int], values: int) -> tuple[PredictorPlan, ...]:
    return tuple(
        PredictorPlan(
            depthwise=_depthwise(inputs),
            pointwise=ConvPlan(in_channels=inputs, out_channels=anchors * values, kernel_size=1),
        )
        for inputs, anchors in zip(channels, _ANCHORS, strict=True)
    )


def _depthwise(channels: int, stride: int = 1) -> ConvPlan:
    return ConvPlan(in_channels=channels, out_channels=channels, kernel_size=3, stride=stride, groups=channels)


def count_ssdlite(
    backbone: str | os.PathLike[str] | ModelSpec, *, num_classes: int = 91, image_size: int | tuple[int, int] = 320
) -> Cost:
    """Count the parameters and multiply-adds of an SSDLite detector, as `effnets.count` those of a classifier.

    Args:
        backbone: a name of the zoo, a YAML file, or a spec.
        num_classes: with the background; 91 for COCO.
        image_size: side of the input in pixels, or (height, width).

    Raises:
        UnknownModelError, ConfigError: as `effnets.load_spec`. ArgumentError: as `plan_ssdlite`; or if `image_size` is
            not a size.
    """
    spec = load_spec(backbone)
    plan = plan_ssdlite(spec, make_plan(spec, num_classes=0), num_classes)
    stages = stage_costs(plan.network, check_size(image_size, "image_size"))
    sizes = [stages[plan.tap].size, stages[-1].size]  # the stem comes first, so that this is the stage before the tap
    cost = sum_costs(stages)
    for extra in plan.extras:
        cost += conv_bn_cost((extra.squeeze,), sizes[-1])
        sizes.append(strided_size(sizes[-1], extra.depthwise.stride))
        cost += conv_bn_cost((extra.depthwise, extra.expand), sizes[-1])
    for predictors in (plan.boxes, plan.classes):
        for predictor, size in zip(predictors, sizes, strict=True):
            cost += conv_bn_cost((predictor.depthwise,), size) + _biased(predictor.pointwise, size)
    return cost


def _biased(conv: ConvPlan, size: tuple[int, int]) -> Cost:
    return Cost(params=conv.weights + conv.out_channels, madds=conv.weights * size[0] * size[1])
