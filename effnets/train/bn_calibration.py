"""Batch statistics measured on the photographs to be learned: where they were lost, or where these look otherwise.

Weights that come back from a format for deployment have their batch normalisations folded into the convolutions, and
identities in their place: mean 0, variance 0.999. They compute what they should, but to train with them destroys the
network within a few steps: normalising by the batch is another function altogether. Measured on the photographs to
be learned, mean and variance are real again, and scale and shift can be chosen such that nothing changes.

Weights that have their statistics have those of other pictures, with other light and other cameras. A backbone that is
frozen cannot get used to ours otherwise than by these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from effnets.nn.utils import evaluating


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

    count: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, seen: Tensor) -> None:
        """Those of `seen`, [N, C, H, W]."""
        values = (seen.cpu() if seen.device.type == "mps" else seen).double()  # which Apple's devices do not have
        self.count += values.numel() // values.shape[1]
        self.total = self.total + values.sum((0, 2, 3))
        self.squares = self.squares + values.square().sum((0, 2, 3))

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """[C] each; of at least two values."""
        mean = self.total / self.count
        return mean, (self.squares / self.count - mean.square()).clamp(min=0) * self.count / (self.count - 1)


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
    images = 0
    with _observed(model) as moments:
        for batch in batches:
            model(batch)
            images += len(batch)
    for norm, seen in moments.items():
        if seen.count > 1:
            _reparameterise(norm, seen)
    return images


@torch.no_grad()
def adapt_statistics(model: nn.Module, batches: Iterable[Tensor], *, own: int) -> int:
    """Move the statistics of each batch normalisation towards those of `batches`; this changes what is computed.

    Li et al. 2016 (arXiv:1603.04779): what tells one source of pictures from another lies to a good part in means and
    variances. Each layer sees what the layers before it give when these normalise by the batch.

    Args:
        model: the network; its mode and all its parameters are kept.
        batches: of images [N, C, H, W], the classes mixed; a batch of a single image is passed over.
        own: as how many images the statistics count that are there.

    Returns:
        The number of images seen.
    """
    images = 0
    with _observed(model) as moments:
        for norm in moments:
            norm.training, norm.track_running_stats = True, False  # by the batch, and noted nowhere
        try:
            for batch in batches:
                if len(batch) > 1:
                    model(batch)
                    images += len(batch)
        finally:
            for norm in moments:
                norm.training, norm.track_running_stats = False, True
    share = images / max(images + own, 1)
    for norm, seen in moments.items():
        if images:
            mean, variance = seen.mean_and_variance()
            _running(norm.running_mean).lerp_(mean.to(norm.weight.dtype), share)
            _running(norm.running_var).lerp_(variance.to(norm.weight.dtype), share)
    return images


@contextmanager
def _observed(model: nn.Module) -> Iterator[dict[nn.BatchNorm2d, _Moments]]:
    """Evaluation mode for a while, in which the moments of what enters each normalisation are summed up."""
    moments = {part: _Moments() for part in model.modules() if isinstance(part, nn.BatchNorm2d)}

    def observe(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d), "only these are listened to"
        moments[norm].add(inputs[0])

    handles = [norm.register_forward_pre_hook(observe) for norm in moments]
    try:
        with evaluating(model):
            yield moments
    finally:
        for handle in handles:
            handle.remove()


def _running(statistic: Tensor | None) -> Tensor:
    assert statistic is not None, "the builder's normalisations all keep statistics"
    return statistic


def _reparameterise(norm: nn.BatchNorm2d, seen: _Moments) -> None:
    running_mean, running_var = _running(norm.running_mean), _running(norm.running_var)
    before = (running_var.double() + norm.eps).sqrt()
    # As stored in single precision, so that what is left of rounding does not shift the function.
    mean, variance = (value.to(running_mean.dtype) for value in seen.mean_and_variance())
    shift = norm.bias.double() + norm.weight.double() * (mean.double() - running_mean.double()) / before
    scale = norm.weight.double() * (variance.double() + norm.eps).sqrt() / before
    norm.bias.copy_(shift)
    norm.weight.copy_(scale)
    running_mean.copy_(mean)
    running_var.copy_(variance)
