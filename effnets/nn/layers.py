"""The layers that blocks are made of. Inputs and outputs are ``[N, C, H, W]``."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effnets.spec.specs import Activation, Padding


class Conv2d(nn.Conv2d):
    """Convolution with an odd square kernel that keeps the resolution, except for its stride.

    `padding` is ``symmetric``, as PyTorch networks are trained, or ``same``: TensorFlow's, which puts the odd pixel
    below and to the right, and depends on the input's size where the stride is above 1.

    Weights are left unset: the builder initializes a network once, or loads it.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        padding: Padding = "symmetric",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        reach = dilation * (kernel_size - 1)
        pads_by_size = padding == "same" and stride > 1 and reach > 0
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=0 if pads_by_size else reach // 2,
            dilation=dilation,
            groups=groups,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self.reach = reach
        self.pads_by_size = pads_by_size

    def reset_parameters(self) -> None:
        """Do nothing: see the class."""

    def forward(self, x: Tensor) -> Tensor:
        if self.pads_by_size:
            top, bottom = same_padding(x.shape[-2], self.reach, self.stride[0])
            left, right = same_padding(x.shape[-1], self.reach, self.stride[1])
            x = F.pad(x, (left, right, top, bottom))
        return self._conv_forward(x, self.weight, self.bias)  # TorchScript knows no super()


def same_padding(size: int, reach: int, stride: int) -> tuple[int, int]:
    """Return the pixels before and after one side, so that ceil(size / stride) outputs fit.

    `reach` is dilation · (kernel size - 1). The sum is never negative, since odd kernels above 1 reach further than
    a stride of 2. The ceiling is written with a sum: negated floor division exports to ONNX wrongly at odd sizes.
    """
    total = ((size + stride - 1) // stride - 1) * stride + reach + 1 - size
    return total // 2, total - total // 2


class MixedConv(nn.ModuleList):
    """Several convolutions side by side, each on its own slice of the channels (MixConv, arXiv:1907.09595, section 3).

    With depthwise convolutions of different kernel sizes this is the paper's MixConv; with pointwise ones, a
    grouped convolution whose groups may differ in size. `convs` are in channel order.
    """

    def __init__(self, convs: Iterable[Conv2d]) -> None:
        convs = list(convs)
        super().__init__(convs)
        self.splits = [conv.in_channels for conv in convs]

    def forward(self, x: Tensor) -> Tensor:
        slices = torch.split(x, self.splits, dim=1)
        outputs = []
        for index, conv in enumerate(self):  # By index, which torch.fx can follow; a loop, which TorchScript can.
            outputs.append(conv(slices[index]))
        return torch.cat(outputs, dim=1)


class Linear(nn.Linear):
    """Fully connected layer with weights left unset, as `Conv2d`'s."""

    def reset_parameters(self) -> None:
        """Do nothing: see the class."""


class ConvBNAct(nn.Module):
    """Convolution, batch normalization, activation; `act` None leaves the output linear."""

    def __init__(self, conv: Conv2d | MixedConv, bn: nn.BatchNorm2d, act: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv
        self.bn = bn
        self.act = act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: weight channels by the whole image (arXiv:1709.01507); ReXNet's has a BN inside.

    `reduce` and `expand` are 1×1 convolutions with bias, to fewer channels and back.
    """

    def __init__(self, reduce: Conv2d, bn: nn.BatchNorm2d | None, act: nn.Module, expand: Conv2d) -> None:
        super().__init__()
        self.reduce = reduce
        self.bn = bn or nn.Identity()
        self.act = act
        self.expand = expand

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        weights = self.expand(self.act(self.bn(self.reduce(squeezed)))).sigmoid()
        return x * weights


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): in training, drop the branch for a share `rate` of the images."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)

    def extra_repr(self) -> str:
        """Return the rate, for printing."""
        return f"rate={self.rate:g}"


class GlobalPool(nn.Module):
    """``[N, C, H, W]`` to ``[N, C, 1, 1]``: ``avg``, ``max``, or their mean, ``avgmax``; ``none`` keeps the map."""

    KINDS = ("avg", "max", "avgmax", "none")

    def __init__(self, kind: str = "avg") -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "none":
            return x
        if self.kind == "avg":
            return x.mean((2, 3), keepdim=True)
        if self.kind == "max":
            return x.amax((2, 3), keepdim=True)
        return 0.5 * (x.mean((2, 3), keepdim=True) + x.amax((2, 3), keepdim=True))

    def extra_repr(self) -> str:
        """Return the kind, for printing."""
        return self.kind


ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hard_swish": nn.Hardswish,
}


def activation(name: Activation) -> nn.Module:
    """Make an activation's module; in place, since nothing else reads the output of the layer before it."""
    return ACTIVATIONS[name](inplace=True)
