"""Measure the rank of a trained network's features over photographs, layer by layer (arXiv:2007.00992, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from effnets.errors import ArgumentError
from effnets.inference.image import ImageSource
from effnets.inference.predictor import TorchPredictor
from effnets.nn.blocks import LinearBottleneck
from effnets.nn.classifier import Classifier
from effnets.nn.utils import evaluating
from effnets.search.rank import THRESHOLDS, check_threshold, gram, rank_ratios
from effnets.utils.arguments import check_integer


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRank:
    """The rank ratios of one layer's features.

    Attributes:
        name: ``stages.2.0.expand``; of a whole block, ``stages.2.0``.
        in_channels, channels: that enter and leave the layer. samples: places of all images, which limit the rank
            where they are fewer than the channels.
        ranks: for each threshold, the share of the channels' dimensions that the features fill.
    """

    name: str
    in_channels: int
    channels: int
    samples: int
    ranks: tuple[float, ...]

    @property
    def channel_ratio(self) -> float:
        """d_in / d_out."""
        return self.in_channels / self.channels

    @property
    def limited(self) -> bool:
        """Whether there are too few places for full rank."""
        return self.samples < self.channels


def layer_ranks(
    model: Classifier,
    images: Iterable[ImageSource],
    *,
    input_size: int | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    batch_size: int = 4,
    progress: Callable[[str, float], object] | None = None,
) -> list[LayerRank]:
    """Measure stem, blocks, their expansions and depthwise convolutions, and the head, after their activations.

    Args:
        model: a classifier of `effnets.create_model`.
        images: as of `effnets.predict`. Full rank needs as many places, over all of them, as a layer has channels: of a
            head of 1280 channels with maps of 7×7, 27 images.
        input_size: side of the input in pixels; None takes the model's own.
        thresholds: singular values above this share of the largest count.
        batch_size: images in memory at a time.
        progress: called with what is done and the share that is.

    Raises:
        ArgumentError: no images, or a number is out of range. ImageError, MissingFileError: an image cannot be read.
    """
    check_integer("batch_size", batch_size, 1, "it must be at least 1")
    for threshold in thresholds:
        check_threshold(threshold)
    pending = list(images)
    if not pending:
        raise ArgumentError("images is empty; give photographs to measure the features of")
    predictor = TorchPredictor(model, input_size)
    products: dict[str, Tensor] = {}
    samples: dict[str, int] = {}

    def collect(name: str, features: Tensor) -> None:
        products[name] = products.get(name, torch.zeros(())) + gram(features)
        samples[name] = samples.get(name, 0) + features.shape[0] * features.shape[2] * features.shape[3]

    layers = list(_layers(model))
    with ExitStack() as stack:
        for name, _, module in layers:
            hook = module.register_forward_hook(lambda _m, _i, output, name=name: collect(name, output))
            stack.callback(hook.remove)
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode())
        batches = iter(pending)
        done = 0
        while batch := list(islice(batches, batch_size)):
            if progress is not None:
                progress("reading features", done / len(pending))
            predictor.logits([predictor.prepare(image) for image in batch])
            done += len(batch)
    return [
        LayerRank(
            name=name,
            in_channels=in_channels,
            channels=len(products[name]),
            samples=samples[name],
            ranks=tuple(rank_ratios(products[name], thresholds)),
        )
        for name, in_channels, _ in layers
    ]


def _layers(model: Classifier) -> Iterator[tuple[str, int, nn.Module]]:
    """Yield the name, the input channels and the module of each layer, in the order in which they run."""
    plan = model.plan
    yield "stem", plan.stem.in_channels, model.stem
    for stage, (blocks, plans) in enumerate(zip(model.stages, plan.stages, strict=True)):
        assert isinstance(blocks, nn.Sequential)
        for index, (block, block_plan) in enumerate(zip(blocks, plans, strict=True)):
            name = f"stages.{stage}.{index}"
            expand = getattr(block, "expand", None)
            if block_plan.expand and isinstance(expand, nn.Module):
                yield f"{name}.expand", block_plan.in_channels, expand
            # ReXNet's activation follows squeeze-and-excite, not the convolution.
            depthwise = block.act if isinstance(block, LinearBottleneck) else getattr(block, "depthwise", None)
            if isinstance(depthwise, nn.Module):
                yield f"{name}.depthwise", block_plan.expanded_channels, depthwise
            yield name, block_plan.in_channels, block
    if plan.head:
        yield "head", plan.head.in_channels, model.head
