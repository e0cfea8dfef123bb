"""Build modules from a `NetworkPlan`: the only file that joins descriptions and modules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import nn

from effnets.errors import ArgumentError
from effnets.nn.blocks import Block, ConvBlock, DepthwiseSeparable, InvertedResidual, LinearBottleneck
from effnets.nn.classifier import Classifier
from effnets.nn.features import FeaturePyramid, select_levels
from effnets.nn.layers import Conv2d, ConvBNAct, DropPath, Linear, MixedConv, SqueezeExcite, activation
from effnets.nn.utils import initialize
from effnets.spec.plan import BlockPlan, ConvGroups, ConvPlan, NetworkPlan, make_plan
from effnets.spec.specs import Activation, ModelSpec

_CONV_NUMBERS = tuple(field.name for field in fields(ConvPlan))


def build_classifier(
    spec: ModelSpec,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float | None = None,
    drop_path_rate: float = 0.0,
    global_pool: str = "avg",
    output_stride: int = 32,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    initialized: bool = True,
) -> Classifier:
    """Build the classifier that `spec` describes.

    Args:
        spec: the network.
        num_classes, in_chans, output_stride: as `effnets.spec.plan.make_plan`.
        drop_rate: dropout before the classifier; None takes the spec's.
        drop_path_rate: stochastic depth, rising linearly from 0 at the first block to this at the last, as in the paper
            (arXiv:1603.09382); timm's EfficientNet stops a step below it.
        global_pool: ``avg``, ``max``, ``avgmax`` or ``none``.
        device, dtype: of the parameters; None takes torch's defaults.
        initialized: False leaves the weights unset, for weights loaded afterwards.

    Raises:
        ArgumentError, ConfigError: as `make_plan`; or if a rate is outside of 0..1.
    """
    drop_rate = _check_rate("drop_rate", spec.drop_rate if drop_rate is None else drop_rate)
    plan = make_plan(spec, in_chans=in_chans, num_classes=num_classes, output_stride=output_stride)
    spec = replace(spec, num_classes=plan.num_classes)
    parts = Parts(spec, device, dtype)
    head = hidden = classifier = None
    if plan.head:
        head = parts.conv_bn_act((plan.head,), spec.activation)
    if plan.hidden_channels:
        hidden = parts.conv_bn_act(
            (ConvPlan(in_channels=plan.num_features, out_channels=plan.hidden_channels, kernel_size=1),),
            spec.activation,
            bias=True,
        )
    if plan.num_classes:
        classifier = Linear(plan.pre_logits_channels, plan.num_classes, device=device, dtype=dtype)
    model = Classifier(
        spec=spec,
        plan=plan,
        stem=parts.conv_bn_act((plan.stem,), spec.activation),
        stages=_build_stages(plan, parts, _drop_path_rates(plan, drop_path_rate)),
        head=head,
        hidden=hidden,
        classifier=classifier,
        global_pool=global_pool,
        drop_rate=drop_rate,
    )
    if initialized:
        initialize(model)
    return model


def build_features(
    spec: ModelSpec,
    *,
    out_indices: int | Sequence[int] | None = None,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    output_stride: int = 32,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    initialized: bool = True,
) -> FeaturePyramid:
    """Build the feature pyramid of `spec`; `out_indices` picks levels (None: all), the rest as `build_classifier`.

    Raises:
        ArgumentError, ConfigError: as `build_classifier`; or if a level does not exist.
    """
    plan = make_plan(spec, in_chans=in_chans, num_classes=0, output_stride=output_stride)
    levels = select_levels(plan.features, out_indices)
    drop_path_rates = _drop_path_rates(plan, drop_path_rate)
    plan = replace(plan, stages=plan.stages[: levels[-1].stage + 1], head=None, hidden_channels=0, features=levels)
    parts = Parts(spec, device, dtype)
    model = FeaturePyramid(
        spec=spec,
        plan=plan,
        stem=parts.conv_bn_act((plan.stem,), spec.activation),
        stages=_build_stages(plan, parts, drop_path_rates),
    )
    if initialized:
        initialize(model)
    return model


def _check_rate(name: str, rate: float) -> float:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise ArgumentError(f"{name} is {rate!r}; it must be a number from 0 to below 1")
    return rate


@dataclass(frozen=True, slots=True)
class Parts:
    """Makes layers with the settings that all layers of a network share."""

    spec: ModelSpec
    device: torch.device | None
    dtype: torch.dtype | None

    def conv(self, plan: ConvPlan, bias: bool = False) -> Conv2d:
        numbers = {name: getattr(plan, name) for name in _CONV_NUMBERS}  # asdict copies deeply, which is slow
        return Conv2d(**numbers, bias=bias, padding=self.spec.padding, device=self.device, dtype=self.dtype)

    def bn(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(
            channels,
            eps=self.spec.bn_eps,
            momentum=self.spec.bn_momentum,
            device=self.device,
            dtype=self.dtype,
        )

    def conv_bn_act(self, groups: ConvGroups, act: Activation | None, bias: bool = False) -> ConvBNAct:
        """Make the three layers; `act` None leaves the output linear."""
        convs = [self.conv(plan, bias) for plan in groups]
        return ConvBNAct(
            convs[0] if len(convs) == 1 else MixedConv(convs),
            self.bn(sum(plan.out_channels for plan in groups)),
            activation(act) if act else None,
        )

    def squeeze_excite(self, channels: int, squeezed: int, act: Activation, norm: bool = False) -> SqueezeExcite:
        return SqueezeExcite(
            self.conv(ConvPlan(in_channels=channels, out_channels=squeezed, kernel_size=1), bias=True),
            self.bn(squeezed) if norm else None,
            activation(act),
            self.conv(ConvPlan(in_channels=squeezed, out_channels=channels, kernel_size=1), bias=True),
        )


def _drop_path_rates(plan: NetworkPlan, last: float) -> list[float]:
    """Drop rate of each block of the whole network, from 0 at the first to `last`."""
    last = _check_rate("drop_path_rate", last)
    steps = max(1, sum(1 for _ in plan.blocks) - 1)
    return [last * index / steps for index, _ in enumerate(plan.blocks)]


def _build_stages(plan: NetworkPlan, parts: Parts, drop_path_rates: Iterable[float]) -> nn.Sequential:
    rates = iter(drop_path_rates)
    return nn.Sequential(
        *(nn.Sequential(*(_build_block(block, parts, next(rates)) for block in blocks)) for blocks in plan.stages)
    )


def _build_block(plan: BlockPlan, parts: Parts, drop_path_rate: float) -> Block:
    act = plan.activation
    drop_path = DropPath(drop_path_rate) if drop_path_rate and plan.shortcut else None
    if plan.type == "cn":
        return ConvBlock(parts.conv_bn_act(plan.convolution, act), shortcut=plan.shortcut, drop_path=drop_path)
    if plan.type == "lb":
        return _build_linear_bottleneck(plan, parts, drop_path)
    se = None
    if plan.squeeze_channels:
        se = parts.squeeze_excite(plan.expanded_channels, plan.squeeze_channels, act)
    depthwise = parts.conv_bn_act(plan.convolution, act)
    if plan.type == "ir":
        return InvertedResidual(
            parts.conv_bn_act(plan.expand, act),
            depthwise,
            se,
            parts.conv_bn_act(plan.project, None),
            shortcut=plan.shortcut,
            drop_path=drop_path,
        )
    project = parts.conv_bn_act(plan.project, act if plan.type == "dsa" else None)
    return DepthwiseSeparable(depthwise, se, project, shortcut=plan.shortcut, drop_path=drop_path)


def _build_linear_bottleneck(plan: BlockPlan, parts: Parts, drop_path: DropPath | None) -> LinearBottleneck:
    se = None
    if plan.squeeze_channels:
        se = parts.squeeze_excite(plan.expanded_channels, plan.squeeze_channels, "relu", norm=True)
    return LinearBottleneck(
        parts.conv_bn_act(plan.expand, plan.activation) if plan.expand else None,
        parts.conv_bn_act(plan.convolution, None),
        se,
        activation("relu6"),
        parts.conv_bn_act(plan.project, None),
        shortcut=plan.shortcut,
        splits=(plan.in_channels, plan.out_channels - plan.in_channels),
        drop_path=drop_path,
    )
