"""Layers that PyTorch executes faster: fused convolutions, squeeze-and-excite on vectors, NHWC memory.

On a CPU, plain PyTorch unpacks and packs weights at every call, and takes a pass over memory for each activation; one
call of oneDNN, its library for CPUs, convolves, activates and adds with weights packed ahead.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effnets.deploy.optimize.sequential_block import Network, blocks_of, convs_of, needs_plain_operators
from effnets.nn.layers import ACTIVATIONS, Conv2d, MixedConv, SqueezeExcite, same_padding
from effnets.nn.mixed_depthwise import MixedDepthwiseConv
from effnets.nn.mixed_depthwise_plain import Geometry
from effnets.spec.specs import Activation

# oneDNN's name, scalars and algorithm of each activation.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float], str]] = {
    nn.Identity: ("none", [], ""),
    nn.ReLU: ("relu", [], ""),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    nn.SiLU: ("swish", [], ""),
    nn.Hardswish: ("hardswish", [], ""),
}

# Of how many shapes a layer keeps its weights packed: one image, and parts of a batch, of two sizes at two depths.
_MAX_PACKED = 5


class OneDNNConv(nn.Module):
    """A convolution and its activation as one step; ``[N, C, H, W]`` in and out.

    Where oneDNN cannot compute it (another dtype or device, autocast, a gradient) and wherever the network is traced,
    compiled or exported, it runs the two modules it was made from. Weights that are changed are packed again, unless
    that was done through ``.data``, which leaves no trace.
    """

    def __init__(self, conv: Conv2d, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.act = act or nn.Identity()
        self._packed: tuple[Tensor, int, dict[torch.Size, Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        if (
            needs_plain_operators(x)
            or x.dtype != torch.float32
            or x.shape[1] != self.conv.in_channels
            or torch.is_autocast_enabled("cpu")
            or not weight.is_cpu
            or weight.dtype != torch.float32
            or weight.requires_grad
        ):
            return self.act(self.conv(x))
        return self._fused(x)

    def _fused(self, x: Tensor) -> Tensor:
        conv = self.conv
        padding: tuple[int, ...] = conv.padding  # type: ignore[assignment]
        if conv.pads_by_size:
            top, bottom = same_padding(x.shape[-2], conv.reach, conv.stride[0])
            left, right = same_padding(x.shape[-1], conv.reach, conv.stride[1])
            if (top, left) == (bottom, right):
                padding = (top, left)
            else:
                x = F.pad(x, (left, right, top, bottom))
        fixed = (padding, conv.stride, conv.dilation, conv.groups)
        name, scalars, algorithm = _ACTIVATIONS[type(self.act)]
        convolution = torch.ops.mkldnn._convolution_pointwise.default
        return convolution(x, self._packed_for(x.shape, fixed), conv.bias, *fixed, name, scalars, algorithm)

    def _packed_for(self, shape: torch.Size, fixed: tuple[Any, ...]) -> Tensor:
        """Return the weights as oneDNN wants them for an input of that shape.

        Packed for another number of images, they may be packed again at every call: up to ten times as long.
        """
        weight = self.conv.weight
        version = 0 if weight.is_inference() else weight._version
        kept = self._packed  # replaced as a whole, since other threads may run this layer
        if (
            kept is None
            or (kept[0].data_ptr(), kept[1]) != (weight.data_ptr(), version)
            or (len(kept[2]) == _MAX_PACKED and shape not in kept[2])
        ):
            # As long as this alias is kept, no other weights can have its address.
            self._packed = kept = (weight.detach(), version, {})
        packed = kept[2].get(shape)
        if packed is None:
            packed = kept[2][shape] = torch.ops.mkldnn._reorder_convolution_weight(weight, *fixed, shape)
        return packed

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights can be neither copied nor saved; they are packed again.
        return {**self.__dict__, "_packed": None}


@cache
def can_fuse() -> bool:
    """Return whether this PyTorch has oneDNN's fused convolution with the arguments used here; it is not public."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        for shape in ((1, 8, 5, 5), (8, 8, 3, 3), (8,))
    )
    conv = Conv2d(in_channels=8, out_channels=8, kernel_size=3, bias=True, device=torch.device("meta"))
    conv.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    conv.requires_grad_(False)
    try:
        with torch.autocast("cpu", enabled=False):
            return torch.allclose(OneDNNConv(conv, nn.ReLU6())._fused(x), F.relu6(conv(x)), atol=1e-4)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False


def fuse_convolutions(network: Network) -> None:
    """Put `OneDNNConv` in place of convolutions and activations of a flattened network, if PyTorch has it."""
    if not can_fuse():
        return
    for _, block in blocks_of(network):
        for (name, layer), (next_name, following) in pairwise([*block.named_children(), ("", None)]):
            if type(layer) is Conv2d:
                act = following if type(following) in _ACTIVATIONS else None
                block.add_module(name, OneDNNConv(layer, act))
                if act:
                    delattr(block, next_name)


_NAMES: dict[type, Activation] = {kind: name for name, kind in ACTIVATIONS.items()}


def fuse_mixed_convolutions(network: Network) -> None:
    """Put `MixedDepthwiseConv` in place of mixed depthwise convolutions and activations of a flattened network."""
    for _, block in blocks_of(network):
        for (name, layer), (next_name, following) in pairwise([*block.named_children(), ("", None)]):
            # A kernel that was split into bands is none of ours.
            if isinstance(layer, MixedConv) and len(convs := convs_of(layer)) == len(layer) and Geometry.of(convs):
                act = _NAMES.get(type(following))
                block.add_module(name, MixedDepthwiseConv(convs, act).eval())
                if act:
                    delattr(block, next_name)


class LinearSqueezeExcite(SqueezeExcite):
    """`SqueezeExcite` without BN, its 1×1 convolutions as matrix products on ``[N, C]``; ``[N, C, H, W]`` in and out.

    Without gradients it writes into its input, which nothing else reads in these networks.
    """

    def forward(self, x: Tensor) -> Tensor:
        squeezed = F.linear(x.mean((2, 3)), self.reduce.weight.flatten(1), self.reduce.bias)
        weights = F.linear(self.act(squeezed), self.expand.weight.flatten(1), self.expand.bias).sigmoid()
        weights = weights[:, :, None, None]
        return x * weights if isinstance(x, Tensor) and x.requires_grad else x.mul_(weights)


def use_linear_squeeze_excite(network: Network) -> None:
    """Put `LinearSqueezeExcite` into a flattened network wherever BN is folded."""
    for _, block in blocks_of(network):
        for name, se in list(block.named_children()):
            if type(se) is SqueezeExcite and isinstance(se.bn, nn.Identity):
                block.add_module(name, LinearSqueezeExcite(se.reduce, None, se.act, se.expand).eval())


class ToChannelsLast(nn.Module):
    """Returns the same tensor in NHWC order in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


def use_channels_last(network: Network) -> None:
    """Keep weights and activations in NHWC order in memory; the input may be in any order."""
    network.to(memory_format=torch.channels_last)
    network.add_module("stem", nn.Sequential(ToChannelsLast(), network.stem))
