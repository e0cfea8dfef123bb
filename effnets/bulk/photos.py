"""Put photo files through a network, and classify them, as a stream of results, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnets.errors import ArgumentError, ImageError
from effnets.inference.image import PhotoResult
from effnets.inference.labels import rank
from effnets.inference.pipeline import Pipeline


def run_photos(
    pipeline: Pipeline,
    photos: Iterable[PhotoResult],
    infer: Callable[[Sequence[Any]], NDArray[np.float32]] | None = None,
    prepare: Callable[[str], Any] | None = None,
) -> Iterator[tuple[PhotoResult, NDArray[np.float32] | None]]:
    """Yield every photo, in order, with the output of the network, or None and its error.

    Args:
        pipeline: of the model.
        photos: as of `effnets.inference.image.find_photos`; those with an error pass as they are.
        infer: as of `Pipeline.run`.
        prepare: returns the network's input of a file; None takes the predictor's way.

    Raises:
        ArgumentError: if a path is an address.
    """

    def load(photo: PhotoResult) -> Any:
        if photo.error:
            raise ImageError(photo.error)
        return (prepare or pipeline.predictor.prepare)(photo.path)

    for photo, values, error in pipeline.run(photos, load, infer):
        if isinstance(error, ArgumentError):
            raise error
        if values is None:
            photo.error = str(error)
        yield photo, values


def classify_photos(pipeline: Pipeline, photos: Iterable[PhotoResult], topk: int) -> Iterator[PhotoResult]:
    """Yield every photo, in order, with its predictions or the error that prevented them.

    Args:
        pipeline: of the model.
        photos: as of `effnets.inference.image.find_photos`; those with an error pass as they are.
        topk: predictions for each.

    Raises:
        ArgumentError: if a path is an address.
        WeightsError: if logits are not finite.
    """
    for photo, logits in run_photos(pipeline, photos):
        if logits is not None:
            photo.predictions = rank(logits[None], pipeline.predictor.class_names, topk)[0]
        yield photo
