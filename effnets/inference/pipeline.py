"""Read, prepare and infer many images: batches go through a pool of threads, and come out in order. Free of torch.

Each thread takes a batch all the way, from files to outputs, so that no core waits for a stage to catch up: while one
batch is decoded, another is in the network. Pillow, NumPy and the engines release Python's lock meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.errors import ArgumentError, EffnetsError, ImageError, MissingFileError
from effnets.utils.machine import cpu_count
from effnets.utils.threads import map_in_order, shared_context

if TYPE_CHECKING:
    from effnets.inference.predictor import Predictor

_Item = TypeVar("_Item")

_MAX_WORKERS = 16
_BATCHES_AHEAD = 2  # of each thread
# Pillow takes the memory of an image in blocks of 16 MB. Kept, they need not be cleared by the system for every image.
_BLOCKS = 4


class Output(NamedTuple, Generic[_Item]):
    """What became of one image: the network's output, float32 ``[D]``, or the error that prevented it."""

    item: _Item
    values: NDArray[np.float32] | None
    error: EffnetsError | None = None


@dataclass(slots=True)
class Timing:
    """Seconds that threads spent in all, by what they did."""

    images: int = 0
    loading: float = 0.0
    inference: float = 0.0


class Pipeline:
    """Read images, and infer.

    Args:
        predictor: of the model.
        batch_size: images at a time in a thread; None takes what is fast on the model's device.
        workers: threads; None takes one for each core, up to 16.

    Attributes:
        concurrency: how many threads may be in the network at a time: all, each with its share of the cores, or one
            after the other, if the engine itself divides its work.
        timing: of all runs so far.
    """

    def __init__(self, predictor: Predictor, *, batch_size: int | None = None, workers: int | None = None) -> None:
        self.predictor = predictor
        self.batch_size = batch_size or predictor.batch_size
        self.workers = 1 if predictor.in_order else workers or min(cpu_count(), _MAX_WORKERS)
        self.concurrency = self.workers if predictor.concurrent else 1
        self.timing = Timing()
        self._entrance = threading.BoundedSemaphore(self.concurrency)
        self._lock = threading.Lock()

    def run(
        self,
        items: Iterable[_Item],
        load: Callable[[_Item], Any],
        infer: Callable[[Sequence[Any]], NDArray[np.float32]] | None = None,
    ) -> Iterator[Output[_Item]]:
        """Yield the output of every item, in order.

        Args:
            items: taken in the caller's thread, no more than two batches for each thread before their outputs are.
            load: returns an item's image as the network's input; called in threads.
            infer: returns outputs ``[N, D]`` of N inputs; None takes the predictor's logits.

        Raises:
            Exception: what `load` raises, other than an ImageError, a MissingFileError or an ArgumentError, which are
                parts of outputs; what `infer` raises; what the items raise.
        """

        def put_through(batch: list[_Item]) -> list[Output[_Item]]:
            return self._put_through(batch, load, infer or self.predictor.logits)

        pending = iter(items)
        batches = iter(lambda: list(islice(pending, self.batch_size)), [])
        first = list(islice(batches, self.workers))
        if len(first) < self.workers:  # few images: all cores for each of them
            for batch in first:
                yield from put_through(batch)
            return
        with _memory_of_images(self.workers), self.predictor.shared_by(self.concurrency):
            ahead = _BATCHES_AHEAD * self.workers
            for outputs in map_in_order(put_through, chain(first, batches), workers=self.workers, ahead=ahead):
                yield from outputs

    def _put_through(
        self,
        batch: list[_Item],
        load: Callable[[_Item], Any],
        infer: Callable[[Sequence[Any]], NDArray[np.float32]],
    ) -> list[Output[_Item]]:
        begin = time.thread_time()
        loaded = [_attempt(load, item) for item in batch]
        loading = time.thread_time() - begin
        inputs = [one for one in loaded if not isinstance(one, EffnetsError)]
        values: Iterator[NDArray[np.float32]] = iter(())
        inference = 0.0
        if inputs:
            with self._entrance:
                begin = time.perf_counter()
                values = iter(infer(inputs))
                inference = time.perf_counter() - begin
        with self._lock:
            self.timing.images += len(inputs)
            self.timing.loading += loading
            self.timing.inference += inference
        return [
            Output(item, None, one) if isinstance(one, EffnetsError) else Output(item, next(values))
            for item, one in zip(batch, loaded, strict=True)
        ]


def _attempt(load: Callable[[_Item], Any], item: _Item) -> Any:
    """Return what is loaded, or the error of the image."""
    try:
        return load(item)
    except (ImageError, MissingFileError, ArgumentError) as error:
        return error


@shared_context
@contextmanager
def _memory_of_images(workers: int) -> Iterator[None]:
    """Let Pillow keep some of its memory from one image to the next."""
    core: Any = Image.core  # type: ignore[attr-defined]
    before = core.get_blocks_max()
    core.set_blocks_max(max(before, _BLOCKS * workers))
    try:
        yield
    finally:
        core.set_blocks_max(before)
