"""Batches of a split for evaluation: transformed, in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from effnets.data.checks import CorruptImages, allowed_corrupt
from effnets.data.dataset import ImageDataset
from effnets.errors import ImageError

# Of decoded images that are kept from one pass to the next.
_KEPT_BYTES = 512 << 20
_MAX_WORKERS = 8


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Return the number of processes that load images: one per core, up to where decoding outpaces any network here."""
    return min(cores(), _MAX_WORKERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    images: Tensor
    labels: Tensor


class EvalLoader:
    """Batches of images [N, C, H, W] and labels [N], the same in every pass; a small set stays in memory.

    Threads read and decode ahead, since Pillow releases the interpreter's lock. Not every data set is checked
    beforehand, and a check does not find every fault: corrupt images are left out of their batches, with a warning.

    Args:
        dataset: the split.
        transform: from an image to the network's input.
        batch_size: images in a batch.
        indices: of the images, in this order; None for all.
        strict: raise an error for a corrupt image instead of leaving it out.

    Attributes:
        corrupt: the images that were left out.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        transform: Callable[[Image.Image], Tensor],
        batch_size: int,
        indices: Sequence[int] | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self.dataset, self.transform, self.batch_size = dataset, transform, batch_size
        self.indices = list(range(len(dataset)) if indices is None else indices)
        self.corrupt = CorruptImages(len(self.indices), 0 if strict else allowed_corrupt(len(self.indices)))
        self._kept: list[_Piece] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches.

        Raises:
            DataError: if more than 5 % and more than 3 images are corrupt, or all are; the message names them.
        """
        if self._kept:
            yield from ((piece.images, piece.labels) for piece in self._kept)
            return
        kept: list[_Piece] = []
        room = _KEPT_BYTES
        for indices, images in self._decoded():
            labels = torch.from_numpy(self.dataset.labels[indices]).long()
            room -= images.nbytes
            if room >= 0:
                kept.append(_Piece(images=images, labels=labels))
            yield images, labels
        if room >= 0:
            self._kept = kept

    def _decoded(self) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the indices and images of each batch."""
        ahead: deque[tuple[int, Future[Tensor | ImageError]]] = deque()
        with ThreadPoolExecutor(cores()) as threads:
            pending = iter(self.indices)
            try:
                for start in range(0, len(self.indices), self.batch_size):
                    count = min(self.batch_size, len(self.indices) - start)
                    while len(ahead) < 2 * self.batch_size and (index := next(pending, None)) is not None:
                        ahead.append((index, threads.submit(self._one, index)))
                    found = {index: future.result() for index, future in (ahead.popleft() for _ in range(count))}
                    images = {index: image for index, image in found.items() if isinstance(image, Tensor)}
                    self.corrupt.note({index: str(one) for index, one in found.items() if index not in images})
                    if images:
                        yield list(images), torch.stack(list(images.values()))
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

    def _one(self, index: int) -> Tensor | ImageError:
        try:
            return self.transform(self.dataset.image(index))
        except ImageError as error:
            return error
