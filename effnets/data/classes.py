"""From labels as they are written to class names and indices. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effnets.data.splits import named
from effnets.errors import DataError, MissingFileError


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
