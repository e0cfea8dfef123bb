"""Memory formats."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from effnets.deploy.chain import Network

__all__ = ["ToChannelsLast", "use_channels_last"]


class ToChannelsLast(nn.Module):
    """The same tensor in NHWC order in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


def use_channels_last(network: Network) -> Network:
    """A copy whose weights and activations are in NHWC order in memory; the input may be in any."""
    network = copy.deepcopy(network)
    network.to(memory_format=torch.channels_last)
    network.add_module("stem", nn.Sequential(ToChannelsLast(), network.stem))
    return network
