"""Splits and classes of a data set. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.errors import ArgumentError, DataError, MissingFileError

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
        return source, None, ("there is one shard, so none is taken from training for validation",)
    taken = np.isin(shards, np.random.default_rng(seed).permutation(numbers)[:count])
    note = f"{count} of {len(numbers)} shards are taken from training for validation, whatever their classes"
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


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of the network's outputs: as numbers if all are, else by their characters."""
    unique = set(names)
    if all(name.isascii() and name.isdigit() for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def class_names_of(splits: Mapping[str, Iterable[str]], origin: str) -> tuple[str, ...]:
    """Names of all classes: those of the training split, or of all splits where there is none.

    Raises:
        DataError: a split has classes that the training split lacks.
    """
    if "train" not in splits:
        return ordered(name for names in splits.values() for name in names)
    known = set(splits["train"])
    for split, names in splits.items():
        unknown = ordered(set(names) - known)
        if unknown:
            raise DataError(
                f"{origin}: {split} has {named('class', unknown)} that train lacks, so nothing could learn them; "
                "rename or remove them there, or add them to train"
            )
    return ordered(known)


def index_labels(
    splits: Mapping[str, Sequence[str | int]], origin: str, declared: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """Class names, and labels as indices into them, of labels as they are written.

    Args:
        splits: every picture's label, by split.
        origin: what the data set is called, for errors.
        declared: all class names, if the data set states them: labels are indices into these. Else the labels are the
            names.

    Raises:
        DataError: a split has classes that the training split lacks, or an index lies outside of the declared names.
    """
    if declared is not None:
        return tuple(declared), {
            split: _declared_indices(labels, declared, f"{origin}: {split}") for split, labels in splits.items()
        }
    texts = {split: [str(label) for label in labels] for split, labels in splits.items()}
    class_names = class_names_of(texts, origin)
    indices = {name: index for index, name in enumerate(class_names)}
    return class_names, {
        split: np.fromiter((indices[name] for name in names), np.int64, len(names)) for split, names in texts.items()
    }


def _declared_indices(labels: Sequence[str | int], declared: Sequence[str], where: str) -> NDArray[np.int64]:
    try:
        indices = np.array([int(label) for label in labels], np.int64)
    except ValueError as error:
        raise DataError(
            f"{where}: {error}, but {len(declared)} classes are declared; labels must be their numbers"
        ) from None
    outside = np.flatnonzero((indices < 0) | (indices >= len(declared)))
    if len(outside):
        raise DataError(
            f"{where}: {len(outside)} labels lie outside of the {len(declared)} declared classes, "
            f"{indices[outside[0]]} of picture {outside[0]} first; leave out pictures without a known class"
        )
    return indices


def read_class_names(folder: Path) -> tuple[str, ...] | None:
    """The names in ``classnames.txt`` of a folder, one a line in the order of the classes' numbers, if it is there.

    Raises:
        DataError: two classes have one name, or the file is no text.
    """
    file = folder / "classnames.txt"
    return read_names(file) if file.is_file() else None


def read_names(file: Path) -> tuple[str, ...]:
    """Class names in a text file, one a line in the order of the classes' numbers.

    Raises:
        DataError: two classes have one name, or the file is no text.
        MissingFileError: there is no such file.
    """
    if not file.is_file():
        raise MissingFileError(f"{file} does not exist; wanted is a text file with one class name a line")
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    if not names or "" in names or len(set(names)) != len(names):
        raise DataError(
            f"{file}: has no names, empty lines or a name twice; write one name a line, every one different"
        )
    return tuple(names)
