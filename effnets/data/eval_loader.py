"""Load labeled images in order, in batches, for validation and statistics. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.errors import EffnetsError, ImageError, MissingFileError
from effnets.inference.arrays import Pixels
from effnets.utils.machine import cpu_count
from effnets.utils.threads import map_in_order

_MAX_WORKERS = 8


def default_workers() -> int:
    """Return one loader process for each core, up to where decoding is faster than any network here learns."""
    return min(cpu_count(), _MAX_WORKERS)


class EvalBatch(NamedTuple):
    """Indices ``[n]`` of the readable images of a batch, their inputs, and errors by index of the others."""

    indices: NDArray[np.int64]
    inputs: list[Any]
    corrupt: dict[int, str]


class EvalLoader:
    """Batches of a dataset's images, in order; threads read and decode two batches ahead.

    Args:
        dataset: of the images.
        prepare: from an image to the model's input.
        batch_size: images in a batch.
        indices: which images, in this order; None for all.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        prepare: Callable[[Pixels], Any],
        batch_size: int,
        indices: Sequence[int] | None = None,
    ) -> None:
        self.dataset, self.prepare, self.batch_size = dataset, prepare, batch_size
        self.indices = list(range(len(dataset)) if indices is None else indices)

    def __iter__(self) -> Iterator[EvalBatch]:
        loaded = map_in_order(self._load, self.indices, workers=cpu_count(), ahead=2 * self.batch_size)
        pending = zip(self.indices, loaded, strict=True)
        while chunk := dict(islice(pending, self.batch_size)):
            corrupt = {index: str(one) for index, one in chunk.items() if isinstance(one, EffnetsError)}
            readable = [index for index in chunk if index not in corrupt]
            yield EvalBatch(np.array(readable, np.int64), [chunk[index] for index in readable], corrupt)

    def _load(self, index: int) -> Any:
        try:
            return self.prepare(self.dataset.image(index))
        except (ImageError, MissingFileError) as error:
            return error
