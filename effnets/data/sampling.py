"""Order of the images of an epoch and seeding of augmentations: functions of seed, epoch and index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.errors import ArgumentError


class Stream(IntEnum):
    """First part of every key, so that draws for one purpose never share a key with those for another."""

    SAMPLE = 1
    BATCH = 2


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed torch's global CPU generator, which torchvision draws from, by `key`; restore its state at the end.

    Args:
        key: the stream, then integers from 0, such as seed, epoch and index. Keys of one stream must have one length:
            NumPy ignores trailing zeros.
    """
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
    try:
        yield
    finally:
        generator.set_state(before)


def shuffled_order(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return every index once, [length], in an order drawn by (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(length)


def some_images(dataset: ImageDataset, seed: int, count: int) -> NDArray[np.int64]:
    """Return at most `count` indices drawn by `seed`; of a streamed data set, from as few files as possible."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(dataset))
    if dataset.shards is not None:
        files = generator.permutation(int(dataset.shards.max()) + 1)
        order = order[np.argsort(files[dataset.shards[order]], kind="stable")]
    return order[:count]


def balanced_order(labels: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return [len(labels)] indices, the same number of every class that has images, to within one.

    No image of a class comes a second time before all others of it came once.
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    classes, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    shares = np.full(len(classes), len(labels) // len(classes))
    shares[generator.permutation(len(classes))[: len(labels) % len(classes)]] += 1
    turns = [
        by_class[start + np.arange(share) % count] for start, share, count in zip(starts, shares, counts, strict=True)
    ]
    return generator.permutation(np.concatenate(turns))


def batches_by_class(
    labels: NDArray[np.int64], batches: int, classes: int, images: int, key: tuple[int, int]
) -> NDArray[np.int64]:
    """Return [batches · classes · images] indices: in each batch so many `images` of so many different `classes`.

    No class comes again before all others came, and no image of a class before all others of it did: a class with fewer
    than `images` has some of them twice in a batch.

    Args:
        labels: of all training images, of as many classes at least.
        batches: how many.
        classes, images: in a batch, and of each of its classes.
        key: seed and epoch, of which the draw is a function.
    """
    generator = np.random.default_rng(key)
    present = np.unique(labels)
    turns = (_Turns(generator, np.flatnonzero(labels == label)) for label in present)
    members = dict(zip(present.tolist(), turns, strict=True))
    queue: list[int] = []
    order = []
    for _ in range(batches):
        chosen: list[int] = []
        while len(chosen) < classes:
            if not queue:
                # Those that this batch has already come last, when the batch is full.
                drawn = generator.permutation(present).tolist()
                queue = sorted(drawn, key=lambda label: label in chosen)
            chosen.append(queue.pop(0))
        order += [members[label].take(images) for label in chosen]
    return np.concatenate(order)


class _Turns:
    """Indices in a random order, and in another one when all have come."""

    def __init__(self, generator: np.random.Generator, indices: NDArray[np.int64]) -> None:
        self._generator, self._indices = generator, indices
        self._left = np.array([], np.int64)

    def take(self, count: int) -> NDArray[np.int64]:
        while len(self._left) < count:
            self._left = np.concatenate([self._left, self._generator.permutation(self._indices)])
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def occurrences(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return [len(order)]: how often each index occurs before its position."""
    by_index = np.argsort(order, kind="stable")
    _, starts, counts = np.unique(order[by_index], return_index=True, return_counts=True)
    result = np.empty_like(order)
    result[by_index] = np.arange(len(order)) - np.repeat(starts, counts)
    return result


def class_weights(labels: NDArray[np.int64], classes: int, *, power: float = 1.0) -> NDArray[np.float32]:
    """Return [classes] loss weights against class imbalance: count ** -power, 1 on average over the images.

    Args:
        labels: of all training images.
        classes: how many there are; those without images weigh 0.
        power: 1 weighs all classes the same, 0 all images, 0.5 is between.

    Raises:
        ArgumentError: if there are no labels.
    """
    if not len(labels):
        raise ArgumentError("labels are empty; weights need images to count")
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = np.divide(1.0, counts**power, out=np.zeros_like(counts), where=counts > 0)
    return np.asarray(weights * counts.sum() / (weights * counts).sum(), np.float32)
