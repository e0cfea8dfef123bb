"""`SequentialBlock`: the form in which rewrites see a network, and the operations on convolutions that they share."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effnets.deploy.optimize.rewrites import Shortcut
from effnets.errors import ArgumentError
from effnets.nn.blocks import Block, LinearBottleneck
from effnets.nn.classifier import Classifier
from effnets.nn.features import FeaturePyramid
from effnets.nn.layers import Conv2d, ConvBNAct

Network = TypeVar("Network", bound=Classifier | FeaturePyramid)

# Layers that do nothing in evaluation mode.
_IDLE = (nn.Identity, nn.Dropout)


class SequentialBlock(nn.Sequential):
    """Layers one after another, perhaps with a shortcut around them; ``[N, C, H, W]`` in and out.

    Attributes:
        shortcut: how the input is added to the output; None without a shortcut.
        splits: with a shortcut, how many channels of the output the input is added to, and how many follow them.
    """

    def __init__(
        self, layers: dict[str, nn.Module], *, shortcut: Shortcut | None = None, splits: tuple[int, int] = (0, 0)
    ) -> None:
        super().__init__(OrderedDict(layers))
        self.shortcut = shortcut
        self.splits = splits

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self:
            y = layer(y)
        return y if self.shortcut is None else self._add(x, y)

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        kept, new = self.splits
        if self.shortcut == "inplace" and not (isinstance(y, Tensor) and y.requires_grad):  # a tracer's is no tensor
            # Nothing else reads the output of the last layer but its gradient.
            (y.narrow(1, 0, kept) if new else y).add_(x)
            return y
        if not new:
            return x + y
        if self.shortcut == "pad":
            return y + F.pad(x, (0, 0, 0, 0, 0, new))
        first, rest = torch.split(y, [kept, new], dim=1)
        return torch.cat([x + first, rest], dim=1)

    def extra_repr(self) -> str:
        return f"shortcut={self.shortcut}, splits={self.splits}" if self.shortcut else ""


def flatten(network: Network) -> Network:
    """Return a copy in evaluation mode whose stem, blocks and head are sequential blocks, without idle layers.

    Layers keep their names: ``stages.1.0.depthwise`` is the convolution, ``depthwise_bn`` and ``depthwise_act`` follow.
    Raises ArgumentError for a block that is not one of this library's, and for what a rewrite would lose: hooks, and
    convolutions that were changed.
    """
    _check_unchanged(network)
    network = copy.deepcopy(network)
    network.eval().requires_grad_(False)
    for stage in network.stages:
        for name, block in list(stage.named_children()):
            if type(block) in get_args(Block):
                stage.add_module(name, _flatten_block(block))
            elif not isinstance(block, SequentialBlock):
                raise ArgumentError(f"{type(block).__name__} is not a block that create_model builds")
    for name in ("stem", "head", "hidden"):
        part = getattr(network, name, None)
        if type(part) is ConvBNAct:
            network.add_module(name, SequentialBlock(dict(_plain_layers("conv", part))))
    if isinstance(network, Classifier):
        network.add_module("dropout", nn.Identity())
    return network


def _check_unchanged(network: Network) -> None:
    kept = [network, network.stages, *network.stages]
    for name, module in network.named_modules():
        if (module._forward_hooks or module._forward_pre_hooks) and not any(module is one for one in kept):
            raise ArgumentError(f"{name} has a hook, which rewrites would lose; remove it, or add it afterwards")
        if isinstance(module, Conv2d) and (changed := _changes(module)):
            raise ArgumentError(f"{name} has {changed}, which rewrites would lose; use the network as it is")


def _changes(conv: Conv2d) -> str:
    """Return what of a convolution is not as `Conv2d` makes it; nothing if all is."""
    if type(conv).forward is not Conv2d.forward:
        return "a forward of its own"
    reach = conv.dilation[0] * (conv.kernel_size[0] - 1)
    made = {"stride": conv.stride[0], "dilation": conv.dilation[0], "kernel_size": conv.kernel_size[0]}
    made["padding"] = 0 if conv.pads_by_size else reach // 2
    wanted: dict[str, object] = {name: (value, value) for name, value in made.items()} | {"padding_mode": "zeros"}
    if conv.pads_by_size:
        wanted["reach"] = reach
    return " and ".join(f"{name} {found}" for name, value in wanted.items() if (found := getattr(conv, name)) != value)


def _flatten_block(block: nn.Module) -> SequentialBlock:
    layers: dict[str, nn.Module] = {}
    for name, part in block.named_children():
        if name != "drop_path":
            layers.update(_plain_layers(name, part))
    if not block.shortcut:
        return SequentialBlock(layers)
    entering = in_channels_of(next(iter(layers.values())))
    kept, new = block.splits if isinstance(block, LinearBottleneck) else (entering, 0)
    return SequentialBlock(layers, shortcut="concat", splits=(kept, new))


def _plain_layers(name: str, part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    layers = [(name, part)]
    if type(part) is ConvBNAct:
        layers = [(name, part.conv), (f"{name}_bn", part.bn), (f"{name}_act", part.act)]
    return ((name, layer) for name, layer in layers if not isinstance(layer, _IDLE))


def needs_plain_operators(x: Tensor) -> bool:
    """Return whether a derivative through `x` is wanted, or `x` is traced, compiled, exported, or not on a CPU."""
    return (
        type(x) is not Tensor  # a tracer's
        or not x.is_cpu
        or x.requires_grad
        or torch.compiler.is_compiling()  # which does not know the following
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._functorch.maybe_current_level() is not None
    )


def blocks_of(network: Classifier | FeaturePyramid) -> Iterator[tuple[str, SequentialBlock]]:
    """Return every sequential block with its name, in the order in which they run."""
    return ((name, module) for name, module in network.named_modules() if isinstance(module, SequentialBlock))


def convs_of(layer: nn.Module) -> list[Conv2d]:
    """Return the convolutions of a mixed one; a plain one is its only one."""
    return [conv for conv in layer.modules() if isinstance(conv, Conv2d)]


def in_channels_of(layer: nn.Module) -> int:
    """Return the input channels of a plain or a mixed convolution."""
    return sum(conv.in_channels for conv in convs_of(layer))


def float64(tensor: Tensor) -> Tensor:
    """Return the values in float64, in which rewrites compute; on the CPU, since Apple's GPUs have no float64."""
    return tensor.detach().to(device="cpu", dtype=torch.float64)


def frozen(values: Tensor, like: Tensor) -> nn.Parameter:
    """Return `values` as a parameter without gradient, of the device and dtype of `like`."""
    return nn.Parameter(values.to(device=like.device, dtype=like.dtype).contiguous(), requires_grad=False)


def with_weights(
    conv: Conv2d, weight: Tensor, bias: Tensor | None, *, groups: int | None = None, dilation: int | None = None
) -> Conv2d:
    """Return `conv` with other weights ``[out, in / groups, k, k]``, which state its channels and kernel size."""
    groups = conv.groups if groups is None else groups
    made = Conv2d(
        in_channels=weight.shape[1] * groups,
        out_channels=weight.shape[0],
        kernel_size=weight.shape[-1],
        stride=conv.stride[0],
        dilation=conv.dilation[0] if dilation is None else dilation,
        groups=groups,
        bias=bias is not None,
        padding="same" if conv.pads_by_size else "symmetric",
        device=torch.device("meta"),
    )
    made.weight = frozen(weight, conv.weight)
    if bias is not None:
        made.bias = frozen(bias, conv.weight)
    return made.eval()
