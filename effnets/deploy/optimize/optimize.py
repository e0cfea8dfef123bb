"""`optimize`: a faster copy of a network that computes the same, and batch normalization folded into convolutions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from effnets.deploy.optimize.align import align_channels
from effnets.deploy.optimize.merge import merge_depthwise, merge_pointwise
from effnets.deploy.optimize.micro_batches import use_micro_batches
from effnets.deploy.optimize.rewrites import PRESETS, Rewrites
from effnets.deploy.optimize.sequential_block import (
    Network,
    SequentialBlock,
    blocks_of,
    convs_of,
    flatten,
    float64,
    with_weights,
)
from effnets.deploy.optimize.split import split_depthwise
from effnets.deploy.optimize.torch_layers import (
    fuse_convolutions,
    fuse_mixed_convolutions,
    use_channels_last,
    use_linear_squeeze_excite,
)
from effnets.errors import ArgumentError
from effnets.nn.classifier import Classifier, network_of, require_values
from effnets.nn.features import FeaturePyramid
from effnets.nn.layers import Conv2d, MixedConv, SqueezeExcite


def optimize(model: nn.Module, rewrites: Rewrites | None = None) -> Classifier | FeaturePyramid:
    """Return a faster copy of a network that computes the same in evaluation mode; `model` is not changed.

    Every rewrite is exact: only floating point rounds differently. The copy takes images ``[N, in_chans, H, W]`` in any
    memory format, of any size, and returns logits ``[N, num_classes]``, or a pyramid's maps. It keeps the network's
    `spec`, `class_names` and so on, can be compiled and exported, and is for inference: it has no gradients, and its
    weights have other names and shapes, so that they cannot be saved as the network's.

    Args:
        model: from `effnets.create_model`, also wrapped by torch.compile or DataParallel, in any mode and dtype.
        rewrites: which are applied; None takes those for PyTorch where `model` is: ``PRESETS["torch-cuda"]`` on a GPU,
            ``PRESETS["torch"]`` elsewhere.

    Raises:
        ArgumentError: if `model` is not a network of this library, was rewritten before, has no values (meta device),
            or has what a rewrite would lose: a hook on a layer, or a convolution that was changed.
    """
    network = network_of(model)
    require_values(network)
    rewrites = default_rewrites(next(network.parameters()).device) if rewrites is None else rewrites
    if not isinstance(rewrites, Rewrites):
        raise ArgumentError(f"rewrites is a {type(rewrites).__name__}; give a Rewrites, or None")
    if any(isinstance(module, SequentialBlock) for module in network.modules()):
        raise ArgumentError("model was rewritten before; give the network it was made from")
    # Weights made in inference mode could not be exported, nor their changes detected.
    with torch.inference_mode(False):
        return _apply(flatten(network), rewrites)


def default_rewrites(device: torch.device) -> Rewrites:
    """Return the preset for PyTorch on `device`."""
    return PRESETS["torch-cuda" if device.type == "cuda" else "torch"]


def _apply(network: Network, rewrites: Rewrites) -> Network:
    """Apply rewrites to a flattened network, channels aligned before groups merge: grouped convolutions cannot grow."""
    _check_layer_names(network, rewrites)
    if rewrites.fold_bn:
        fold_batch_norms(network)
    if rewrites.align > 1:
        align_channels(network, rewrites.align)
    merge_depthwise(network, rewrites)
    merge_pointwise(network, rewrites)
    if rewrites.depthwise_taps:
        split_depthwise(network, rewrites.depthwise_taps)
    for _, block in blocks_of(network):
        if block.shortcut:
            block.shortcut = rewrites.shortcut
    if rewrites.squeeze_excite == "vector":
        use_linear_squeeze_excite(network)
    if rewrites.mixed_kernel:
        fuse_mixed_convolutions(network)
    if rewrites.fuse:
        fuse_convolutions(network)
    if rewrites.channels_last:
        use_channels_last(network)
    if rewrites.micro_batch_mb and isinstance(network, Classifier):
        use_micro_batches(network, rewrites.micro_batch_mb)
    # torch makes new layers in training mode.
    network.eval()
    return network


def _check_layer_names(network: Network, rewrites: Rewrites) -> None:
    """A rule for a layer that does not exist would silently do nothing."""
    names = {f"{block_name}.{name}" for block_name, block in blocks_of(network) for name, _ in block.named_children()}
    if unknown := [name for name, _ in rewrites.layers if name not in names]:
        raise ArgumentError(f"rewrites has rules for {', '.join(unknown)}, but {network.spec.name} has no such layer")


def fold_batch_norms(network: Network) -> None:
    """Fold batch normalization into the convolutions of a flattened network, also within squeeze-and-excite.

    With scale s = γ / √(σ² + ε), ``bn(W x + b)`` is ``(s W) x + (s b + β - s μ)``, rounded once from float64. Raises
    ArgumentError for a batch normalization without running statistics, hence no fixed scale.
    """
    for _, block in blocks_of(network):
        for (conv_name, conv), (bn_name, bn) in pairwise(list(block.named_children())):
            if isinstance(conv, Conv2d | MixedConv) and isinstance(bn, _BatchNorm):
                block.add_module(conv_name, _scaled(conv, *_scale_and_shift(bn)))
                delattr(block, bn_name)
    for se in network.modules():
        if isinstance(se, SqueezeExcite) and isinstance(se.bn, _BatchNorm):
            se.reduce = _scaled_conv(se.reduce, *_scale_and_shift(se.bn))
            se.bn = nn.Identity()


def _scale_and_shift(bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return batch normalization in evaluation mode as ``scale * x + shift``, in float64."""
    if bn.running_mean is None or bn.running_var is None:
        raise ArgumentError("a batch normalization keeps no running statistics; only fixed ones can be folded")
    scale = 1 / torch.sqrt(float64(bn.running_var) + bn.eps)
    shift = -float64(bn.running_mean) * scale
    if bn.affine:
        weight = float64(bn.weight)
        scale, shift = scale * weight, shift * weight + float64(bn.bias)
    return scale, shift


def _scaled(conv: Conv2d | MixedConv, scale: Tensor, shift: Tensor) -> Conv2d | MixedConv:
    if isinstance(conv, Conv2d):
        return _scaled_conv(conv, scale, shift)
    convs = convs_of(conv)
    sizes = [part.out_channels for part in convs]
    parts = zip(convs, torch.split(scale, sizes), torch.split(shift, sizes), strict=True)
    return MixedConv(_scaled_conv(*part) for part in parts)


def _scaled_conv(conv: Conv2d, scale: Tensor, shift: Tensor) -> Conv2d:
    bias = shift if conv.bias is None else shift + scale * float64(conv.bias)
    return with_weights(conv, float64(conv.weight) * scale.view(-1, 1, 1, 1), bias)
