"""What an engine makes of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnets.engines.base import Engine
from effnets.errors import ArgumentError
from effnets.runtime.image import ImageSource, color_mode, load_rgb
from effnets.runtime.pixels import image_to_array
from effnets.runtime.predictions import Prediction, rank
from effnets.utils.arguments import check_size

__all__ = ["EngineClassifier"]


class EngineClassifier:
    """An engine and the preprocessing of its weights, for `effnets.inference`.

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
