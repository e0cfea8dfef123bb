"""The blocks of the four families, made of given layers. Inputs and outputs are ``[N, C, H, W]``.

`drop_path` drops the residual branch in training; None never does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effnets.nn.layers import ConvBNAct, DropPath, SqueezeExcite


class ConvBlock(nn.Module):
    """A full convolution (``cn``), optionally with a shortcut."""

    def __init__(self, convolution: ConvBNAct, *, shortcut: bool, drop_path: DropPath | None = None) -> None:
        super().__init__()
        self.convolution = convolution
        self.shortcut = shortcut
        self.drop_path = drop_path or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return x + self.drop_path(y) if self.shortcut else y


class DepthwiseSeparable(nn.Module):
    """Depthwise, then pointwise convolution (``ds``, ``dsa``): MobileNetV1, arXiv:1704.04861, section 3.1."""

    def __init__(
        self,
        depthwise: ConvBNAct,
        se: SqueezeExcite | None,
        project: ConvBNAct,
        *,
        shortcut: bool,
        drop_path: DropPath | None = None,
    ) -> None:
        super().__init__()
        self.depthwise = depthwise
        self.se = se or nn.Identity()
        self.project = project
        self.shortcut = shortcut
        self.drop_path = drop_path or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.se(self.depthwise(x)))
        return x + self.drop_path(y) if self.shortcut else y


class InvertedResidual(nn.Module):
    """Expand, depthwise, project to a linear bottleneck (``ir``): MobileNetV2, arXiv:1801.04381, section 3.3.

    With mixed kernels in `depthwise` and squeeze-and-excitation it is MixNet's block.
    """

    def __init__(
        self,
        expand: ConvBNAct,
        depthwise: ConvBNAct,
        se: SqueezeExcite | None,
        project: ConvBNAct,
        *,
        shortcut: bool,
        drop_path: DropPath | None = None,
    ) -> None:
        super().__init__()
        self.expand = expand
        self.depthwise = depthwise
        self.se = se or nn.Identity()
        self.project = project
        self.shortcut = shortcut
        self.drop_path = drop_path or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.forward_expanded(self.expand(x))
        return x + self.drop_path(y) if self.shortcut else y

    def forward_expanded(self, x: Tensor) -> Tensor:
        """Compute what follows the expansion, without the shortcut: SSDLite's first head takes the expanded map."""
        return self.project(self.se(self.depthwise(x)))


class LinearBottleneck(nn.Module):
    """ReXNet's block (``lb``): arXiv:2007.00992, and the official code.

    Squeeze-and-excitation sits between the depthwise convolution and its activation. The output may have more channels
    than the input; the shortcut adds onto the first of them. `splits` are the numbers of the input's and of the new
    channels.
    """

    def __init__(
        self,
        expand: ConvBNAct | None,
        depthwise: ConvBNAct,
        se: SqueezeExcite | None,
        act: nn.Module,
        project: ConvBNAct,
        *,
        shortcut: bool,
        splits: tuple[int, int],
        drop_path: DropPath | None = None,
    ) -> None:
        super().__init__()
        self.expand = expand or nn.Identity()
        self.depthwise = depthwise
        self.se = se or nn.Identity()
        self.act = act
        self.project = project
        self.shortcut = shortcut
        self.splits = list(splits)
        self.drop_path = drop_path or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.forward_expanded(self.expand(x))
        if not self.shortcut:
            return y
        y = self.drop_path(y)
        if not self.splits[1]:
            return x + y
        kept, new = torch.split(y, self.splits, dim=1)
        return torch.cat([x + kept, new], dim=1)

    def forward_expanded(self, x: Tensor) -> Tensor:
        """Compute what follows the expansion, without the shortcut."""
        return self.project(self.act(self.se(self.depthwise(x))))


Block = ConvBlock | DepthwiseSeparable | InvertedResidual | LinearBottleneck
