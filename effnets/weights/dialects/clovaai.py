"""The names of the official ReXNet code, github.com/clovaai/rexnet: rexnetv1.py and rexnetv1_lite.py.

Everything there is a numbered part of a sequence, activations included. The classifier is a 1×1 convolution.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from effnets.spec.plan import NetworkPlan
from effnets.weights.dialects.effnets import block_modules
from effnets.weights.dialects.interface import (
    Dialect,
    block_places,
    is_rexnet,
    is_rexnet_lite,
    no_such_network,
    rename_from_native,
    rename_to_native,
)

__all__ = ["DIALECT"]

# Convolution, normalization and activation of the stem come before the blocks.
_FIRST_BLOCK = 3

# A block's parts, by whether it has an expansion and whether it has squeeze-and-excite. The depthwise activation stands
# behind the squeeze-and-excite, whose own activation is its fc.2.
_BLOCKS: Mapping[tuple[bool, bool], Mapping[str, str]] = {
    (True, True): {
        "expand.conv": "out.0",
        "expand.bn": "out.1",
        "depthwise.conv": "out.3",
        "depthwise.bn": "out.4",
        "se.reduce": "out.5.fc.0",
        "se.bn": "out.5.fc.1",
        "se.expand": "out.5.fc.3",
        "project.conv": "out.7",
        "project.bn": "out.8",
    },
    (True, False): {
        "expand.conv": "out.0",
        "expand.bn": "out.1",
        "depthwise.conv": "out.3",
        "depthwise.bn": "out.4",
        "project.conv": "out.6",
        "project.bn": "out.7",
    },
    (False, True): {
        "depthwise.conv": "out.0",
        "depthwise.bn": "out.1",
        "se.reduce": "out.2.fc.0",
        "se.bn": "out.2.fc.1",
        "se.expand": "out.2.fc.3",
        "project.conv": "out.4",
        "project.bn": "out.5",
    },
    (False, False): {
        "depthwise.conv": "out.0",
        "depthwise.bn": "out.1",
        "project.conv": "out.3",
        "project.bn": "out.4",
    },
}

_REXNET_HEAD = {"classifier": "output.1"}
_LITE_HEAD = {"hidden.conv": "output.0", "hidden.bn": "output.1", "classifier": "output.4"}


def _claims(keys: Collection[str]) -> bool:
    return "features.0.weight" in keys and f"features.{_FIRST_BLOCK}.out.0.weight" in keys


def _to_native(tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
    native = rename_to_native(tensors, _module_names(plan))
    weight = native.get("classifier.weight")
    if weight is not None and weight.shape[2:] == (1, 1):
        native["classifier.weight"] = weight.flatten(1)
    return native


def _from_native(tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
    names = _module_names(plan)
    named = rename_from_native(tensors, names)
    classifier = f"{names['classifier']}.weight"
    if classifier in named:
        named[classifier] = named[classifier][:, :, None, None]
    return named


def _module_names(plan: NetworkPlan) -> Mapping[str, str]:
    lite = is_rexnet_lite(plan)
    if not (lite or is_rexnet(plan)):
        raise no_such_network("clovaai/rexnet", "ReXNet and ReXNet-lite")
    names = {"stem.conv": "features.0", "stem.bn": "features.1"}
    number = _FIRST_BLOCK
    for place, block in block_places(plan):
        parts = _BLOCKS[bool(block.expand), bool(block.squeeze_channels)]
        names |= {f"{place}.{part}": f"features.{number}.{parts[part]}" for part in block_modules(block)}
        number += 1
    names |= {"head.conv": f"features.{number}", "head.bn": f"features.{number + 1}"}
    return names | (_LITE_HEAD if lite else _REXNET_HEAD)


DIALECT = Dialect(
    name="clovaai",
    claims=_claims,
    to_native=_to_native,
    from_native=_from_native,
    settings={"padding": "symmetric", "bn_eps": 1e-5},
)
