"""In which order pictures are learned from, as a function of seed and epoch. Free of torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.errors import ArgumentError

# Pictures of so many shards are mixed; fewer would leave neighbours together, more want more room where they lie.
SHARDS_AT_ONCE = 4


def shuffled_order(length: int, seed: int, epoch: int, shards: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """[length]; every index once.

    Args:
        length: how many there are.
        seed: what the order depends on, with the `epoch`.
        epoch: likewise.
        shards: [length]; where they are given, their order is shuffled, and the pictures of every four in turn.
    """
    generator = np.random.default_rng((seed, epoch))
    if shards is None:
        return generator.permutation(length)
    by_shard = np.argsort(shards, kind="stable")
    numbers, starts = np.unique(shards[by_shard], return_index=True)
    pictures = [np.asarray(part) for part in np.split(by_shard, starts[1:])]
    order = generator.permutation(len(numbers))
    turns = [order[start : start + SHARDS_AT_ONCE] for start in range(0, len(order), SHARDS_AT_ONCE)]
    return np.concatenate([generator.permutation(np.concatenate([pictures[one] for one in turn])) for turn in turns])


def some_images(source: ImageDataset, seed: int, count: int) -> NDArray[np.int64]:
    """[at most `count`]; indices of pictures drawn by `seed`, of few shards where `source` has any."""
    if source.shards is not None:
        return shuffled_order(len(source), seed, 0, source.shards)[:count]
    return np.random.default_rng(seed).permutation(len(source))[:count]


def balanced_order(labels: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """[len(labels)]; indices of which every class that has pictures gets the same number, to within one.

    A class's pictures come round by turns: none a second time before all others of it came once.
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


def occurrences(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """[len(order)]; how often each index stands further left already."""
    by_index = np.argsort(order, kind="stable")
    _, starts, counts = np.unique(order[by_index], return_index=True, return_counts=True)
    result = np.empty_like(order)
    result[by_index] = np.arange(len(order)) - np.repeat(starts, counts)
    return result


def class_weights(labels: NDArray[np.int64], classes: int, *, power: float = 1.0) -> NDArray[np.float32]:
    """[classes]; weights of the loss against class imbalance: count ** -power, 1 on average over the pictures.

    Args:
        labels: of all training pictures.
        classes: how many there are; those without pictures weigh 0.
        power: 1 makes all classes count the same, 0 all pictures, 0.5 is between.

    Raises:
        ArgumentError: there are no pictures.
    """
    if not len(labels):
        raise ArgumentError("labels are empty; weights need pictures to count")
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = np.divide(1.0, counts**power, out=np.zeros_like(counts), where=counts > 0)
    return np.asarray(weights * counts.sum() / (weights * counts).sum(), np.float32)
