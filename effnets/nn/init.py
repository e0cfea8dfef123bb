"""Initial weights of a network that is to be trained."""

from __future__ import annotations

import math

from torch import nn

__all__ = ["initialise"]


def initialise(module: nn.Module) -> None:
    """Draw the weights of every convolution and linear layer in `module`, from torch's generator.

    Convolutions as MixNet's reference code does, normal with variance 2 / fan-out; the classifier narrow, so that a new
    one of few classes begins without an opinion; batch normalisation neutral. Does nothing to modules on the meta
    device, which have no weights.
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
        if not isinstance(part, nn.Conv2d | nn.Linear) or part.weight.is_meta:
            continue
        if isinstance(part, nn.Conv2d):
            fan_out = part.kernel_size[0] * part.kernel_size[1] * part.out_channels // part.groups
            nn.init.normal_(part.weight, 0.0, math.sqrt(2.0 / fan_out))
        else:
            nn.init.normal_(part.weight, 0.0, 0.01)
        if part.bias is not None:
            nn.init.zeros_(part.bias)
