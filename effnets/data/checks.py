"""What is wrong with a data set, found before any time is spent on it. Free of torch."""

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

Check = Literal["none", "quick", "full"]

# Above, looking into every file at each start costs more than it saves.
MANY = 200_000

# A handful of broken pictures is no reason to stop, however small the data set.
_ALWAYS_ALLOWED = 3
_SHOWN = 5

_JPEG_BEGIN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_BEGIN, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def without_broken(
    split: str,
    source: ImageDataset,
    *,
    check: Check,
    limit: float,
    strict: bool,
    progress: Callable[[str, float], object] = lambda _what, _share: None,
) -> tuple[ImageDataset, tuple[str, ...]]:
    """Leave out the pictures that cannot be read.

    Args:
        split: what the pictures are called, for messages.
        source: of the pictures.
        check: "full" decodes every picture. "quick" takes a JPEG or PNG that is whole from its first to its last bytes
            for readable, and decodes the others. "none" looks at nothing.
        limit: part of the pictures that may be left out; 3 always may.
        strict: allow none.
        progress: called again and again with what is being done and the share of it that is.

    Returns:
        the readable pictures, and a note that names the others.

    Raises:
        DataError: more are broken than may be.
    """
    if check == "none":
        return source, ()
    broken: dict[int, str] = {}
    for index in range(len(source)):
        progress(f"looking at the pictures of {split}", index / len(source))
        try:
            if check == "full" or not _is_whole(source.read(index)):
                source.image(index)
        except ImageError as error:
            broken[index] = str(error)
    if not broken:
        return source, ()
    allowed = 0 if strict else allowed_corrupt(len(source), limit)
    names = [source.name(index) for index in broken]
    if len(broken) > allowed:
        hint = "mend or remove them" + (", or do without strict" if strict else "")
        raise DataError(
            f"{split}: {len(broken)} of {len(source)} pictures cannot be read, and {allowed} may be left out; "
            f"{hint}:{reasons(broken.values())}"
        )
    kept = np.setdiff1d(np.arange(len(source)), list(broken))
    return source.subset(kept), (f"left out of {split}: {named('broken picture', names)}",)


def check_classes(sources: Mapping[str, ImageDataset], learned: str | None, origin: str) -> tuple[str, ...]:
    """Raise a DataError if there is nothing to tell apart; note the classes that lack pictures.

    Args:
        sources: by split.
        learned: the split that is learned from, if any.
        origin: what the data set is called.
    """
    class_names = next(iter(sources.values())).class_names
    if learned is not None and len(class_names) < 2:
        raise DataError(
            f"{origin}: has one class only, {class_names[0]}, so there is nothing to tell apart; add pictures of others"
        )
    notes = []
    for split, source in sources.items():
        counts = np.bincount(source.labels, minlength=len(class_names))
        empty = [class_names[label] for label in np.flatnonzero(counts == 0)]
        if split == learned and len(class_names) - len(empty) < 2:
            raise DataError(
                f"{origin}: has readable pictures of {len(class_names) - len(empty)} classes; two are needed"
            )
        if empty:
            notes.append(f"{split} has no picture of {named('class', empty)}")
    return tuple(notes)


def check_filled(empty: Sequence[str], done: str, origin: str) -> None:
    """Raise a DataError if there are classes with no picture, so that nothing could be `done` with them."""
    if empty:
        raise DataError(
            f"{origin}: {named('class', empty)} without a picture, so nothing could be {done} of it; "
            "remove the empty folder, or put pictures into it"
        )


def duplicate_notes(sources: Mapping[str, ImageDataset]) -> tuple[str, ...]:
    """A note for every two splits that share pictures, byte for byte: what is measured on these says nothing."""
    by_digest: dict[tuple[int, bytes], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    sizes = {split: source.sizes() for split, source in sources.items()}
    for split, source in sources.items():
        others = np.concatenate([sizes[other] for other in sources if other != split] or [np.array([], np.int64)])
        for index in np.flatnonzero(np.isin(sizes[split], others) & (sizes[split] > 0)):
            digest = hashlib.sha256(source.read(int(index))).digest()
            by_digest[int(sizes[split][index]), digest][split].append(int(index))
    notes = []
    splits = list(sources)
    for position, first in enumerate(splits):
        for second in splits[position + 1 :]:
            shared = [places for places in by_digest.values() if first in places and second in places]
            if shared:
                names = [
                    f"{sources[second].name(places[second][0])} = {sources[first].name(places[first][0])}"
                    for places in shared
                ]
                count = sum(len(places[second]) for places in shared)
                notes.append(
                    f"{count} of the {len(sources[second])} pictures of {second} are in {first} as well, which "
                    f"flatters the accuracy: {'; '.join(names[:3])}{'; …' if len(names) > 3 else ''}"
                )
    return tuple(notes)


def _is_whole(data: bytes) -> bool:
    """Whether a JPEG or PNG begins and ends as it should; some cameras fill JPEGs up with zeros."""
    if data.startswith(_JPEG_BEGIN):
        return data.rstrip(b"\0").endswith(_JPEG_END)
    return data.startswith(_PNG_BEGIN) and data.endswith(_PNG_END)


def allowed_corrupt(pictures: int, limit: float = 0.05) -> int:
    """How many of so many pictures may be broken: the part `limit` of them, or 3 if that is more."""
    return max(_ALWAYS_ALLOWED, int(limit * pictures))


def reasons(messages: Iterable[str]) -> str:
    """The first of the messages, each on a line of its own."""
    return "".join(f"\n  {message}" for message in list(messages)[:_SHOWN])


class CorruptImages:
    """The pictures of a set that turned out broken while it was read, which are left out of their batches.

    Args:
        pictures: how many the set has.
        limit: how many of them may be broken.

    Attributes:
        messages: what was wrong with each, by index.
    """

    def __init__(self, pictures: int, limit: int) -> None:
        self.pictures, self.limit = pictures, limit
        self.messages: dict[int, str] = {}

    def note(self, broken: Mapping[int, str]) -> None:
        """Remember the broken pictures of a batch, with a warning for each that is new.

        Raises:
            DataError: there are more than may be, or no others are left; the message names them.
        """
        for index, message in broken.items():
            if index not in self.messages:
                warnings.warn(f"left out of its batch: {message}", stacklevel=4)
        self.messages.update(broken)
        if len(self.messages) > self.limit or len(self.messages) == self.pictures:
            raise DataError(
                f"{len(self.messages)} of {self.pictures} pictures cannot be read, and {self.limit} may be "
                f"left out; mend or remove them:{reasons(self.messages.values())}"
            )
