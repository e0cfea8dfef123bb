"""Say what a data set is for this library, with the functions that read it. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from effnets.data.checks import Check, affordable_check, duplicate_notes, find_corrupt
from effnets.data.dataset import ImageDataset
from effnets.data.open import DataConfig, open_raw
from effnets.data.splits import ALL
from effnets.errors import ImageError

_SIZED = 2000  # images of a split whose headers are read for their sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """What is known of one split.

    Attributes:
        images: how many there are. by_class: likewise, of each class.
        width, height: the smallest, median and largest, in pixels, upright; of at most 2,000 images, evenly spaced.
        corrupt: what is wrong with each image that cannot be read, by its name.
    """

    images: int
    by_class: Mapping[str, int]
    width: tuple[int, int, int] | None
    height: tuple[int, int, int] | None
    corrupt: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSummary:
    """What a data set is.

    Attributes:
        path: its name. kind: how it is stored, such as "files in folders".
        class_names: in the order of a network's outputs.
        splits: by "train", "val" and "test", or one by "all".
        empty: classes to train that have a folder but no image.
        duplicates: a sentence for every two splits that share images, byte for byte.
        notes: what was passed over, and how names were read.
    """

    path: str
    kind: str
    class_names: tuple[str, ...]
    splits: Mapping[str, SplitSummary]
    empty: tuple[str, ...]
    duplicates: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def inspect_data(
    config: DataConfig | str | os.PathLike[str], *, progress: Callable[[str, float], object] | None = None
) -> DataSummary:
    """Open a data set as `open_data` does, and look into it; nothing is left out, and nothing is too corrupt.

    Args:
        config: the data set and how to read it; a path or name alone takes the defaults.
        progress: called with a description of the current step and its share done, 0 to 1.

    Raises:
        MissingFileError, DataError: as `open_data`, where it is no data set at all.
    """
    progress = progress or _no_progress
    config, raw = open_raw(config, progress)
    datasets = dict(raw.datasets)
    check, unchecked = affordable_check(config.check, datasets)
    splits = {split: _summary(split, dataset, check, progress) for split, dataset in datasets.items()}
    return DataSummary(
        path=os.fspath(config.path),
        kind=next(iter(datasets.values())).kind,
        class_names=next(iter(datasets.values())).class_names,
        splits=splits,
        empty=raw.empty,
        duplicates=() if check == "none" or ALL in datasets else duplicate_notes(datasets),
        notes=(*raw.notes, *unchecked),
    )


def _no_progress(_step: str, _share: float) -> None:
    """Ignore progress."""


def _summary(split: str, dataset: ImageDataset, check: Check, progress: Callable[[str, float], object]) -> SplitSummary:
    corrupt = find_corrupt(split, dataset, check, progress)
    counts = np.bincount(dataset.labels, minlength=len(dataset.class_names)).tolist()
    sizes: list[tuple[int, int]] = []
    if dataset.shards is None:
        for index in np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), _SIZED)).astype(int)).tolist():
            try:
                sizes.append(dataset.lazy_image(index).size())
            except ImageError:
                continue  # named among the corrupt
    widths, heights = np.array(sizes, int).reshape(-1, 2).T
    return SplitSummary(
        images=len(dataset),
        by_class=dict(zip(dataset.class_names, counts, strict=True)),
        width=_range(widths),
        height=_range(heights),
        corrupt={dataset.name(index): message for index, message in corrupt.items()},
    )


def _range(values: np.ndarray[Any, Any]) -> tuple[int, int, int] | None:
    return (int(values.min()), int(np.median(values)), int(values.max())) if len(values) else None
