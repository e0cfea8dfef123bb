"""Photographs in, named predictions out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from os import PathLike

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from effnets.errors import ArgumentError
from effnets.nn.classifier import Classifier
from effnets.preprocess import create_transform
from effnets.runtime.image import ImageSource
from effnets.runtime.labels import class_names
from effnets.runtime.predictions import Prediction, rank

__all__ = ["classify", "predict"]


def predict(
    model: Classifier,
    images: ImageSource | Iterable[ImageSource],
    topk: int = 5,
    input_size: int | tuple[int, int] | None = None,
    *,
    batch_size: int = 16,
) -> list[list[Prediction]]:
    """Classify photographs with the preprocessing that belongs to the model's weights.

    Args:
        model: a classifier; it is run in evaluation mode, and left in the mode it was in.
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
    if batch_size < 1:
        raise ArgumentError(f"batch_size is {batch_size}; it must be at least 1")
    transform = create_transform(model, input_size=input_size)
    pending = iter([images] if isinstance(images, str | PathLike | Image.Image | np.ndarray) else images)
    predictions: list[list[Prediction]] = []
    while chunk := list(islice(pending, batch_size)):
        predictions += classify(model, torch.stack([transform(image) for image in chunk]), topk)
    return predictions


def classify(model: Classifier, batch: Tensor, topk: int = 5) -> list[list[Prediction]]:
    """Predictions for a normalised batch ``[N, in_chans, H, W]``; arguments and errors as `predict`."""
    if not isinstance(model, Classifier) or not model.num_classes:
        raise ArgumentError("this model has no classifier; build it without features_only and with num_classes above 0")
    names: Sequence[str] = model.class_names or class_names(model.num_classes)
    weight = next(model.parameters())
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits = model(batch.to(device=weight.device, dtype=weight.dtype))
    finally:
        model.train(was_training)
    if logits.ndim != 2:
        raise ArgumentError("this model has global_pool='none' and judges every place; pool to classify an image")
    return rank(logits.float().cpu().numpy(), names, topk)
