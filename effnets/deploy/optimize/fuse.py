"""Convolution, activation and addition in one call of oneDNN, PyTorch's library for CPUs, with weights packed ahead.

Plain PyTorch unpacks and packs weights at every call and takes a pass over memory for each activation.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effnets.deploy.optimize.sequential_block import Chain, Network, chains_of
from effnets.nn.layers import Conv2d, same_padding

# oneDNN's name, scalars and algorithm for what follows a convolution.
_NAMES: dict[type[nn.Module], tuple[str, list[float], str]] = {
    nn.Identity: ("none", [], ""),
    nn.ReLU: ("relu", [], ""),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    nn.SiLU: ("swish", [], ""),
    nn.Hardswish: ("hardswish", [], ""),
}


class FusedConv(nn.Module):
    """A convolution and its activation as one step; ``[N, C, H, W]`` in and out.

    Where oneDNN does not compute what is asked (another dtype or device, autocast, a gradient) and wherever the network
    is traced, compiled or exported, these are the two modules that they were.
    """

    def __init__(self, conv: Conv2d, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.act = act or nn.Identity()
        self._packed: Tensor | None = None
        self._packed_from: tuple[int, int] = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        if (
            type(x) is not Tensor  # a tracer's
            or x.dtype != torch.float32
            or x.requires_grad
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
            or not x.is_cpu
            or not self.conv.weight.is_cpu
            or self.conv.weight.dtype != torch.float32
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
        # Weights may have been changed, in place or not, since they were packed.
        source = (conv.weight.data_ptr(), conv.weight._version)
        if self._packed is None or self._packed_from != source:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *fixed, x.shape)
            self._packed_from = source
        name, scalars, algorithm = _NAMES[type(self.act)]
        return _convolution()(x, self._packed, conv.bias, *fixed, name, scalars, algorithm)

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights can be neither copied nor saved; they are packed again.
        return {**self.__dict__, "_packed": None}


@cache
def _convolution() -> Any:
    return torch.ops.mkldnn._convolution_pointwise.default


@cache
def can_fuse() -> bool:
    """Whether this PyTorch has oneDNN's fused convolution as it is called here: it is no public function."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 5, 5, generator=generator)
    conv = Conv2d(in_channels=8, out_channels=8, kernel_size=3, bias=True)
    conv.weight = nn.Parameter(torch.randn(8, 8, 3, 3, generator=generator), requires_grad=False)
    conv.bias = nn.Parameter(torch.randn(8, generator=generator), requires_grad=False)
    try:
        fused = FusedConv(conv, nn.ReLU6())._fused(x)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return torch.allclose(fused, F.relu6(conv(x)), atol=1e-4)


def fuse_convolutions(network: Network) -> Network:
    """A copy of a flattened network whose convolutions and activations are `FusedConv`, where `can_fuse`."""
    network = copy.deepcopy(network)
    if can_fuse():
        for _, chain in chains_of(network):
            _fuse_chain(chain)
    return network


def _fuse_chain(chain: Chain) -> None:
    layers = list(chain.named_children())
    for index, (name, layer) in enumerate(layers):
        if type(layer) is not Conv2d:
            continue
        after_name, after = layers[index + 1] if index + 1 < len(layers) else ("", nn.Identity())
        if type(after) in _NAMES and after_name:
            delattr(chain, after_name)
            chain.add_module(name, FusedConv(layer, after))
        else:
            chain.add_module(name, FusedConv(layer))
