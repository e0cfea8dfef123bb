"""What a dialect is, and what dialects share."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from effnets.errors import WeightsError
from effnets.spec.plan import BlockPlan, NetworkPlan
from effnets.spec.specs import ModelSpec

Convert = Callable[[Mapping[str, Tensor], NetworkPlan], dict[str, Tensor]]
ModuleNames = Callable[[NetworkPlan], Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One framework's names and layout of the parameters.

    Attributes:
        name: what users call it.
        claims: tells from a file's keys that they are this dialect's.
        to_native: a file's tensors under native names and in native layout, for one network. A tensor that the
            framework's network does not have is marked, for the merge to refuse. Raises `WeightsError` where the
            framework has no such network.
        from_native: the way back; raises the same where the framework has no place for the network or a tensor.
        suffixes: of the files that the framework reads.
        settings: fields of `ModelSpec` whose values the framework's own network fixes: with other values the file
            would load there, and give other logits.
        background_outputs: so many outputs mean that the first stands for none of the classes; None: no number does.
    """

    name: str
    claims: Callable[[Collection[str]], bool]
    to_native: Convert
    from_native: Convert
    suffixes: tuple[str, ...] = (".safetensors", ".pth", ".pt", ".bin")
    settings: Mapping[str, str | float] = field(default_factory=dict)
    background_outputs: int | None = None

    def differences(self, spec: ModelSpec) -> tuple[str, ...]:
        """A sentence on each of `settings` that `spec` has otherwise."""
        return tuple(
            f"{self.name}'s own network has {name} {value}, this one {getattr(spec, name)}"
            for name, value in self.settings.items()
            if getattr(spec, name) != value
        )


def by_renaming(module_names: ModuleNames) -> tuple[Convert, Convert]:
    """`to_native` and `from_native` of a dialect that differs in names alone.

    `module_names` maps native module names to the framework's, for one network.
    """

    def to_native(tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
        return rename_to_native(tensors, module_names(plan))

    def from_native(tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
        return rename_from_native(tensors, module_names(plan))

    return to_native, from_native


def rename_to_native(tensors: Mapping[str, Tensor], module_names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under native names; one whose module has no name is marked, for the merge to refuse.

    Going by module, weights, biases and statistics, and the groups of a mixed convolution, follow along.

    Raises:
        WeightsError: two tensors come to the same name.
    """
    names = {foreign: own for own, foreign in module_names.items()}
    return collect((_rename(key, names) or f"{key} (unknown name)", tensor) for key, tensor in tensors.items())


def rename_from_native(tensors: Mapping[str, Tensor], module_names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under the framework's names.

    Raises:
        WeightsError: it has no name for one of them.
    """
    renamed = {key: _rename(key, module_names) for key in tensors}
    if homeless := [key for key, name in renamed.items() if name is None]:
        raise WeightsError(f"the dialect has no name for {', '.join(homeless[:5])}; save in dialect effnets")
    return collect((name, tensors[key]) for key, name in renamed.items() if name is not None)


def collect(pairs: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return a dict of `pairs`, whose names must differ.

    Raises:
        WeightsError: two have the same name.
    """
    collected: dict[str, Tensor] = {}
    for name, tensor in pairs:
        if name in collected:
            raise WeightsError(f"two tensors are both {name}; the file is a mixture, save it again")
        collected[name] = tensor
    return collected


def block_places(plan: NetworkPlan) -> Iterator[tuple[str, BlockPlan]]:
    """Every block in order, with its native module name."""
    for stage_index, stage in enumerate(plan.stages):
        for block_index, block in enumerate(stage):
            yield f"stages.{stage_index}.{block_index}", block


def _rename(key: str, names: Mapping[str, str]) -> str | None:
    """`key` with the module it belongs to renamed: the shortest of its dotted beginnings that has a name."""
    end = key.find(".")
    while end > 0:
        if (module := names.get(key[:end])) is not None:
            return module + key[end:]
        end = key.find(".", end + 1)
    return None


_REDUCTION = 32


def is_mobilenet_v1(plan: NetworkPlan, *, depth: int | None = None) -> bool:
    """Whether this is MobileNetV1 at some width: 3×3 depthwise separable blocks and no head, `depth` of them."""
    blocks = list(plan.blocks)
    return (
        all(block.type == "dsa" and _is_plain(block) for block in blocks)
        and _are_alike(blocks)
        and plan.head is None
        and _is_usual(plan)
        and depth in (None, len(blocks))
    )


def is_mobilenet_v2(plan: NetworkPlan, *, depth: int | None = None) -> bool:
    """Whether this is MobileNetV2 at some width: a separable block, inverted ones, all 3×3, `depth` in all; a head."""
    first, *rest = plan.blocks
    return (
        first.type == "ds"
        and all(block.type == "ir" for block in rest)
        and all(_is_plain(block) for block in (first, *rest))
        and _are_alike([first, *rest])
        and plan.head is not None
        and _is_usual(plan)
        and depth in (None, len(rest) + 1)
    )


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
    return (
        _are_bottlenecks(plan, "relu6")
        and plan.hidden_channels == 1024
        and not any(block.squeeze_channels for block in plan.blocks)
    )


def no_such_network(framework: str, networks: str) -> WeightsError:
    """The error for a network that `framework` does not have; `networks` are those it has."""
    return WeightsError(
        f"{framework} has no network like this one, only {networks}; choose the model that the file was made for, or "
        "save in dialect effnets, which holds every network"
    )


def _is_plain(block: BlockPlan) -> bool:
    """3×3 kernels alone, no groups, no squeeze-and-excite."""
    return _has_plain_convolutions(block) and not block.squeeze_channels


def _has_plain_convolutions(block: BlockPlan) -> bool:
    return (
        [conv.kernel_size for conv in block.convolution] == [3] and len(block.expand) <= 1 and len(block.project) == 1
    )


def _are_alike(blocks: Sequence[BlockPlan]) -> bool:
    return len({block.activation for block in blocks}) == 1


def _is_usual(plan: NetworkPlan) -> bool:
    """Nothing behind pooling but the classifier; the usual reduction."""
    return not plan.hidden_channels and _has_usual_reduction(plan)


def _has_usual_reduction(plan: NetworkPlan) -> bool:
    """A 32nd, be it with dilation in place of strides."""
    *_, last = plan.blocks
    strides = math.prod(block.stride for block in plan.blocks) * plan.stem.stride
    return strides * last.convolution[0].dilation == _REDUCTION


def _are_bottlenecks(plan: NetworkPlan, activation: str) -> bool:
    return (
        all(
            block.type == "lb" and block.activation == activation and _has_plain_convolutions(block)
            for block in plan.blocks
        )
        and plan.head is not None
        and _has_usual_reduction(plan)
    )
