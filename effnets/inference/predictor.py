"""What an engine makes of photographs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.engines.base import Engine
from effnets.errors import ArgumentError
from effnets.inference.image import ImageSource, color_mode, image_to_array, load_rgb
from effnets.inference.labels import Prediction, rank
from effnets.utils.arguments import check_integer, check_size

if TYPE_CHECKING:
    from torch import nn


class EngineClassifier:
    """An engine and the preprocessing of its weights, for `effnets.inference.predictor`.

    Raises:
        ArgumentError: the exported model takes images of another size than `input_size`, or no images at all.
    """

    def __init__(self, engine: Engine, input_size: int | tuple[int, int] | None) -> None:
        description = engine.description
        color_mode(description.channels)
        self._size = description.image_size
        if input_size is not None:
            self._size = check_size(input_size, "input_size")
        if description.size not in (None, self._size):
            height, width = description.size
            raise ArgumentError(
                f"input_size is {input_size!r}, but {description.model} was exported for {height}×{width}; "
                "leave it out, or export with dynamic_size"
            )
        self._engine = engine
        self._raw = description.input_kind == "uint8"

    def prepare(self, image: ImageSource) -> NDArray[Any]:
        """The engine's input without N; uint8 ``[H, W, C]`` where the model preprocesses by itself."""
        description = self._engine.description
        loaded = load_rgb(image, description.channels)
        if self._raw:
            return np.asarray(loaded).reshape(loaded.height, loaded.width, description.channels)
        return image_to_array(loaded, description.preprocess, self._size)

    def classify(self, batch: Sequence[NDArray[Any]], topk: int) -> list[list[Prediction]]:
        """Predictions for each prepared image."""
        # Raw images differ in size, so that they go one by one.
        inputs = [image[None] for image in batch] if self._raw else [np.stack(batch)]
        logits = np.concatenate([self._engine(images) for images in inputs])
        return rank(logits, self._engine.labels, topk)


class PhotoClassifier(Protocol):
    """What classifies photographs: a network with its transform, or an engine."""

    def prepare(self, image: ImageSource) -> Any:
        """The image as the input of `classify`."""

    def classify(self, batch: Sequence[Any], topk: int) -> list[list[Prediction]]:
        """Predictions for each prepared image."""


def predict(
    model: nn.Module | Engine,
    images: ImageSource | Iterable[ImageSource],
    topk: int = 5,
    input_size: int | tuple[int, int] | None = None,
    *,
    batch_size: int = 16,
) -> list[list[Prediction]]:
    """Classify photographs with the preprocessing that belongs to the model's weights.

    Args:
        model: a classifier, also inside of torch.compile or DataParallel, or an engine from `effnets.load_engine`. A
            classifier is run in evaluation mode, and each of its modules left in the mode it was in; threads may share
            it only if that is the evaluation mode.
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
    classifier = classifier_of(model, input_size)
    if not isinstance(images, Iterable | os.PathLike | Image.Image):
        raise ArgumentError(f"images is {images!r}; give a path, a PIL image, an array, or several of them")
    pending = iter([images] if isinstance(images, str | os.PathLike | Image.Image | np.ndarray) else images)
    predictions: list[list[Prediction]] = []
    while chunk := list(islice(pending, batch_size)):
        predictions += classifier.classify([classifier.prepare(image) for image in chunk], topk)
    return predictions


def classifier_of(model: nn.Module | Engine, input_size: int | tuple[int, int] | None = None) -> PhotoClassifier:
    """What classifies photographs with `model`, brought to `input_size`; errors as of `predict`."""
    if isinstance(model, Engine):
        return EngineClassifier(model, input_size)
    from effnets.inference.network_predictor import NetworkClassifier

    return NetworkClassifier(model, input_size)
