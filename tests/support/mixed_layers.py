"""Mixed depthwise layers: the shapes that MixNets have, and their outputs and gradients in float64."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor, nn

import effnets
from effnets.nn.layers import Conv2d, MixedConv, activation
from effnets.nn.mixed_depthwise_plain import Geometry, pack
from tests.support import images

PAPERS = ("mixnet_s", "mixnet_m", "mixnet_l", "tf_mixnet_s", "tf_mixnet_m", "tf_mixnet_l")
FUNCTIONS = ("convolve", "input_gradient", "weight_gradient")


@cache
def geometries(names: tuple[str, ...] = PAPERS) -> tuple[Geometry, ...]:
    """Every shape of mixed depthwise layer of the networks, once."""
    networks = [effnets.create_model(name, device="meta") for name in names]
    mixed = [module for network in networks for module in network.modules() if isinstance(module, MixedConv)]
    return tuple(dict.fromkeys(geometry for module in mixed if (geometry := Geometry.of(list(module)))))


def label(geometry: Geometry) -> str:
    kernels, channels = (".".join(map(str, values)) for values in (geometry.kernel_sizes, geometry.channels))
    return f"k{kernels}-c{channels}-s{geometry.stride}{'-same' * geometry.same}"


def make_convs(geometry: Geometry, *, bias: bool = False, dtype: torch.dtype = torch.float32) -> list[Conv2d]:
    """Convolutions with reproducible weights."""
    groups = zip(geometry.channels, geometry.kernel_sizes, geometry.dilations, strict=True)
    convs = []
    for seed, (channels, kernel_size, dilation) in enumerate(groups):
        conv = Conv2d(
            in_channels=channels,
            out_channels=channels,
            kernel_size=kernel_size,
            stride=geometry.stride,
            dilation=dilation,
            groups=channels,
            bias=bias,
            padding="same" if geometry.same else "symmetric",
        )
        conv.weight = nn.Parameter(images(*conv.weight.shape, seed=seed) / kernel_size)
        if bias:
            conv.bias = nn.Parameter(images(channels, seed=100 + seed))
        convs.append(conv.to(dtype))
    return convs


class Case:
    """A layer, its input and the gradient of its output; and in float64, by autograd, what must come of them."""

    def __init__(self, geometry: Geometry, size: tuple[int, int] = (6, 7), count: int = 2, act: str = "none") -> None:
        self.geometry, self.size, self.act = geometry, size, act
        channels = sum(geometry.channels)
        self.x = images(count, channels, *size)
        self.slopes = images(count, channels, *map(geometry.output_size, size), seed=2)
        convs = make_convs(geometry, bias=True)
        self.weight = pack(conv.weight.detach() for conv in convs)
        self.bias = torch.cat([conv.bias.detach() for conv in convs])

    def round_to(self, dtype: torch.dtype) -> Case:
        """The same in another precision; what must come of it is of the rounded values."""
        self.x, self.slopes = self.x.to(dtype), self.slopes.to(dtype)
        return self

    def expected(self) -> dict[str, Tensor]:
        convs = make_convs(self.geometry, bias=True, dtype=torch.float64)
        x = self.x.double().requires_grad_()
        linear = MixedConv(convs)(x)
        linear.backward(self.slopes.double())
        output = linear if self.act == "none" else activation(self.act)(linear.detach().clone())
        weight = pack(conv.weight.grad for conv in convs)
        return {"convolve": output.detach(), "input_gradient": x.grad, "weight_gradient": weight}

    def compute(self, module: object, names: Iterable[str] = FUNCTIONS) -> dict[str, Tensor]:
        """What the functions of `module`, of kernels or of plain convolutions, return."""
        arguments = {
            "convolve": (self.x, self.weight, self.bias, self.geometry, self.act),
            "input_gradient": (self.slopes, self.weight, self.size, self.geometry),
            "weight_gradient": (self.x, self.slopes, self.geometry),
        }
        return {name: getattr(module, name)(*arguments[name]) for name in names}
