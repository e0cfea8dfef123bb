"""What a model puts out for all images of a data set. Free of torch, unless the model is a torch module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnets.data.checks import allowed_corrupt, reasons
from effnets.data.dataset import ImageDataset
from effnets.errors import DataError
from effnets.evaluation.measurement import broken_of
from effnets.evaluation.result import Broken
from effnets.inference.pipeline import Output, Pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Rows of numbers, one for each image that could be read.

    Attributes:
        values: ``[N, D]`` float32. indices: ``[N]``, of the images in the data set.
        broken: images that could not be read.
    """

    values: NDArray[np.float32]
    indices: NDArray[np.int64]
    broken: tuple[Broken, ...]


def compute_outputs(
    pipeline: Pipeline,
    dataset: ImageDataset,
    infer: Callable[[Sequence[Any]], NDArray[np.float32]] | None = None,
    *,
    origin: str,
    strict: bool = False,
    progress: Callable[[float], object] | None = None,
) -> Outputs:
    """Put all images of a data set through a model.

    Args:
        pipeline: of the model.
        dataset: the images.
        infer: returns the output of prepared images; None takes the logits.
        origin: name of the images, for errors.
        strict: raise an error for an image that cannot be read; otherwise it is left out.
        progress: called with the share done, 0 to 1.

    Raises:
        ImageError: if an image cannot be read, with `strict`; the message names it.
        DataError: if more than 5 % and more than 3 images cannot be read, or all.
    """
    predictor = pipeline.predictor
    dataset = dataset.with_channels(predictor.channels)

    def load(index: int) -> Any:
        return predictor.prepare(dataset.lazy_image(index).decode(predictor.min_side))

    found: list[Output[int]] = []
    for output in pipeline.run(range(len(dataset)), load, infer):
        found.append(output)
        if progress is not None:
            progress(len(found) / len(dataset))
    broken = broken_of(dataset, found, strict=strict)
    allowed = allowed_corrupt(len(dataset))
    rows = [output.values for output in found if output.values is not None]
    if len(broken) > allowed or not rows:
        raise DataError(
            f"{origin}: {len(broken)} of the {len(dataset)} images cannot be read, and {allowed} may be left out; fix "
            "or remove them" + reasons(one.reason for one in broken)
        )
    indices = np.array([output.item for output in found if output.error is None], np.int64)
    return Outputs(values=np.stack(rows), indices=indices, broken=tuple(broken))
