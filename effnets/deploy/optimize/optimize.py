"""Memory formats."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from effnets.deploy.optimize.align import align_channels
from effnets.deploy.optimize.fold import fold_batch_norms
from effnets.deploy.optimize.fuse import fuse_convolutions
from effnets.deploy.optimize.merge import merge_depthwise, merge_pointwise
from effnets.deploy.optimize.rewrites import PRESETS, Rewrites, Shortcut
from effnets.deploy.optimize.se_linear import use_vectors
from effnets.deploy.optimize.sequential_block import Chain, Network, chains_of, flatten
from effnets.errors import ArgumentError
from effnets.nn.classifier import Classifier, network_of, require_values
from effnets.nn.features import FeaturePyramid


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


def optimize(model: nn.Module, rewrites: Rewrites | None = None) -> Classifier | FeaturePyramid:
    """A copy of a network that computes the same in evaluation mode, faster; `model` itself is left as it is.

    Every rewrite is exact: only the rounding of floating point differs. The copy takes images ``[N, in_chans, H, W]``
    in any memory format, of any size, and returns plain logits ``[N, num_classes]``, or a pyramid's maps. It keeps what
    the network knows of itself (`spec`, `class_names`, …), can be compiled and exported, and is for inference:
    it has no gradients, and its weights have other names and shapes, so that they are not saved as the network's.

    Args:
        model: from `effnets.create_model`, also inside of torch.compile or DataParallel, in any mode and dtype.
        rewrites: which are applied; None takes what pays in PyTorch on a CPU, ``PRESETS["torch"]``.

    Raises:
        ArgumentError: `model` is no network of this library, was rewritten before, or has no values (meta device).
    """
    network = network_of(model)
    require_values(network)
    rewrites = PRESETS["torch"] if rewrites is None else rewrites
    if not isinstance(rewrites, Rewrites):
        raise ArgumentError(f"rewrites is a {type(rewrites).__name__}; give a Rewrites, or None")
    if any(isinstance(module, Chain) for module in network.modules()):
        raise ArgumentError("model was rewritten before; give the network it was made from")
    # Weights made in inference mode could not be exported, or watched for changes.
    with torch.inference_mode(False):
        return apply(flatten(network), rewrites)


def apply(network: Network, rewrites: Rewrites) -> Network:
    """Apply every rewrite that was chosen, to a flattened network, in the one order that suits them all.

    Channels are aligned before groups merge: a group may be padded, a grouped convolution not.
    """
    _check_names(network, rewrites)
    if rewrites.fold_bn:
        network = fold_batch_norms(network)
    network = align_channels(network, rewrites.align)
    network = merge_depthwise(network, rewrites)
    network = merge_pointwise(network, rewrites)
    network = use_shortcut(network, rewrites.shortcut)
    if rewrites.squeeze_excite == "vector":
        network = use_vectors(network)
    if rewrites.fuse:
        network = fuse_convolutions(network)
    if rewrites.channels_last:
        network = use_channels_last(network)
    # Layers made on the way are in training mode, as torch makes them.
    network.eval()
    return network


def use_shortcut(network: Network, shortcut: Shortcut) -> Network:
    """A copy of a flattened network whose shortcuts are added in another way; see `Rewrites.shortcut`."""
    network = copy.deepcopy(network)
    for _, chain in chains_of(network):
        if chain.shortcut:
            chain.shortcut = shortcut
    return network


def _check_names(network: Network, rewrites: Rewrites) -> None:
    """A rule for a layer that does not exist would silently do nothing."""
    names = {f"{chain_name}.{name}" for chain_name, chain in chains_of(network) for name, _ in chain.named_children()}
    if unknown := [name for name, _ in rewrites.layers if name not in names]:
        raise ArgumentError(f"rewrites has rules for {', '.join(unknown)}, but {network.spec.name} has no such layer")
