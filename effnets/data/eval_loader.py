"""A split's pictures as a network is judged by them: transformed, in order, in batches."""

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

# Decoded pictures that are kept from one pass to the next, up to so many bytes.
_KEPT_BYTES = 512 << 20
_MAX_WORKERS = 8


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Processes that load pictures: one for each core, up to where decoding is faster than any network here learns."""
    return min(cores(), _MAX_WORKERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    images: Tensor
    labels: Tensor


class Pictures:
    """Batches of images [N, C, H, W] and labels [N], the same in every pass; a small set stays in memory.

    Threads read and decode ahead: Pillow lets others work meanwhile. Not every data set is looked through beforehand,
    and not every fault is found by that: pictures that turn out broken are left out of their batches, with a warning.

    Args:
        source: the split.
        transform: from a picture to the network's input.
        batch_size: pictures at a time.
        indices: which pictures, in this order; None for all.
        strict: leave out none.

    Attributes:
        broken: the pictures that turned out so.
    """

    def __init__(
        self,
        source: ImageDataset,
        transform: Callable[[Image.Image], Tensor],
        batch_size: int,
        indices: Sequence[int] | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self.source, self.transform, self.batch_size = source, transform, batch_size
        self.indices = list(range(len(source)) if indices is None else indices)
        self.broken = CorruptImages(len(self.indices), 0 if strict else allowed_corrupt(len(self.indices)))
        self._kept: list[_Piece] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches.

        Raises:
            DataError: more pictures are broken than may be, 5 % or 3, or none can be read; the message names them.
        """
        if self._kept:
            yield from ((piece.images, piece.labels) for piece in self._kept)
            return
        kept: list[_Piece] = []
        room = _KEPT_BYTES
        for indices, images in self._decoded():
            labels = torch.from_numpy(self.source.labels[indices]).long()
            room -= images.nbytes
            if room >= 0:
                kept.append(_Piece(images=images, labels=labels))
            yield images, labels
        if room >= 0:
            self._kept = kept

    def _decoded(self) -> Iterator[tuple[list[int], Tensor]]:
        """Indices and images of one batch after the other."""
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
                    self.broken.note({index: str(one) for index, one in found.items() if index not in images})
                    if images:
                        yield list(images), torch.stack(list(images.values()))
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

    def _one(self, index: int) -> Tensor | ImageError:
        try:
            return self.transform(self.source.image(index))
        except ImageError as error:
            return error
