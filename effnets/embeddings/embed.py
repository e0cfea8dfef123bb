"""`embed`: images as vectors that are near each other where the images show the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from effnets.bulk.photos import run_photos
from effnets.engines.base import Engine
from effnets.errors import WeightsError
from effnets.inference.image import ImageSource, PhotoResult
from effnets.inference.pipeline import Pipeline
from effnets.inference.predictor import Decode, create_predictor

if TYPE_CHECKING:
    from torch import nn


def embed(
    model: nn.Module | Engine,
    images: ImageSource | Iterable[ImageSource],
    *,
    normalize: bool = True,
    stage: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    decode: Decode = "exact",
    on_error: Literal["raise", "skip"] = "raise",
) -> NDArray[np.float32]:
    """Embed images with the preprocessing that belongs to the model's weights.

    Args:
        model: a classifier, also inside of torch.compile or DataParallel, or without classes (``num_classes=0``); or an
            engine of a file that was exported with ``embedding=True``. Modes and threads as of `effnets.predict`.
        images: as of `effnets.predict`.
        normalize: divide every vector by its length, so that products of vectors are cosines of their angles.
        stage: of the network whose last feature map is averaged over all places, as `effnets show` numbers them; None
            takes the input of the classifier, ``forward_head(forward_features(x), pre_logits=True)``.
        input_size: as of `effnets.predict`.
        batch_size: likewise.
        workers: likewise.
        decode: likewise.
        on_error: "raise" at the first image that cannot be read, or "skip" it with a warning, and a row of NaN.

    Returns:
        A row for each image, float32 ``[N, D]``.

    Raises:
        ImageError, MissingFileError: if an image cannot be read and on_error is "raise"; the message names it.
        ArgumentError: if the model has no such stage, or was exported without an embedding; or as of `effnets.predict`.
        WeightsError: if an embedding is not finite.
    """
    predictor = create_predictor(model, input_size, decode=decode, classify=False)
    infer = partial(predictor.embed, stage=stage)
    rows: list[NDArray[np.float32] | None] = []
    for row in predictor.outputs(images, infer, batch_size, on_error, workers):
        if isinstance(row, str):
            warnings.warn(f"skipped: {row}", stacklevel=2)
            rows.append(None)
        else:
            rows.append(finish(row, normalize=normalize))
    found = [row for row in rows if row is not None]
    vectors = np.full((len(rows), len(found[0]) if found else predictor.embedding_size(stage)), np.nan, np.float32)
    if found:
        vectors[[row is not None for row in rows]] = found
    return vectors


def finish(vector: NDArray[np.float32], *, normalize: bool) -> NDArray[np.float32]:
    """Return a vector, on request divided by its length; raises WeightsError if it is not finite."""
    if not np.isfinite(vector).all():
        raise WeightsError("an embedding is not finite: the weights hold NaN or infinity, or the precision overflows")
    length: Any = np.linalg.norm(vector)
    return vector / length if normalize and length > 0 else vector


def embed_photos(
    pipeline: Pipeline, photos: Iterable[PhotoResult], *, stage: int | None = None, normalize: bool = True
) -> Iterator[tuple[PhotoResult, NDArray[np.float32] | None]]:
    """Yield photo files, as of `effnets.bulk.photos.run_photos`, with their vectors ``[D]``, or None and an error.

    Raises as `embed`, but not for files that cannot be read.
    """
    for photo, vector in run_photos(pipeline, photos, partial(pipeline.predictor.embed, stage=stage)):
        yield photo, None if vector is None else finish(vector, normalize=normalize)
