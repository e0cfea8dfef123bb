"""ReaL, ImageNet's reassessed labels (Beyer et al. 2020, arXiv:2006.07159). Free of torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from effnets.errors import ArgumentError, MissingFileError
from effnets.evaluation.result import RealScore
from effnets.inference.labels import imagenet1k

if TYPE_CHECKING:
    from effnets.data.dataset import ImageDataset


_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


class RealLabels:
    """A file of ReaL labels: a JSON list with a list of ImageNet-1k's class numbers for each validation picture.

    Entry k belongs to ``ILSVRC2012_val_`` k + 1. Pictures of other names are taken in the order of their file names,
    if there are as many as entries.

    Raises:
        MissingFileError, ArgumentError: no such file, or it holds something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MissingFileError(f"{path}: no such file of ReaL labels") from None
        except (OSError, ValueError) as error:
            raise ArgumentError(f"{path}: cannot be read as JSON ({error}); give ReaL's real.json") from None
        if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
            raise ArgumentError(
                f"{path}: is no list of lists of class numbers from 0 to 999, as ReaL's real.json is; give that file"
            )
        self._entries: list[list[int]] = entries

    def check(self, source: ImageDataset, class_names: tuple[str, ...]) -> None:
        """Refuse what these labels are not for, before an hour of classifying.

        Raises:
            ArgumentError: a model without ImageNet's classes, or other pictures.
        """
        self._places(source)
        _background(class_names, self._path)

    def score(
        self,
        source: ImageDataset,
        class_names: tuple[str, ...],
        indices: NDArray[np.int64],
        answers: NDArray[np.int64],
    ) -> RealScore:
        """How many `answers` for the pictures `indices` of `source` are among their labels; errors as of `check`."""
        places, offset = self._places(source), _background(class_names, self._path)
        labels = [self._entries[places[index]] for index in indices]
        judged = [(answer - offset in own) for own, answer in zip(labels, answers, strict=True) if own]
        if not judged:
            raise ArgumentError(f"{self._path}: has no label for any of the {len(labels)} pictures")
        return RealScore(right=sum(judged), count=len(judged), left_out=len(labels) - len(judged))

    def _places(self, source: ImageDataset) -> NDArray[np.int64]:
        """The entry of each picture."""
        names = [source.name(index) for index in range(len(source))]
        numbers = [_NUMBER.search(name) for name in names]
        if all(numbers):
            places = np.array([int(number[1]) - 1 for number in numbers if number], np.int64)
            if places.max() < len(self._entries) and places.min() >= 0:
                return places
        elif len(names) == len(self._entries):
            order = sorted(range(len(names)), key=lambda index: (PurePosixPath(names[index]).name, names[index]))
            places = np.empty(len(names), np.int64)
            places[order] = np.arange(len(names))
            return places
        raise ArgumentError(
            f"{self._path}: has labels for {len(self._entries)} pictures, and the data have {len(names)}, "
            f"such as {names[0]}; give ImageNet's validation pictures, called ILSVRC2012_val_00000001.JPEG and so on"
        )


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and all(type(label) is int and 0 <= label < 1000 for label in entry)


def _background(class_names: tuple[str, ...], path: Path) -> int:
    """The number of outputs before ImageNet's first class."""
    offset = len(class_names) - 1000
    if offset not in (0, 1) or class_names[offset:] != imagenet1k():
        raise ArgumentError(
            f"{path}: labels are of ImageNet-1k's classes, and the model has {len(class_names)} others; "
            "leave the ReaL labels out"
        )
    return offset
