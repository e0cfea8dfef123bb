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
from effnets.weights.dialects.effnets import block_modules
from effnets.weights.dialects.interface import (
    Dialect,
    block_places,
    collect,
    is_mobilenet_v1,
    is_mobilenet_v2,
    no_such_network,
    rename_from_native,
    rename_to_native,
)

__all__ = ["DIALECT"]

_PREFIXES = ("mobilenet_v1.", "mobilenet_v2.")
_STEMS = ("conv_stem.convolution.weight", "conv_stem.first_conv.convolution.weight")

# MobileNetV1 counts depthwise and pointwise convolutions as layers alike.
_SEPARABLE = {
    "depthwise.conv": "layer.{depthwise}.convolution",
    "depthwise.bn": "layer.{depthwise}.normalization",
    "project.conv": "layer.{pointwise}.convolution",
    "project.bn": "layer.{pointwise}.normalization",
}

_INVERTED_RESIDUAL = {
    "expand.conv": "expand_1x1.convolution",
    "expand.bn": "expand_1x1.normalization",
    "depthwise.conv": "conv_3x3.convolution",
    "depthwise.bn": "conv_3x3.normalization",
    "project.conv": "reduce_1x1.convolution",
    "project.bn": "reduce_1x1.normalization",
}


def _claims(keys: Collection[str]) -> bool:
    return any(prefix + stem in keys for prefix in ("", *_PREFIXES) for stem in _STEMS)


def _to_native(tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
    prefix, names = _module_names(plan)
    bare = collect((key.removeprefix(prefix), tensor) for key, tensor in tensors.items())
    return rename_to_native(bare, names)


def _from_native(tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
    prefix, names = _module_names(plan)
    named = rename_from_native(tensors, names)
    if not plan.num_classes:
        return named
    return {key if key.startswith("classifier.") else prefix + key: tensor for key, tensor in named.items()}


def _module_names(plan: NetworkPlan) -> tuple[str, Mapping[str, str]]:
    """The prefix, and native module names to those of the base model."""
    if is_mobilenet_v1(plan, depth=13):
        return _PREFIXES[0], _mobilenet_v1(plan)
    if is_mobilenet_v2(plan, depth=17):
        return _PREFIXES[1], _mobilenet_v2(plan)
    raise no_such_network("transformers", "MobileNetV1 and MobileNetV2")


def _mobilenet_v1(plan: NetworkPlan) -> Mapping[str, str]:
    names = {
        "stem.conv": "conv_stem.convolution",
        "stem.bn": "conv_stem.normalization",
        "classifier": "classifier",
    }
    for number, (place, block) in enumerate(block_places(plan)):
        for part in block_modules(block):
            names[f"{place}.{part}"] = _SEPARABLE[part].format(depthwise=2 * number, pointwise=2 * number + 1)
    return names


def _mobilenet_v2(plan: NetworkPlan) -> Mapping[str, str]:
    """The first block belongs to the stem."""
    names = {
        "stem.conv": "conv_stem.first_conv.convolution",
        "stem.bn": "conv_stem.first_conv.normalization",
        "head.conv": "conv_1x1.convolution",
        "head.bn": "conv_1x1.normalization",
        "classifier": "classifier",
    }
    for number, (place, block) in enumerate(block_places(plan)):
        foreign = f"layer.{number - 1}" if number else "conv_stem"
        for part in block_modules(block):
            names[f"{place}.{part}"] = f"{foreign}.{_INVERTED_RESIDUAL[part]}"
    return names


DIALECT = Dialect(
    name="transformers",
    claims=_claims,
    to_native=_to_native,
    from_native=_from_native,
    background_outputs=1001,
)
