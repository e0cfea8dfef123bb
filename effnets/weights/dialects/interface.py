"""What a dialect is, and what dialects share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import ClassVar

from torch import Tensor

from effnets.errors import WeightsError
from effnets.spec.plan import BlockPlan, NetworkPlan
from effnets.spec.specs import ModelSpec


class Dialect(ABC):
    """One framework's names and layout of the parameters.

    Attributes:
        name: what users call it.
        suffixes: of the files that the framework reads.
        settings: fields of `ModelSpec` whose values the framework's own network fixes: with other values the file
            would load there, and give other logits.
        background_outputs: so many outputs mean that the first stands for none of the classes; None: no number does.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors", ".pth", ".pt", ".bin")
    settings: ClassVar[Mapping[str, str | float]] = {}
    background_outputs: ClassVar[int | None] = None

    @abstractmethod
    def claims(self, keys: Collection[str]) -> bool:
        """Tell from a file's keys that they are this dialect's."""

    @abstractmethod
    def module_names(self, plan: NetworkPlan) -> Mapping[str, str]:
        """Map native module names to the framework's, for one network.

        Raises:
            WeightsError: the framework has no such network.
        """

    def to_native(self, tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
        """Return a file's tensors under native names and in native layout, for one network.

        Going by module, weights, biases and statistics, and the groups of a mixed convolution, follow along. A tensor
        that the framework's network does not have is marked, for the merge to refuse.

        Raises:
            WeightsError: the framework has no such network, or two tensors come to the same name.
        """
        names = {foreign: own for own, foreign in self.module_names(plan).items()}
        return collect((_rename(key, names) or f"{key} (unknown name)", tensor) for key, tensor in tensors.items())

    def from_native(self, tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
        """Return tensors under the framework's names and in its layout.

        Raises:
            WeightsError: the framework has no such network, or no name for one of the tensors.
        """
        names = self.module_names(plan)
        renamed = {key: _rename(key, names) for key in tensors}
        if homeless := [key for key, name in renamed.items() if name is None]:
            raise WeightsError(f"the dialect has no name for {', '.join(homeless[:5])}; save in dialect effnets")
        return collect((name, tensors[key]) for key, name in renamed.items() if name is not None)

    def differences(self, spec: ModelSpec) -> tuple[str, ...]:
        """A sentence on each of `settings` that `spec` has otherwise."""
        return tuple(
            f"{self.name}'s own network has {name} {value}, this one {getattr(spec, name)}"
            for name, value in self.settings.items()
            if getattr(spec, name) != value
        )


def collect(pairs: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return a dict of `pairs`; raise a WeightsError if two have the same name."""
    collected: dict[str, Tensor] = {}
    for name, tensor in pairs:
        if name in collected:
            raise WeightsError(f"two tensors are both {name}; the file is a mixture, save it again")
        collected[name] = tensor
    return collected


def _rename(key: str, names: Mapping[str, str]) -> str | None:
    """`key` with the module it belongs to renamed: the shortest of its dotted beginnings that has a name."""
    end = key.find(".")
    while end > 0:
        if (module := names.get(key[:end])) is not None:
            return module + key[end:]
        end = key.find(".", end + 1)
    return None


def block_modules(plan: NetworkPlan) -> Iterator[tuple[int, str, BlockPlan, str]]:
    """Every module with parameters in blocks: its block's number from 0, native name and plan; its name in there."""
    places = [(f"stages.{i}.{j}", block) for i, stage in enumerate(plan.stages) for j, block in enumerate(stage)]
    for number, (place, block) in enumerate(places):
        parts = ["convolution"] if block.type == "cn" else ["depthwise", "project"]
        for part in ["expand", *parts] if block.expand else parts:
            yield number, place, block, f"{part}.conv"
            yield number, place, block, f"{part}.bn"
        if block.squeeze_channels:
            for part in ("se.reduce", "se.expand", "se.bn") if block.type == "lb" else ("se.reduce", "se.expand"):
                yield number, place, block, part


def conv_bn(**names: tuple[str, str]) -> dict[str, str]:
    """Native names of convolutions and their normalizations, ``stem.conv`` and ``stem.bn``, to the pairs in `names`."""
    return {
        f"{part}.{kind}": name for part, pair in names.items() for kind, name in zip(("conv", "bn"), pair, strict=True)
    }


_REDUCTION = 32


def is_mobilenet_v1(plan: NetworkPlan, *, depth: int | None = None) -> bool:
    """Whether this is MobileNetV1 at some width: 3×3 depthwise separable blocks and no head, `depth` of them."""
    return _has_blocks(plan, "dsa", "dsa", depth) and _is_plain(plan) and plan.head is None


def is_mobilenet_v2(plan: NetworkPlan, *, depth: int | None = None) -> bool:
    """Whether this is MobileNetV2 at some width: a separable block, inverted ones, all 3×3, `depth` in all; a head."""
    return _has_blocks(plan, "ds", "ir", depth) and _is_plain(plan) and plan.head is not None


def is_rexnet(plan: NetworkPlan) -> bool:
    """Whether this is ReXNet at some width: SiLU, and channels that lie on a line, which ReXNetR's do not."""
    channels = [block.out_channels for block in plan.blocks]
    step = (channels[-1] - channels[0]) / max(1, len(channels) - 1)
    return (
        _are_bottlenecks(plan, "silu")
        and not plan.hidden_channels
        and all(abs(channels[0] + step * index - value) <= 1 for index, value in enumerate(channels))
    )


def is_rexnet_lite(plan: NetworkPlan) -> bool:
    """Whether this is ReXNet-lite at some width: ReLU6, no squeeze-and-excite, 1024 channels after pooling."""
    squeezes = any(block.squeeze_channels for block in plan.blocks)
    return _are_bottlenecks(plan, "relu6") and plan.hidden_channels == 1024 and not squeezes


def no_such_network(framework: str, networks: str) -> WeightsError:
    """The error for a network that `framework` does not have; `networks` are those it has."""
    return WeightsError(
        f"{framework} has no network like this one, only {networks}; choose the model that the file was made for, or "
        "save in dialect effnets, which holds every network"
    )


def _has_blocks(plan: NetworkPlan, first: str, other: str, depth: int | None = None) -> bool:
    """Whether blocks are of these types, `depth` of them, with 3×3 kernels, no groups, and one activation.

    Their reduction is a 32nd, be it with dilation in place of strides.
    """
    blocks = list(plan.blocks)
    strides = math.prod(block.stride for block in blocks) * plan.stem.stride
    return (
        [block.type for block in blocks] == [first, *[other] * (len(blocks) - 1)]
        and depth in (None, len(blocks))
        and all([conv.kernel_size for conv in block.convolution] == [3] for block in blocks)
        and all(len(block.expand) <= 1 and len(block.project) == 1 for block in blocks)
        and len({block.activation for block in blocks}) == 1
        and strides * blocks[-1].convolution[0].dilation == _REDUCTION
    )


def _is_plain(plan: NetworkPlan) -> bool:
    """No squeeze-and-excite, and nothing behind pooling but the classifier."""
    return not plan.hidden_channels and not any(block.squeeze_channels for block in plan.blocks)


def _are_bottlenecks(plan: NetworkPlan, activation: str) -> bool:
    return _has_blocks(plan, "lb", "lb") and next(plan.blocks).activation == activation and plan.head is not None
