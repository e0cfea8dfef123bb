"""The files of a data set, in a folder or a tar archive alike. Free of torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from effnets.data.dataset import ImageDataset
from effnets.data.folder import FileDataset, walk_folder
from effnets.data.splits import split_of
from effnets.data.tar import Member, TarDataset, index_archive, read_member
from effnets.errors import DataError
from effnets.inference.image import image_suffixes

_MAX_BYTES = 16 << 20  # of a file with the boxes of one image: a thousand times what is usual


class FileTree(ABC):
    """Files below one place, by their paths with slashes, in the order of these.

    Attributes:
        origin: the place, for messages.
        files: all paths.
    """

    origin: str
    files: tuple[str, ...]

    def path(self, name: str) -> str:
        """Return a file's path for messages."""
        return f"{self.origin}/{name}"

    def read(self, name: str, limit: int = _MAX_BYTES) -> bytes:
        """Read a file of annotations.

        Raises:
            DataError: if it cannot be read, or has more bytes than `limit`.
        """
        try:
            data = self._read(name, limit + 1)
        except OSError as error:
            raise DataError(f"{self.path(name)}: cannot be read ({error.strerror or error})") from error
        if len(data) > limit:
            raise DataError(f"{self.path(name)}: has over {limit:,} bytes, too many for a file of annotations")
        return data

    def images(self) -> ImageIndex:
        """Return the images, to be found by parts of their paths."""
        suffixes = image_suffixes()
        return ImageIndex(self, [name for name in self.files if PurePosixPath(name).suffix.lower() in suffixes])

    def named(self, *names: str) -> list[str]:
        """Return the files with one of these names, wherever they are; the least deep first."""
        found = [name for name in self.files if PurePosixPath(name).name.lower() in names]
        return sorted(found, key=lambda name: (name.count("/"), name))

    def ending(self, suffix: str) -> list[str]:
        """Return the files with this suffix, in lower case and with its dot."""
        return [name for name in self.files if name.lower().endswith(suffix)]

    @abstractmethod
    def dataset(self, names: Sequence[str], class_names: tuple[str, ...]) -> ImageDataset:
        """Return images as a data set; all are labeled 0, which says nothing."""

    @abstractmethod
    def _read(self, name: str, size: int) -> bytes: ...


class FolderTree(FileTree):
    """The files in a folder and its subfolders; links are followed."""

    def __init__(self, root: Path) -> None:
        self.root, self.origin = root, str(root)
        self.files = tuple(sorted(walk_folder(root)[0]))

    def dataset(self, names: Sequence[str], class_names: tuple[str, ...]) -> ImageDataset:
        return FileDataset(self.root, names, np.zeros(len(names), np.int64), class_names)

    def _read(self, name: str, size: int) -> bytes:
        with (self.root / name).open("rb") as file:
            return file.read(size)


class TarTree(FileTree):
    """The files in a tar archive, which stays packed."""

    def __init__(self, archive: Path) -> None:
        self.archive, self.origin = archive, str(archive)
        self._members = {member.name.removeprefix("./"): member for member in index_archive(archive).files}
        self.files = tuple(sorted(self._members))

    def dataset(self, names: Sequence[str], class_names: tuple[str, ...]) -> ImageDataset:
        members = [(0, self._members[name]) for name in names]
        return TarDataset([self.archive], members, np.zeros(len(names), np.int64), class_names)

    def _read(self, name: str, size: int) -> bytes:
        member = self._members[name]
        return read_member(self.archive, Member(member.name, member.offset, min(member.size, size)))


class ImageIndex:
    """The images of a tree, found by their paths.

    Args:
        tree: of the files.
        names: the paths of the images.

    Attributes:
        names: the same.
    """

    def __init__(self, tree: FileTree, names: Sequence[str]) -> None:
        self.tree, self.names = tree, frozenset(names)
        self._by_stem: dict[str, list[str]] = {}
        self._by_base: dict[str, list[str]] = {}
        for name in names:
            path = PurePosixPath(name)
            self._by_stem.setdefault(str(path.with_suffix("")), []).append(name)
            self._by_base.setdefault(path.name, []).append(name)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def of_stem(self, stem: str) -> list[str]:
        """Return the images with this path, apart from their suffix."""
        return self._by_stem.get(stem, [])

    def find(self, written: str, near: str, where: str) -> str:
        """Return the image that a file of annotations calls `written`: the one whose path ends like that.

        Of several, one in the annotations' own folder is taken, else the one of the same split.

        Args:
            written: a relative path.
            near: the path of the file of annotations.
            where: its path and the place in it, for messages.

        Raises:
            DataError: if there is no such image, or several; or if the path leads out of the data set.
        """
        path = PurePosixPath(check_path(written, where))
        ends = [name for name in self._by_base.get(path.name, ()) if _ends(name, path)]
        if len(ends) > 1:
            folder, split = str(PurePosixPath(near).parent), split_of_path(near)
            ends = [name for name in ends if name == str(PurePosixPath(folder) / path)] or [
                name for name in ends if split and split_of_path(name) == split
            ]
        if len(ends) == 1:
            return ends[0]
        if ends:
            raise DataError(f"{where}: {written} may be {ends[0]} or {ends[1]}; write the path from the data's folder")
        raise DataError(f"{where}: there is no image {written} in {self.tree.origin}; add it, or remove it here")


def check_path(written: str, where: str) -> str:
    """Return a relative path with slashes.

    Raises:
        DataError: if it leads out of the data set.
    """
    name = written.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or "\0" in name:
        raise DataError(f"{where}: {written!r} is no path within the data set; write it relative to its folder")
    return str(path)


def split_of_path(name: str) -> str | None:
    """Return the split in a file's path: of the innermost folder called after one, or None."""
    folders = PurePosixPath(name).parts[:-1]
    return next((split for folder in reversed(folders) if (split := split_of(folder))), None)


def _ends(name: str, path: PurePosixPath) -> bool:
    return PurePosixPath(name).parts[-len(path.parts) :] == path.parts
