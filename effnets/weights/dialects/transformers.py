"""transformers' names: its MobileNetV1 and MobileNetV2, with classifier and as base models.

From the state dicts of ``MobileNetV1ForImageClassification``, ``MobileNetV1Model`` and their V2 sisters. A classifier's
file says ``mobilenet_v1.`` before the names of the base model, which alone is saved without. Padding (``tf_padding``),
epsilon and activation stand in the checkpoint's config.json, so this dialect fixes none of them. Google's checkpoints
have 1001 outputs, of which the first is background.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from effnets.spec.plan import NetworkPlan
from effnets.weights.dialects.interface import (
    Dialect,
    block_modules,
    collect,
    is_mobilenet_v1,
    is_mobilenet_v2,
    no_such_network,
)

_PREFIXES = ("mobilenet_v1.", "mobilenet_v2.")
_STEMS = ("conv_stem.convolution.weight", "conv_stem.first_conv.convolution.weight")
_KINDS = {"conv": "convolution", "bn": "normalization"}
_INVERTED_RESIDUAL = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}


class Transformers(Dialect):
    """transformers'."""

    name = "transformers"
    background_outputs = 1001

    def claims(self, keys: Collection[str]) -> bool:
        return any(prefix + stem in keys for prefix in ("", *_PREFIXES) for stem in _STEMS)

    def to_native(self, tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
        prefix = _prefix(plan)
        return super().to_native(collect((key.removeprefix(prefix), tensor) for key, tensor in tensors.items()), plan)

    def from_native(self, tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
        named = super().from_native(tensors, plan)
        if not plan.num_classes:
            return named
        return {key if key.startswith("classifier.") else _prefix(plan) + key: one for key, one in named.items()}

    def module_names(self, plan: NetworkPlan) -> Mapping[str, str]:
        """Return those of the base model."""
        v1 = _prefix(plan) == _PREFIXES[0]
        names = {"classifier": "classifier"}
        for kind, foreign in _KINDS.items():
            names[f"stem.{kind}"] = f"conv_stem.{foreign}" if v1 else f"conv_stem.first_conv.{foreign}"
            if not v1:
                names[f"head.{kind}"] = f"conv_1x1.{foreign}"
        for number, place, _, module in block_modules(plan):
            part, _, kind = module.partition(".")
            if v1:  # counts depthwise and pointwise convolutions as layers alike
                foreign = f"layer.{2 * number + (part == 'project')}"
            else:  # the first block belongs to the stem
                foreign = f"{f'layer.{number - 1}' if number else 'conv_stem'}.{_INVERTED_RESIDUAL[part]}"
            names[f"{place}.{module}"] = f"{foreign}.{_KINDS[kind]}"
        return names


def _prefix(plan: NetworkPlan) -> str:
    """What a classifier's file has before the names of the base model."""
    if is_mobilenet_v1(plan, depth=13):
        return _PREFIXES[0]
    if is_mobilenet_v2(plan, depth=17):
        return _PREFIXES[1]
    raise no_such_network("transformers", "MobileNetV1 and MobileNetV2")
