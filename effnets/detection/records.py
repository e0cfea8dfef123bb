"""What files of annotations say of images, before it is checked against these. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effnets.errors import DataError

MAX_BOXES = 10_000  # of one image; detectors answer with a few hundred
MAX_ALL_BOXES = 5_000_000  # of a data set; COCO has 0.9 million


class Row(NamedTuple):
    """An object as it is written.

    Attributes:
        box: x1, y1, x2, y2.
        label: its class, by number from 0 or by name.
        place: its line, or its number.
        crowd: a group in one box, as COCO's iscrowd.
        difficult: as Pascal VOC's.
    """

    box: tuple[float, float, float, float]
    label: Any
    place: int
    crowd: bool = False
    difficult: bool = False


@dataclass(slots=True, kw_only=True)
class ImageRecord:
    """An image and its objects.

    Attributes:
        file: path of the image in its tree.
        source: path of the annotations for messages.
        boxes: [n, 4]; x1, y1, x2, y2.
        labels: [n]; from 0.
        crowd, difficult: [n]; as of `Row`.
        where: names the place of an object by its index, for messages.
        size: (width, height) that the annotations state; None if they do not.
    """

    file: str
    source: str
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    where: Callable[[int], str]
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBoxes:
    """A data set as its annotations describe it.

    Attributes:
        records: by "train", "val" and "test", or by "all".
        class_names: in the order of labels.
        relative: whether boxes are parts of the image's size, instead of pixels.
        notes: what was skipped in reading it.
    """

    records: Mapping[str, Sequence[ImageRecord]]
    class_names: tuple[str, ...]
    relative: bool = False
    notes: tuple[str, ...] = ()


def make_record(
    file: str,
    source: str,
    rows: Sequence[Row],
    labels: Mapping[Any, int] | None = None,
    *,
    size: tuple[int, int] | None = None,
    where: Callable[[int], str] | None = None,
) -> ImageRecord:
    """Return the record of an image.

    Args:
        file, source, size: as of `ImageRecord`.
        rows: the objects.
        labels: from what rows call a class to its number; None if they have the number.
        where: names the place of a row by its `place`; by default a line of the source.
    """
    name = where or (lambda line: f"{source}, line {line}")
    places = [row.place for row in rows]
    return ImageRecord(
        file=file,
        source=source,
        boxes=np.array([row.box for row in rows], np.float64).reshape(-1, 4),
        labels=np.array([row.label if labels is None else labels[row.label] for row in rows], np.int64),
        crowd=np.array([row.crowd for row in rows], np.bool_),
        difficult=np.array([row.difficult for row in rows], np.bool_),
        where=lambda index: name(places[index]),
        size=size,
    )


def check_count(count: int, where: str) -> None:
    """Raise a DataError if an image has more boxes than `MAX_BOXES`."""
    if count > MAX_BOXES:
        raise DataError(f"{where}: has over {MAX_BOXES:,} boxes for one image, which cannot be right; split or fix it")


def check_total(records: Iterable[ImageRecord], origin: str) -> None:
    """Raise a DataError if a data set has more boxes than `MAX_ALL_BOXES`."""
    total = sum(len(record.labels) for record in records)
    if total > MAX_ALL_BOXES:
        raise DataError(f"{origin}: has {total:,} boxes, and {MAX_ALL_BOXES:,} are read; take a part of its images")
