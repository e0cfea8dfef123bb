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

from effnets.train.data.source import ImageSource

__all__ = ["Pictures", "cores", "default_workers"]

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

    Threads read and decode ahead: Pillow lets others work meanwhile.

    Args:
        source: the split.
        transform: from a picture to the network's input.
        batch_size: pictures at a time.
        indices: which pictures, in this order; None for all.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: Callable[[Image.Image], Tensor],
        batch_size: int,
        indices: Sequence[int] | None = None,
    ) -> None:
        self.source, self.transform, self.batch_size = source, transform, batch_size
        self.indices = list(range(len(source)) if indices is None else indices)
        self._kept: list[_Piece] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._kept:
            yield from ((piece.images, piece.labels) for piece in self._kept)
            return
        kept: list[_Piece] = []
        room = _KEPT_BYTES
        for start, images in self._decoded():
            labels = torch.from_numpy(self.source.labels[self.indices[start : start + len(images)]]).long()
            room -= images.nbytes
            if room >= 0:
                kept.append(_Piece(images=images, labels=labels))
            yield images, labels
        if room >= 0:
            self._kept = kept

    def _decoded(self) -> Iterator[tuple[int, Tensor]]:
        ahead: deque[Future[Tensor]] = deque()
        with ThreadPoolExecutor(cores()) as threads:
            pending = iter(self.indices)
            try:
                for start in range(0, len(self.indices), self.batch_size):
                    count = min(self.batch_size, len(self.indices) - start)
                    while len(ahead) < 2 * self.batch_size and (index := next(pending, None)) is not None:
                        ahead.append(threads.submit(self._one, index))
                    yield start, torch.stack([ahead.popleft().result() for _ in range(count)])
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

    def _one(self, index: int) -> Tensor:
        return self.transform(self.source.image(index))
