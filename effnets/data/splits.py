"""What is trained on, what selects, and what is measured once at the end. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.errors import ArgumentError

# Every word for a split that is understood, and what it is called here.
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSplits:
    """What a data set consists of before anything is checked or divided.

    Attributes:
        sources: by "train", "val" and "test", or one by "all"; with the same class names.
        notes: what was passed over in reading it.
        empty: classes that there are to be learned, by a folder of theirs, but no picture of.
        revision: of data that may change where they lie.
    """

    sources: Mapping[str, ImageDataset]
    notes: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """A data set in its parts, all with the same class names.

    Attributes:
        train: to learn from.
        val: to choose by: early stop, best epoch, temperature. No picture of it is in `train`.
        test: to be measured once, and never to select anything.
        notes: what the user should know: duplicates between splits, small classes, skipped pictures.
        revision: of data that may change where they lie: the commit on the Hub.
    """

    train: ImageDataset | None
    val: ImageDataset | None
    test: ImageDataset | None
    notes: tuple[str, ...] = ()
    revision: str | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all classes, in the order of the network's outputs."""
        return next(source.class_names for source in (self.train, self.val, self.test) if source is not None)


def split_validation(
    source: ImageDataset, share: float, seed: int
) -> tuple[ImageDataset, ImageDataset | None, tuple[str, ...]]:
    """Take a validation split out of `source`, the same share of every class, drawn by `seed`.

    Shares are rounded so that the whole comes out right as well: classes with the largest remainders get one more.
    Every class keeps a picture to learn from, and has one to validate by if it has two. Of pictures in shards, whole
    shards are taken, so that validation reads few of them.

    Returns:
        what is left, what was taken (None if nothing could be), and notes about classes too small.

    Raises:
        ArgumentError: the share is not in 0..1, 1 excluded.
    """
    if not 0 <= share < 1:
        raise ArgumentError(
            f"val_share is {share!r}; give the part of the training pictures to validate by, from 0 to 0.99"
        )
    if share == 0:
        return source, None, ()
    if source.shards is not None:
        return _divide_shards(source, source.shards, share, seed)
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    takes = _takes(counts, share)
    # One order of all pictures, then the first ones of every class: cheap for 10,000 classes as well.
    order = np.random.default_rng(seed).permutation(len(source))
    by_class = order[np.argsort(source.labels[order], kind="stable")]
    rank = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    taken = rank < np.repeat(takes, counts)
    single = [source.class_names[label] for label in np.flatnonzero(counts == 1)]
    notes = (
        ()
        if not single
        else (f"{named('class', single)} with a single picture: it stays in train, so nothing validates it",)
    )
    if not taken.any():
        return source, None, notes
    return source.subset(np.sort(by_class[~taken])), source.subset(np.sort(by_class[taken])), notes


def _divide_shards(
    source: ImageDataset, shards: NDArray[np.int64], share: float, seed: int
) -> tuple[ImageDataset, ImageDataset | None, tuple[str, ...]]:
    numbers = np.unique(shards)
    count = min(max(round(share * len(numbers)), 1), len(numbers) - 1)
    if count == 0:
        return source, None, ("there is one shard, so no pictures are taken from training to validate by",)
    taken = np.isin(shards, np.random.default_rng(seed).permutation(numbers)[:count])
    note = f"{count} of {len(numbers)} shards are taken from training to validate by, whatever classes these hold"
    return source.subset(np.flatnonzero(~taken)), source.subset(np.flatnonzero(taken)), (note,)


def split_of(name: str) -> str | None:
    """The split that a file's name begins with: "train-00000.tar" is of "train", "trains.tar" of none."""
    word = re.match(r"[a-z]+", name.lower())
    return SPLIT_NAMES.get(word[0]) if word else None


def named(noun: str, names: Sequence[str], shown: int = 5) -> str:
    """A count of things with the first of their names: "7 classes (a, b, c, d, e, …)"."""
    plural = {"class": "classes", "duplicate": "duplicates"}.get(noun, noun + "s")
    rest = ", …" if len(names) > shown else ""
    return f"{len(names)} {noun if len(names) == 1 else plural} ({', '.join(names[:shown])}{rest})"


def _takes(counts: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    wanted = counts * share
    takes = np.floor(wanted).astype(np.int64)
    missing = round(float(wanted.sum())) - int(takes.sum())
    takes[np.argsort(takes - wanted, kind="stable")[: max(missing, 0)]] += 1
    takes[(counts >= 2) & (takes == 0)] = 1
    return np.clip(takes, 0, np.maximum(counts - 1, 0))
