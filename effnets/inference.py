"""Photographs in, named predictions out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from effnets.arguments import check_integer
from effnets.errors import ArgumentError
from effnets.nn.classifier import Classifier
from effnets.nn.features import FeaturePyramid
from effnets.nn.unwrap import network_of
from effnets.preprocess import create_transform
from effnets.runtime.image import ImageSource
from effnets.runtime.labels import class_names
from effnets.runtime.predictions import Prediction, rank

__all__ = ["classify", "predict"]


def predict(
    model: nn.Module,
    images: ImageSource | Iterable[ImageSource],
    topk: int = 5,
    input_size: int | tuple[int, int] | None = None,
    *,
    batch_size: int = 16,
) -> list[list[Prediction]]:
    """Classify photographs with the preprocessing that belongs to the model's weights.

    Args:
        model: a classifier, also inside of torch.compile or DataParallel. It is run in evaluation mode, and each of its
            modules left in the mode it was in; threads may share it only if that is the evaluation mode.
        images: one path, PIL image or array, or several.
        topk: how many predictions for each image.
        input_size: side of the input in pixels, or (height, width); None takes the model's own.
        batch_size: images in memory at a time.

    Returns:
        For each image its predictions, the likeliest first.

    Raises:
        ImageError, MissingFileError: an image cannot be used; the message names it.
        ArgumentError: the model has no classifier, or a number is out of range.
    """
    check_integer("batch_size", batch_size, 1, "it must be at least 1")
    transform = create_transform(_classifier(model), input_size=input_size)
    if not isinstance(images, Iterable | os.PathLike | Image.Image):
        raise ArgumentError(f"images is {images!r}; give a path, a PIL image, an array, or several of them")
    pending = iter([images] if isinstance(images, str | os.PathLike | Image.Image | np.ndarray) else images)
    predictions: list[list[Prediction]] = []
    while chunk := list(islice(pending, batch_size)):
        predictions += classify(model, torch.stack([transform(image) for image in chunk]), topk)
    return predictions


def classify(model: nn.Module, batch: Tensor, topk: int = 5) -> list[list[Prediction]]:
    """Predictions for a normalised batch ``[N, in_chans, H, W]``; arguments and errors as `predict`."""
    network = _classifier(model)
    names = network.class_names or class_names(network.num_classes)
    weight = next(network.parameters())
    with _evaluating(model), torch.inference_mode():
        logits = model(batch.to(device=weight.device, dtype=weight.dtype))
    if logits.ndim != 2:
        raise ArgumentError("this model has global_pool='none' and judges every place; pool to classify an image")
    return rank(logits.float().cpu().numpy(), names, topk)


def _classifier(model: nn.Module) -> Classifier:
    network = network_of(model)
    if isinstance(network, FeaturePyramid) or not network.num_classes:
        raise ArgumentError("this model has no classifier; build it without features_only and with num_classes above 0")
    return network


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards every module's own again: parts of a model may be frozen."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
