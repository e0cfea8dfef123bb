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

# Words for a split in data sets, and its name here.
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSplits:
    """A data set as it is stored, before checks and before validation images are taken from training.

    Attributes:
        datasets: by "train", "val" and "test", or one by "all"; with the same class names.
        notes: what was skipped in reading it.
        empty: classes to train that have a folder but no image.
        revision: the commit, for data on the Hub.
    """

    datasets: Mapping[str, ImageDataset]
    notes: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The splits of a data set, all with the same class names.

    Attributes:
        train: to train on.
        val: for early stopping, the best epoch and the temperature. Shares no image with `train`.
        test: measured once at the end; never selects anything.
        notes: what the user should know: duplicates between splits, small classes, skipped images.
        revision: the commit, for data on the Hub.
    """

    train: ImageDataset | None
    val: ImageDataset | None
    test: ImageDataset | None
    notes: tuple[str, ...] = ()
    revision: str | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all classes, in the order of the network's outputs."""
        return next(dataset.class_names for dataset in (self.train, self.val, self.test) if dataset is not None)


def split_validation(
    dataset: ImageDataset, share: float, seed: int
) -> tuple[ImageDataset, ImageDataset | None, tuple[str, ...]]:
    """Take a validation split out of `dataset`, the same share of every class, drawn by `seed`.

    Shares are rounded so that the total is right as well: classes with the largest remainders get one more. Every
    class keeps an image to train on, and has one to validate with if it has two. Of a streamed data set, whole files
    are taken.

    Returns:
        what is left, what was taken (None if nothing could be), and notes about classes that are too small.

    Raises:
        ArgumentError: if the share is not in 0..1, 1 excluded.
    """
    if not 0 <= share < 1:
        raise ArgumentError(f"val_share is {share!r}; give the part of the training images to validate with, 0 to 0.99")
    if share == 0:
        return dataset, None, ()
    if dataset.shards is not None:
        return _split_files(dataset, dataset.shards, share, seed)
    counts = np.bincount(dataset.labels, minlength=len(dataset.class_names))
    takes = _takes(counts, share)
    # One order of all images, then the first ones of every class: cheap for 10,000 classes as well.
    order = np.random.default_rng(seed).permutation(len(dataset))
    by_class = order[np.argsort(dataset.labels[order], kind="stable")]
    rank = np.arange(len(dataset)) - np.repeat(np.cumsum(counts) - counts, counts)
    taken = rank < np.repeat(takes, counts)
    notes: tuple[str, ...] = ()
    if single := [dataset.class_names[label] for label in np.flatnonzero(counts == 1)]:
        notes = (f"{named('class', single)} with a single image: it stays in train, so nothing validates it",)
    if not taken.any():
        return dataset, None, notes
    return dataset.subset(np.sort(by_class[~taken])), dataset.subset(np.sort(by_class[taken])), notes


def _split_files(
    dataset: ImageDataset, files: NDArray[np.int64], share: float, seed: int
) -> tuple[ImageDataset, ImageDataset | None, tuple[str, ...]]:
    numbers = np.unique(files)
    count = min(max(round(share * len(numbers)), 1), len(numbers) - 1)
    if count == 0:
        return dataset, None, ("there is one file, so none is taken from training for validation",)
    taken = np.isin(files, np.random.default_rng(seed).permutation(numbers)[:count])
    note = f"{count} of {len(numbers)} files are taken from training for validation, whatever their classes"
    return dataset.subset(np.flatnonzero(~taken)), dataset.subset(np.flatnonzero(taken)), (note,)


def _takes(counts: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    wanted = counts * share
    takes = np.floor(wanted).astype(np.int64)
    missing = round(float(wanted.sum())) - int(takes.sum())
    takes[np.argsort(takes - wanted, kind="stable")[: max(missing, 0)]] += 1
    takes[(counts >= 2) & (takes == 0)] = 1
    return np.clip(takes, 0, np.maximum(counts - 1, 0))


def split_of(name: str) -> str | None:
    """Return the split that a file's name begins with: "train-00000.tar" is of "train", "trains.tar" of none."""
    word = re.match(r"[a-z]+", name.lower())
    return SPLIT_NAMES.get(word[0]) if word else None


def named(noun: str, names: Sequence[str], shown: int = 5) -> str:
    """Return a count of things with the first of their names: "7 classes (a, b, c, d, e, …)"."""
    plural = {"class": "classes"}.get(noun, noun + "s")
    rest = ", …" if len(names) > shown else ""
    return f"{len(names)} {noun if len(names) == 1 else plural} ({', '.join(names[:shown])}{rest})"


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in the order of the network's outputs: numerically if all are numbers, else by characters."""
    unique = set(names)
    if all(name.isascii() and name.isdigit() for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def class_names_of(splits: Mapping[str, Iterable[str]], origin: str) -> tuple[str, ...]:
    """Return the names of all classes: those of the training split, or of all splits if there is no training split.

    Raises:
        DataError: if a split has classes that the training split lacks.
    """
    if "train" not in splits:
        return ordered(name for names in splits.values() for name in names)
    known = set(splits["train"])
    for split, names in splits.items():
        unknown = ordered(set(names) - known)
        if unknown:
            raise DataError(
                f"{origin}: {split} has {named('class', unknown)} that train lacks, so they cannot be learned; "
                "rename or remove them there, or add them to train"
            )
    return ordered(known)


def index_labels(
    splits: Mapping[str, Sequence[str | int]], origin: str, declared: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """Return class names, and labels as indices into them.

    Args:
        splits: every image's label as written, by split.
        origin: name of the data set, for errors.
        declared: all class names, if the data set states them: labels are indices into these. Otherwise the labels are
            the names.

    Raises:
        DataError: if a split has classes that the training split lacks, or an index is not of a declared name.
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
            f"{where}: {len(outside)} labels are outside of the {len(declared)} declared classes, "
            f"{indices[outside[0]]} of image {outside[0]} first; leave out images without a known class"
        )
    return indices


def read_class_names(folder: Path) -> tuple[str, ...] | None:
    """Read the names in ``classnames.txt`` of a folder, if it exists; see `read_names`."""
    file = folder / "classnames.txt"
    return read_names(file) if file.is_file() else None


def read_names(file: Path) -> tuple[str, ...]:
    """Read class names from a text file, one per line in the order of the classes' numbers.

    Raises:
        DataError: if two classes have the same name, or the file is not text.
        MissingFileError: if the file does not exist.
    """
    if not file.is_file():
        raise MissingFileError(f"{file} does not exist; give a text file with one class name per line")
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    if not names or "" in names or len(set(names)) != len(names):
        raise DataError(f"{file}: is empty, or has empty lines or a name twice; write one name per line, all different")
    return tuple(names)
