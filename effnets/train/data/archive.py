"""Pictures inside of tar archives, read where they lie. Free of torch."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from effnets.errors import DataError, ImageError
from effnets.train.data.layout import arrange
from effnets.train.data.source import ImageSource
from effnets.train.data.splits import Parts

__all__ = ["Archive", "Member", "TarSource", "index_archive", "open_tree", "read_member"]

_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"(\xb5": "unzstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside of an archive: its path there, where its content begins, and its bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What an archive holds."""

    path: Path
    files: tuple[Member, ...]
    folders: tuple[str, ...]


class TarSource(ImageSource):
    """Pictures that lie in tar archives.

    Args:
        archives: the archives' paths, or what else `_open` makes a file of.
        members: [len]; each picture's archive, as an index, and what it is there.
        labels: [len]; indices into the class names.
        class_names: in the order of the network's outputs.
    """

    def __init__(
        self,
        archives: Sequence[Path | str],
        members: Sequence[tuple[int, Member]],
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
    ) -> None:
        self.archives, self.labels, self.class_names = tuple(archives), labels, class_names
        self._names = tuple(member.name for _, member in members)
        self._archive = np.array([archive for archive, _ in members], np.int32)
        self._offset = np.array([member.offset for _, member in members], np.int64)
        self._size = np.array([member.size for _, member in members], np.int64)

    def name(self, index: int) -> str:
        return f"{self.archives[self._archive[index]]}/{self._names[index]}"

    def read(self, index: int) -> bytes:
        # Opened anew each time: nothing is shared between processes, and a local file takes some 20 µs to open.
        try:
            with self._open(int(self._archive[index])) as archive:
                archive.seek(int(self._offset[index]))
                return archive.read(int(self._size[index]))
        except OSError as error:
            raise ImageError(f"{self.name(index)} cannot be read ({error.strerror})") from error

    def sizes(self) -> NDArray[np.int64]:
        return self._size

    def _open(self, archive: int) -> BinaryIO:
        return Path(self.archives[archive]).open("rb")


def open_tree(archive: Archive) -> Parts:
    """Pictures in an archive of a folder by class, with or without train/, val/ and test/.

    Raises:
        DataError: it holds no such tree.
    """
    layout = arrange([member.name for member in archive.files], archive.folders, str(archive.path))
    sources: dict[str, ImageSource] = {}
    for split, pictures in layout.splits.items():
        members = [(0, archive.files[position]) for position, _ in pictures]
        labels = np.array([label for _, label in pictures], np.int64)
        sources[split] = TarSource([archive.path], members, labels, layout.class_names)
    return Parts(sources=sources, notes=layout.notes, empty=layout.empty)


def index_archive(path: Path) -> Archive:
    """Find every file and folder in a tar archive by one walk over its headers.

    Raises:
        DataError: it is compressed, cut short or damaged.
    """
    files: list[Member] = []
    folders: list[str] = []
    places: dict[str, Member] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                end = entry.offset_data
                if entry.isdir():
                    folders.append(entry.name)
                elif entry.isreg() and not entry.issparse():
                    places[entry.name] = member = Member(entry.name, entry.offset_data, entry.size)
                    files.append(member)
                    end += -(-entry.size // _BLOCK) * _BLOCK
                elif entry.islnk() and entry.linkname in places:  # the same file again, stored once
                    target = places[entry.linkname]
                    files.append(Member(entry.name, target.offset, target.size))
                else:
                    raise DataError(
                        f"{path}: {entry.name} is neither a file nor a folder; pack it with tar --dereference"
                    )
    except (tarfile.TarError, OSError, EOFError) as error:
        raise _unreadable(path, error) from error
    _check_end(path, end)
    return Archive(path=path, files=tuple(files), folders=tuple(folders))


def read_member(path: Path, member: Member) -> bytes:
    """The content of a file in an archive."""
    with path.open("rb") as archive:
        archive.seek(member.offset)
        return archive.read(member.size)


def _check_end(path: Path, end: int) -> None:
    # tarfile takes a header that is damaged or cut off for the end; a whole archive has a block of zeros there.
    with path.open("rb") as archive:
        archive.seek(end)
        block = archive.read(_BLOCK)
    if block != bytes(_BLOCK):
        what = "is cut short" if len(block) < _BLOCK else "is damaged"
        raise DataError(f"{path}: {what} after {end:,} bytes; copy or download it again")


def _unreadable(path: Path, error: Exception) -> DataError:
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError as cause:
        return DataError(f"{path}: cannot be read ({cause.strerror})")
    if head in _COMPRESSED:
        return DataError(
            f"{path}: is compressed, so pictures cannot be read at random; unpack it with {_COMPRESSED[head]}"
        )
    return DataError(f"{path}: cannot be read as a tar archive ({error}); copy or download it again")
