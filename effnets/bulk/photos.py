"""Put photo files, or the content of such, through a network, and classify them, as a stream of results, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnets.errors import ArgumentError, ImageError
from effnets.inference.image import PhotoResult, decode_image
from effnets.inference.pipeline import Pipeline
from effnets.inference.predictor import Predictor


@dataclass(slots=True)
class StoredPhoto(PhotoResult):
    """A photo that is no file by itself: `read` returns its content, or raises an ImageError."""

    read: Callable[[], bytes] | None = None


def prepare_photo(predictor: Predictor, photo: PhotoResult) -> Any:
    """Return the model's input for a photo.

    Raises:
        ImageError, MissingFileError: if it cannot be read, or has an error already.
        ArgumentError: if its path is an address.
    """
    if photo.error:
        raise ImageError(photo.error)
    if isinstance(photo, StoredPhoto) and photo.read:
        image = decode_image(photo.read(), photo.path, predictor.channels, min_side=predictor.min_side)
        return predictor.prepare(image)
    return predictor.prepare(photo.path)


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
        if prepare and not photo.error:
            return prepare(photo.path)
        return prepare_photo(pipeline.predictor, photo)

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
            photo.predictions = pipeline.predictor.predictions(logits[None], topk)[0]
        yield photo
