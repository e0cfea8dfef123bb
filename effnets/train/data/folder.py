"""Pictures in a folder by class. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effnets.errors import DataError, ImageError
from effnets.train.data.layout import arrange, is_litter
from effnets.train.data.source import ImageSource
from effnets.train.data.splits import Parts, named

__all__ = ["FileSource", "open_folder"]


class FileSource(ImageSource):
    """Pictures in files.

    Args:
        root: folder that the paths start from.
        files: [len]; paths relative to it.
        labels: [len]; indices into the class names.
        class_names: in the order of the network's outputs.
    """

    def __init__(
        self, root: Path, files: Sequence[str], labels: NDArray[np.int64], class_names: tuple[str, ...]
    ) -> None:
        self.root, self.files, self.labels, self.class_names = root, tuple(files), labels, class_names

    def name(self, index: int) -> str:
        return str(self.root / self.files[index])

    def read(self, index: int) -> bytes:
        try:
            return Path(self.name(index)).read_bytes()
        except OSError as error:
            raise ImageError(f"{self.name(index)} cannot be read ({error.strerror})") from error

    def sizes(self) -> NDArray[np.int64]:
        return np.fromiter(map(self._size, range(len(self))), np.int64, len(self))

    def _size(self, index: int) -> int:
        try:
            return Path(self.name(index)).stat().st_size
        except OSError:  # a link to nowhere; reading it says so
            return 0


def open_folder(folder: Path) -> Parts:
    """Pictures in a folder by class, with or without train/, val/ and test/ around the classes.

    Links are followed, hidden files passed over.

    Raises:
        DataError: a folder cannot be read, or it is no such tree.
    """
    found = _walk(folder)
    layout = arrange(found.files, found.folders, str(folder))
    sources: dict[str, ImageSource] = {}
    for split, pictures in layout.splits.items():
        labels = np.array([label for _, label in pictures], np.int64)
        files = [found.files[position] for position, _ in pictures]
        sources[split] = FileSource(folder, files, labels, layout.class_names)
    notes = layout.notes
    if found.loops:
        notes += (f"passed over {named('link', found.loops, 3)} to a folder around itself",)
    return Parts(sources=sources, notes=notes, empty=layout.empty)


@dataclass(slots=True)
class _Tree:
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)


def _walk(root: Path) -> _Tree:
    """All files and folders below `root`, in the order of their names, as paths with slashes relative to it."""
    tree = _Tree()
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        folder, around = pending.pop()
        path = root / folder
        try:
            status = path.stat()
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
            identity = (status.st_dev, status.st_ino)
            if identity in around:
                tree.loops.append(folder)
                continue
            if folder:
                tree.folders.append(folder)
            below = []
            for entry in entries:
                inner = f"{folder}/{entry.name}" if folder else entry.name
                if is_litter(entry.name):
                    continue
                if entry.is_dir():
                    below.append((inner, around | {identity}))
                else:
                    tree.files.append(inner)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); change its permissions or move it away"
            ) from error
        pending += reversed(below)
    return tree
