"""Batch statistics that were lost, measured anew.

Weights that come back from a format for deployment have their batch normalisations folded into the convolutions, and
identities in their place: mean 0, variance 0.999. They compute what they should, but to train with them destroys the
network within a few steps: normalising by the batch is another function altogether. Measured on the photographs to
be learned, mean and variance are real again, and scale and shift can be chosen such that nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["has_identity_statistics", "restore_statistics"]


def has_identity_statistics(model: nn.Module) -> bool:
    """Whether no batch normalisation of `model` has statistics: all means are 0, and all variances the same."""
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    if not norms or any(norm.running_mean is None or norm.running_var is None for norm in norms):
        return False
    means = torch.cat([norm.running_mean for norm in norms if norm.running_mean is not None])
    variances = torch.cat([norm.running_var for norm in norms if norm.running_var is not None])
    return not means.any().item() and bool((variances == variances[0]).all().item())


@dataclass(slots=True)
class _Moments:
    """Sums over everything a normalisation has seen, in double precision: [C]."""

    count: int
    total: Tensor
    squares: Tensor


@torch.no_grad()
def restore_statistics(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Measure the mean and variance of what enters each batch normalisation; the network's function stays as it is.

    With mean μ, variance v and those in the network, μ₀ and v₀, the scale becomes γ·√(v + ε)/√(v₀ + ε) and the shift
    β + γ·(μ - μ₀)/√(v₀ + ε): the same in evaluation mode, and in training mode what a batch's own statistics
    deviate from it, as with any network.

    Args:
        model: the network; its mode is kept.
        batches: of images [N, C, H, W], as they are when the network is used. A few hundred images will do.

    Returns:
        The number of images seen.
    """
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    moments = {norm: _Moments(0, torch.zeros(()), torch.zeros(())) for norm in norms}

    def observe(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        seen, values = moments[norm], inputs[0].double()  # type: ignore[index]
        seen.count += values.numel() // values.shape[1]
        seen.total = seen.total + values.sum((0, 2, 3))
        seen.squares = seen.squares + values.square().sum((0, 2, 3))

    was_training, images = model.training, 0
    handles = [norm.register_forward_pre_hook(observe) for norm in norms]
    try:
        model.eval()
        for batch in batches:
            model(batch)
            images += len(batch)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    for norm, seen in moments.items():
        if seen.count > 1:
            _reparameterise(norm, seen)
    return images


def _reparameterise(norm: nn.BatchNorm2d, seen: _Moments) -> None:
    mean = seen.total / seen.count
    variance = (seen.squares / seen.count - mean.square()).clamp(min=0) * seen.count / (seen.count - 1)
    assert norm.running_mean is not None, "the builder's normalisations all keep statistics"
    assert norm.running_var is not None, "likewise"
    before = (norm.running_var.double() + norm.eps).sqrt()
    # As stored in single precision, so that what is left of rounding does not shift the function.
    mean, variance = mean.to(norm.running_mean.dtype), variance.to(norm.running_var.dtype)
    shift = norm.bias.double() + norm.weight.double() * (mean.double() - norm.running_mean.double()) / before
    scale = norm.weight.double() * (variance.double() + norm.eps).sqrt() / before
    norm.bias.copy_(shift)
    norm.weight.copy_(scale)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
