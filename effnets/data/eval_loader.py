"""Load labeled images in order, in batches, for validation, evaluation and statistics. Free of torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.errors import EffnetsError, ImageError, MissingFileError
from effnets.inference.arrays import Pixels
from effnets.utils.machine import cpu_count

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
    """Batches of a dataset's images, in order; threads read and decode, which Pillow lets run side by side.

    Args:
        dataset: of the images.
        prepare: from an image to the model's input.
        batch_size: images in a batch.
        indices: which images, in this order; None for all.
        workers: threads.
        prefetch: decode the next batches ahead; otherwise each is decoded when it is asked for, so that
            decoding and the model can be timed apart.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        prepare: Callable[[Pixels], Any],
        batch_size: int,
        indices: Sequence[int] | None = None,
        *,
        workers: int | None = None,
        prefetch: bool = True,
    ) -> None:
        self.dataset, self.prepare, self.batch_size = dataset, prepare, batch_size
        self.indices = list(range(len(dataset)) if indices is None else indices)
        self.workers = workers or cpu_count()
        self._ahead = 2 * batch_size if prefetch else batch_size

    def __iter__(self) -> Iterator[EvalBatch]:
        pending = iter(self.indices)
        futures: deque[tuple[int, Future[Any]]] = deque()
        with ThreadPoolExecutor(self.workers) as threads:
            try:
                for start in range(0, len(self.indices), self.batch_size):
                    while len(futures) < self._ahead and (index := next(pending, None)) is not None:
                        futures.append((index, threads.submit(self._load, index)))
                    count = min(self.batch_size, len(self.indices) - start)
                    loaded = {index: future.result() for index, future in (futures.popleft() for _ in range(count))}
                    corrupt = {index: str(one) for index, one in loaded.items() if isinstance(one, EffnetsError)}
                    readable = [index for index in loaded if index not in corrupt]
                    yield EvalBatch(np.array(readable, np.int64), [loaded[index] for index in readable], corrupt)
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

    def _load(self, index: int) -> Any:
        try:
            return self.prepare(self.dataset.image(index))
        except (ImageError, MissingFileError) as error:
            return error
