"""Batch statistics measured on the training images: where the weights lack them, or where the images differ.

Weights that come back from a deployment format have their batch normalizations folded into the convolutions, and
identities in their place: mean 0, variance 0.999. They compute what they should, but training with them destroys the
network within a few steps, because normalizing by the batch is then another function. With mean and variance measured
on the training images, scale and shift can be chosen such that the network's function stays.

Weights that have statistics have those of other images, with other light and other cameras. A frozen backbone can adapt
to the training images through its statistics alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effnets.data.sampling import some_images
from effnets.evaluation.validate import ValidationLoader
from effnets.inference.transform import create_transform
from effnets.nn.utils import evaluating

if TYPE_CHECKING:
    from effnets.data.dataset import ImageDataset
    from effnets.nn.classifier import Classifier
    from effnets.train.recipe import Recipe
    from effnets.train.trainer import TrainContext

# Enough for means and variances: every image gives each channel hundreds of values in all but the last layers.
_MEASURED_IMAGES = 512


def has_identity_statistics(model: nn.Module) -> bool:
    """Return whether the batch normalizations of `model` lack statistics: all means are 0, and all variances equal."""
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    if not norms or any(norm.running_mean is None or norm.running_var is None for norm in norms):
        return False
    means = torch.cat([norm.running_mean for norm in norms if norm.running_mean is not None])
    variances = torch.cat([norm.running_var for norm in norms if norm.running_var is not None])
    return not means.any().item() and bool((variances == variances[0]).all().item())


@dataclass(slots=True)
class _Moments:
    """Sums over everything that enters a normalization, in double precision: [C]."""

    count: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, values: Tensor) -> None:
        """Add values [N, C, H, W]."""
        values = (values.cpu() if values.device.type == "mps" else values).double()  # MPS lacks double precision
        self.count += values.numel() // values.shape[1]
        self.total = self.total + values.sum((0, 2, 3))
        self.squares = self.squares + values.square().sum((0, 2, 3))

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """Return both, [C] each, of at least two values."""
        mean = self.total / self.count
        return mean, (self.squares / self.count - mean.square()).clamp(min=0) * self.count / (self.count - 1)


@torch.no_grad()
def restore_statistics(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Measure the mean and variance of what enters each batch normalization, and keep the network's function.

    With mean μ and variance v measured, and μ₀ and v₀ those in the network, the scale becomes γ·√(v + ε)/√(v₀ + ε) and
    the shift β + γ·(μ - μ₀)/√(v₀ + ε). The network computes the same in evaluation mode; in training mode it differs by
    what a batch's own statistics deviate from these, as with any network.

    Args:
        model: the network; its mode is kept.
        batches: of images [N, C, H, W], preprocessed for inference. A few hundred images suffice.

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
            _reparameterize(norm, seen)
    return images


@torch.no_grad()
def adapt_statistics(model: nn.Module, batches: Iterable[Tensor], *, own: int) -> int:
    """Move the statistics of each batch normalization towards those of `batches`; this changes the network's function.

    After Li et al. 2016 (arXiv:1603.04779): means and variances hold much of what distinguishes one domain of images
    from another. Each layer sees the output of the earlier layers when these normalize by the batch.

    Args:
        model: the network; its mode and its parameters are kept.
        batches: of images [N, C, H, W], the classes mixed; a batch of a single image is skipped.
        own: the number of images that the present statistics count for.

    Returns:
        The number of images seen.
    """
    images = 0
    with _observed(model) as moments:
        for norm in moments:
            norm.training, norm.track_running_stats = True, False  # by the batch, without recording
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
    """Evaluation mode, in which the moments of what enters each normalization are summed."""
    moments = {part: _Moments() for part in model.modules() if isinstance(part, nn.BatchNorm2d)}

    def observe(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d), "hooks are on these alone"
        moments[norm].add(inputs[0])

    handles = [norm.register_forward_pre_hook(observe) for norm in moments]
    try:
        with evaluating(model):
            yield moments
    finally:
        for handle in handles:
            handle.remove()


def _running(statistic: Tensor | None) -> Tensor:
    assert statistic is not None, "the builder's normalizations all keep statistics"
    return statistic


def _reparameterize(norm: nn.BatchNorm2d, seen: _Moments) -> None:
    running_mean, running_var = _running(norm.running_mean), _running(norm.running_var)
    before = (running_var.double() + norm.eps).sqrt()
    # Rounded to what is stored, so that the function does not shift by the rounding.
    mean, variance = (value.to(running_mean.dtype) for value in seen.mean_and_variance())
    shift = norm.bias.double() + norm.weight.double() * (mean.double() - running_mean.double()) / before
    scale = norm.weight.double() * (variance.double() + norm.eps).sqrt() / before
    norm.bias.copy_(shift)
    norm.weight.copy_(scale)
    running_mean.copy_(mean)
    running_var.copy_(variance)


def restore_if_identity(model: Classifier, recipe: Recipe, train: ImageDataset, context: TrainContext) -> str | None:
    """Measure batch statistics if the weights lack them; return a message for the user if so.

    Raises:
        TrainingInterruptedError: if a signal was received.
    """
    if recipe.weights == "random" or not has_identity_statistics(model):
        return None
    count = restore_statistics(model, _some_images(model, recipe, train, context))
    return (
        "the weights came with batch normalization folded away, without statistics to train with; these were measured "
        f"on {count} training images, and the network computes the same as before"
    )


def adapts_backbone(model: Classifier, recipe: Recipe) -> bool:
    """Return whether a linear probe moves the backbone's batch statistics towards those of the training images.

    Weights whose normalizations are folded away have no statistics to move.
    """
    return recipe.freeze == "backbone" and recipe.bn == "train" and not has_identity_statistics(model)


def adapt_backbone(model: Classifier, recipe: Recipe, train: ImageDataset, context: TrainContext) -> dict[str, Tensor]:
    """Move batch statistics halfway to those of the training images, or less far if these are few.

    Returns:
        The statistics, by their names in the model's state.

    Raises:
        DataError: if an image cannot be read, with `strict`; without, if more than 5 % and more than 3 cannot.
        TrainingInterruptedError: if a signal was received.
    """
    adapt_statistics(model, _some_images(model, recipe, train, context), own=_MEASURED_IMAGES)
    state = model.state_dict()
    return {name: state[name].cpu() for name in state if name.endswith(("running_mean", "running_var"))}


def _some_images(model: Classifier, recipe: Recipe, train: ImageDataset, context: TrainContext) -> Iterator[Tensor]:
    chosen = some_images(train, recipe.seed, _MEASURED_IMAGES)
    loader = ValidationLoader(train, create_transform(model), recipe.batch_size, chosen.tolist(), strict=context.strict)
    device = next(model.parameters()).device
    for images, _ in context.shutdown.guard(loader, "batch statistics were measured"):
        yield images.to(device, memory_format=torch.channels_last)
