"""Checks of a data set before and while it is used: corrupt images, empty classes, duplicates. Free of torch."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from effnets.data.dataset import ImageDataset
from effnets.data.splits import named
from effnets.errors import DataError, ImageError
from effnets.inference.image import decode_image

Check = Literal["none", "quick", "full"]

# Above this many images, checking every file at each start costs more than it saves.
MANY = 200_000
# A handful of corrupt images is no reason to stop, however small the data set.
_ALWAYS_ALLOWED = 3
_SHOWN = 5

_JPEG_BEGIN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_BEGIN, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def affordable_check(check: Check, datasets: Mapping[str, ImageDataset]) -> tuple[Check, tuple[str, ...]]:
    """Return how images are checked, "none" instead of "quick" where that would read too much, and a note then."""
    streamed = any(dataset.shards is not None for dataset in datasets.values())
    if check != "quick" or not (streamed or sum(map(len, datasets.values())) > MANY):
        return check, ()
    what = "streamed images" if streamed else f"more than {MANY:,} images"
    return "none", (f"{what}: not checked for corrupt ones or for duplicates between splits",)


def without_corrupt(
    split: str,
    dataset: ImageDataset,
    *,
    check: Check,
    limit: float,
    strict: bool,
    progress: Callable[[str, float], object],
) -> tuple[ImageDataset, tuple[str, ...]]:
    """Leave out the images that cannot be read.

    Args:
        split: name of the images, for messages.
        dataset: the images.
        check: "full" decodes every image. "quick" accepts a JPEG or PNG whose first and last bytes are right, and
            decodes the others. "none" checks nothing.
        limit: part of the images that may be left out; 3 always may.
        strict: allow no corrupt image.
        progress: called with a description of the current step and its share done.

    Returns:
        the readable images, and a note that names the others.

    Raises:
        DataError: if more are corrupt than allowed.
    """
    corrupt = find_corrupt(split, dataset, check, progress)
    if not corrupt:
        return dataset, ()
    allowed = 0 if strict else allowed_corrupt(len(dataset), limit)
    if len(corrupt) > allowed:
        hint = "fix or remove them" + (", or leave strict out" if strict else "")
        raise DataError(
            f"{split}: {len(corrupt)} of {len(dataset)} images cannot be read, and {allowed} may be left out; "
            f"{hint}:{reasons(corrupt.values())}"
        )
    kept = np.setdiff1d(np.arange(len(dataset)), list(corrupt))
    names = [dataset.name(index) for index in corrupt]
    return dataset.subset(kept), (f"left out of {split}: {named('corrupt image', names)}",)


def find_corrupt(
    split: str, dataset: ImageDataset, check: Check, progress: Callable[[str, float], object]
) -> dict[int, str]:
    """Return what is wrong with each image that cannot be read, by its index; see `without_corrupt`."""
    corrupt: dict[int, str] = {}
    for index in range(len(dataset) if check != "none" else 0):
        progress(f"checking the images of {split}", index / len(dataset))
        try:
            data = dataset.read(index)
            if check == "full" or not _is_whole(data):
                decode_image(data, dataset.name(index), None)  # in its own channels: the network is not known yet
        except ImageError as error:
            corrupt[index] = str(error)
    return corrupt


def _is_whole(data: bytes) -> bool:
    """Return whether a JPEG or PNG begins and ends as it should; some cameras pad JPEGs with zeros."""
    if data.startswith(_JPEG_BEGIN):
        return data.rstrip(b"\0").endswith(_JPEG_END)
    return data.startswith(_PNG_BEGIN) and data.endswith(_PNG_END)


def check_classes(datasets: Mapping[str, ImageDataset], trained: str | None, origin: str) -> tuple[str, ...]:
    """Return notes about classes without images.

    Args:
        datasets: by split.
        trained: the split to train on, if any.
        origin: name of the data set.

    Raises:
        DataError: if fewer than two classes could be trained.
    """
    class_names = next(iter(datasets.values())).class_names
    if trained is not None and len(class_names) < 2:
        raise DataError(f"{origin}: has only one class, {class_names[0]}, and training needs two; add images of others")
    notes = []
    for split, dataset in datasets.items():
        counts = np.bincount(dataset.labels, minlength=len(class_names))
        empty = [class_names[label] for label in np.flatnonzero(counts == 0)]
        if split == trained and len(class_names) - len(empty) < 2:
            raise DataError(f"{origin}: has readable images of {len(class_names) - len(empty)} classes; two are needed")
        if empty:
            notes.append(f"{split} has no image of {named('class', empty)}")
    return tuple(notes)


def check_labels(datasets: Mapping[str, ImageDataset], trained: str | None, origin: str) -> tuple[str, ...]:
    """Return notes about labels that all images of a split have, or none; arguments as of `check_classes`.

    Raises:
        DataError: if a label could not be learned, as no image to train on has it.
    """
    notes = []
    for split, dataset in datasets.items():
        assert dataset.targets is not None, "these images have labels"
        absent, everywhere = (
            [dataset.class_names[label] for label in np.flatnonzero(~(dataset.targets == value).any(axis=0))]
            for value in (1, 0)
        )
        if absent and split == trained:
            raise DataError(
                f"{origin}: no image to train on has {named('label', absent)}; remove what nobody has, or add images "
                "that have it"
            )
        if absent:
            notes.append(f"{split} has no image with {named('label', absent)}, which is not measured there")
        if everywhere:
            notes.append(f"of {split}, every image has {named('label', everywhere)}")
    return tuple(notes)


def check_filled(empty: Sequence[str], purpose: str, origin: str) -> None:
    """Raise a DataError if there are classes without an image, which `purpose` needs."""
    if empty:
        raise DataError(
            f"{origin}: {named('class', empty)} without an image, but {purpose} needs one of each; "
            "remove the empty folder, or add images to it"
        )


def duplicate_notes(datasets: Mapping[str, ImageDataset]) -> tuple[str, ...]:
    """Return a note for every two splits that share images, byte for byte: these make a measurement too good."""
    by_digest: dict[tuple[int, bytes], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    sizes = {split: dataset.sizes() for split, dataset in datasets.items()}
    for split, dataset in datasets.items():
        others = np.concatenate([sizes[other] for other in datasets if other != split] or [np.array([], np.int64)])
        for index in np.flatnonzero(np.isin(sizes[split], others) & (sizes[split] > 0)):
            digest = hashlib.sha256(dataset.read(int(index))).digest()
            by_digest[int(sizes[split][index]), digest][split].append(int(index))
    notes = []
    splits = list(datasets)
    for position, first in enumerate(splits):
        for second in splits[position + 1 :]:
            shared = [places for places in by_digest.values() if first in places and second in places]
            if shared:
                names = [
                    f"{datasets[second].name(places[second][0])} = {datasets[first].name(places[first][0])}"
                    for places in shared
                ]
                count = sum(len(places[second]) for places in shared)
                notes.append(
                    f"{count} of the {len(datasets[second])} images of {second} are in {first} as well, which "
                    f"inflates the accuracy: {'; '.join(names[:3])}{'; …' if len(names) > 3 else ''}"
                )
    return tuple(notes)


def allowed_corrupt(images: int, limit: float = 0.05) -> int:
    """Return how many of so many images may be corrupt: the part `limit` of them, or 3 if that is more."""
    return max(_ALWAYS_ALLOWED, int(limit * images))


def reasons(messages: Iterable[str]) -> str:
    """Return the first of the messages, each on its own line."""
    return "".join(f"\n  {message}" for message in list(messages)[:_SHOWN])


class CorruptImages:
    """Images that turned out corrupt while they were read; they are left out of their batches.

    Args:
        images: how many images the data set has.
        limit: how many of them may be corrupt.

    Attributes:
        messages: what was wrong with each, by index.
    """

    def __init__(self, images: int, limit: int) -> None:
        self.images, self.limit = images, limit
        self.messages: dict[int, str] = {}

    def note(self, corrupt: Mapping[int, str]) -> None:
        """Add the corrupt images of a batch, with a warning for each that is new.

        Raises:
            DataError: if more are corrupt than allowed, or all; the message names them.
        """
        for index, message in corrupt.items():
            if index not in self.messages:
                warnings.warn(f"left out of its batch: {message}", stacklevel=4)
        self.messages.update(corrupt)
        if len(self.messages) > self.limit or len(self.messages) == self.images:
            raise DataError(
                f"{len(self.messages)} of {self.images} images cannot be read, and {self.limit} may be "
                f"left out; fix or remove them:{reasons(self.messages.values())}"
            )
