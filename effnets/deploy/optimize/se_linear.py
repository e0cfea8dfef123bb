"""Squeeze-and-excite on vectors: at a single place a 1×1 convolution is a matrix product."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from effnets.deploy.optimize.sequential_block import Network, chains_of
from effnets.nn.layers import SqueezeExcite


class VectorSqueezeExcite(SqueezeExcite):
    """`SqueezeExcite` without BN whose weights are worked out as vectors ``[N, C]``; ``[N, C, H, W]`` in and out.

    It writes into its input, which nobody else reads where a network has it.
    """

    def forward(self, x: Tensor) -> Tensor:
        squeezed = F.linear(x.mean((2, 3)), self.reduce.weight.flatten(1), self.reduce.bias)
        weights = F.linear(self.act(squeezed), self.expand.weight.flatten(1), self.expand.bias).sigmoid()
        return x.mul_(weights[:, :, None, None])


def use_vectors(network: Network) -> Network:
    """A copy of a flattened network with `VectorSqueezeExcite` wherever BN is folded."""
    network = copy.deepcopy(network)
    for _, chain in chains_of(network):
        for name, se in list(chain.named_children()):
            if type(se) is SqueezeExcite and isinstance(se.bn, nn.Identity):
                chain.add_module(name, VectorSqueezeExcite(se.reduce, None, se.act, se.expand).eval())
    return network
