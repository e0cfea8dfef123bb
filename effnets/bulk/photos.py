"""Classify photo files as a stream of results, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from effnets.errors import ArgumentError, ImageError
from effnets.inference.image import PhotoResult
from effnets.inference.labels import rank
from effnets.inference.pipeline import Pipeline


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

    def load(photo: PhotoResult) -> Any:
        if photo.error:
            raise ImageError(photo.error)
        return pipeline.predictor.prepare(photo.path)

    for photo, logits, error in pipeline.run(photos, load):
        if isinstance(error, ArgumentError):
            raise error
        if logits is None:
            photo.error = str(error)
        else:
            photo.predictions = rank(logits[None], pipeline.predictor.class_names, topk)[0]
        yield photo
