"""Find the images of folders, tar archives and Parquet tables, here or in a store, and divide them into chunks.

A chunk says where its images are. The process that works on it reads them; the one that divides them reads none.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from effnets.bulk.photos import StoredPhoto
from effnets.data.parquet import IMAGE_COLUMNS, find_column, first_line
from effnets.data.tar import Member, expand_braces, index_archive, read_member
from effnets.errors import DataError, ImageError
from effnets.inference.image import PhotoResult, find_photos, image_suffixes
from effnets.utils.junk import in_junk
from effnets.utils.threads import map_in_order

if TYPE_CHECKING:
    import pyarrow as pa
    from fsspec import AbstractFileSystem

_READERS, _AHEAD = 16, 64  # threads that wait for a store, and images that they read ahead
_TRIES, _PAUSE = 3, 0.5  # of a store that fails; seconds before the second try, twice as long before the third
_SHARDS = (".parquet", ".tar")
# A chunk is lost with its worker, and must earn back what handing it over takes (docs/scale.md).
_CHUNKS, _LEAST, _MOST = 4096, 64, 16384
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_PACKAGES |= {"hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp"}


def is_stored(path: str) -> bool:
    """Return whether a path is the URL of a file system of fsspec, such as s3://."""
    return "://" in path


def open_store(url: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URL or local path, and the path in it.

    Raises:
        DataError: if no such file system is known, installed, or reached.
    """
    try:
        from fsspec.core import url_to_fs

        system: tuple[AbstractFileSystem, str] = url_to_fs(url)
        return system
    except ImportError as error:
        package = _PACKAGES.get(url.partition("://")[0], "fsspec")
        raise DataError(f"{url}: needs {package}; pip install {package}") from error
    except Exception as error:  # of the libraries behind it
        raise DataError(f"{url}: cannot be reached ({first_line(error)}); check the address and your rights") from error


@dataclass(frozen=True, slots=True)
class PhotoFiles:
    """Image files, with the errors of what cannot be one."""

    files: tuple[tuple[str, str | None], ...]

    def __len__(self) -> int:
        return len(self.files)

    def photos(self) -> Iterator[PhotoResult]:
        """Yield the images in order; those of a store are read ahead."""
        if any(is_stored(path) for path, _ in self.files):
            yield from map_in_order(_fetched, self.files, workers=_READERS, ahead=_AHEAD)
        else:
            for path, error in self.files:
                yield PhotoResult(path, error=error)


@dataclass(frozen=True, slots=True)
class TarMembers:
    """Images in a local tar archive."""

    archive: str
    members: tuple[Member, ...]

    def __len__(self) -> int:
        return len(self.members)

    def photos(self) -> Iterator[PhotoResult]:
        """Yield the images in order."""
        for member in self.members:
            read = partial(_read_member, Path(self.archive), member)
            yield StoredPhoto(f"{self.archive}/{member.name}", read=read)


@dataclass(frozen=True, slots=True)
class TarShard:
    """All images of a tar archive in a store, which is fetched whole; how many they are shows then."""

    url: str

    def __len__(self) -> int:
        return 0

    def photos(self) -> Iterator[PhotoResult]:
        """Yield the images in order, or one result with the error of the archive."""
        with TemporaryDirectory() as folder:
            path = Path(folder, "shard.tar")
            try:
                system, name = open_store(self.url)
                _persistent(self.url, partial(system.get_file, name, str(path)))
                members = _images(path)
            except (DataError, ImageError) as error:
                yield PhotoResult(self.url, error=str(error).replace(str(path), self.url))
                return
            for member in members:
                # Read at once: the archive is gone when the last image is looked at.
                yield StoredPhoto(f"{self.url}/{member.name}", read=partial(bytes, read_member(path, member)))


@dataclass(frozen=True, slots=True)
class TableRows:
    """Images in a row group of a Parquet file: `count` from `start`; `first` is the group's row in the file."""

    table: str
    column: str
    group: int
    first: int
    start: int
    count: int

    def __len__(self) -> int:
        return self.count

    def photos(self) -> Iterator[PhotoResult]:
        """Yield the images in order; a row group that cannot be read is an error of each."""
        for row in range(self.start, self.start + self.count):
            read = partial(_value, self.table, self.group, self.column, row)
            yield StoredPhoto(f"{self.table}, row {self.first + row}", read=read)


Source: TypeAlias = PhotoFiles | TarMembers | TarShard | TableRows


@dataclass(slots=True)
class Images:
    """The images of some data, where they are."""

    files: list[tuple[str, str | None]] = field(default_factory=list)
    archives: list[tuple[str, tuple[Member, ...]]] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    tables: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)

    def count(self) -> int:
        """Return the number of images, without those of archives in a store, which nobody has counted."""
        members = sum(len(members) for _, members in self.archives)
        return len(self.files) + members + sum(sum(groups) for _, _, groups in self.tables)

    def chunks(self, size: int | None = None) -> list[Source]:
        """Divide the images; None takes a size by their number, so that it is the same in every run."""
        size = size or chunk_size(self.count())
        sources: list[Source] = [PhotoFiles(tuple(part)) for part in _parts(self.files, size)]
        sources += [
            TarMembers(archive, tuple(part)) for archive, members in self.archives for part in _parts(members, size)
        ]
        sources += map(TarShard, self.shards)
        for table, column, groups in self.tables:
            first = 0
            for group, rows in enumerate(groups):
                for start in range(0, rows, size):
                    sources.append(TableRows(table, column, group, first, start, min(size, rows - start)))
                first += rows
        return sources


def chunk_size(count: int) -> int:
    """Return how many of so many images a chunk has."""
    return min(max(count // _CHUNKS // _LEAST * _LEAST, _LEAST), _MOST)


def digest(sources: Iterable[Source]) -> str:
    """Return a hash of the images' names, which tells one set of chunks from another."""
    found = hashlib.sha256()
    for source in sources:
        found.update(f"{source!r}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def find_images(data: Iterable[str], report: Callable[[str], object], image_column: str | None = None) -> Images:
    """Find the images of paths and URLs: image files, folders of such, tar archives and Parquet tables.

    A folder without images may hold archives or tables. What cannot be read is an image with an error.

    Args:
        data: paths, and URLs of the file systems of fsspec; those of shards may have braces, URLs also asterisks.
        report: called with messages about files that are passed over.
        image_column: of tables; by default image or img.

    Raises:
        DataError: if a store is not reached, or a table has no such column.
    """
    images = Images()
    for name in data:
        for one in [name] if not name or os.path.exists(name) else expand_braces(name):  # noqa: PTH110 (as of names too long)
            _find(one, images, report, image_column)
    return images


def _find(name: str, images: Images, report: Callable[[str], object], column: str | None) -> None:
    if is_stored(name):
        found = _find_stored(name, report)
    elif os.path.splitext(name)[1].lower() in _SHARDS and os.path.isfile(name):  # noqa: PTH113, PTH122 (likewise)
        found = [(name, None)]
    else:
        found = _find_local(name, report)
    for path, error in found:
        suffix = PurePosixPath(path).suffix.lower()
        try:
            if error or suffix not in _SHARDS:
                images.files.append((path, error))
            elif suffix == ".parquet":
                images.tables.append(_table(path, column))
            elif is_stored(path):
                images.shards.append(path)
            else:
                images.archives.append((path, _images(Path(path))))
        except _UnreadableError as cause:
            images.files.append((path, str(cause)))


class _UnreadableError(DataError):
    """A file is damaged, or gone: an error of this file, not of the whole run."""


def _find_local(name: str, report: Callable[[str], object]) -> list[tuple[str, str | None]]:
    messages: list[str] = []
    photos = [(photo.path, photo.error) for photo in find_photos([name], messages.append)]
    if all(error for _, error in photos) and os.path.isdir(name):  # noqa: PTH112 (likewise)
        shards = [path for path in sorted(Path(name).rglob("*")) if path.suffix.lower() in _SHARDS]
        shards = [path for path in shards if path.is_file() and not in_junk(str(path.relative_to(name)))]
        if shards:
            return [(str(path), None) for path in shards]
    for message in messages:
        report(message)
    return photos


def _find_stored(url: str, report: Callable[[str], object]) -> list[tuple[str, str | None]]:
    system, root = open_store(url)
    try:
        if "*" in url:
            names = [str(name) for name in system.glob(root)]
            return [(system.unstrip_protocol(name), None) for name in sorted(names)] or [(url, f"{url}: no such file")]
        if not system.isdir(root):
            return [(url, None)]
        names = sorted(str(name) for name in system.find(root))
    except Exception as error:  # of the libraries behind it
        raise DataError(f"{url}: cannot be listed ({first_line(error)}); check the address and your rights") from error
    names = [name for name in names if not in_junk(name.removeprefix(root).lstrip("/"))]
    photos = [name for name in names if PurePosixPath(name).suffix.lower() in image_suffixes()]
    chosen = photos or [name for name in names if PurePosixPath(name).suffix.lower() in _SHARDS]
    if len(chosen) < len(names):
        report(f"{url}: passed over {len(names) - len(chosen)} that are no image files by their names")
    return [(system.unstrip_protocol(name), None) for name in chosen] or [(url, f"{url}: no image file in this folder")]


def _table(path: str, column: str | None) -> tuple[str, str, tuple[int, ...]]:
    try:
        with _parquet(path) as file:
            metadata = file.metadata
            groups = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
            return path, find_column(path, file.schema_arrow, column, IMAGE_COLUMNS, "image_column"), groups
    except DataError:
        raise
    except ImportError as error:
        raise DataError(f"{path}: parquet needs pyarrow; pip install 'effnets[train]'") from error
    except Exception as error:  # of Arrow, and of the libraries of the store
        raise _UnreadableError(f"{path}: cannot be read as parquet ({first_line(error)}); copy it again") from error


def _parquet(path: str) -> Any:
    import pyarrow.parquet as pq

    if not is_stored(path):
        return pq.ParquetFile(path)
    system, name = open_store(path)
    return pq.ParquetFile(system.open(name))


def _images(path: Path) -> tuple[Member, ...]:
    """Return the images in a tar archive."""
    suffixes = image_suffixes()
    try:
        members = index_archive(path).files
    except DataError as error:
        raise _UnreadableError(str(error)) from error
    found = tuple(member for member in members if PurePosixPath(member.name).suffix.lower() in suffixes)
    if not found:
        raise _UnreadableError(f"{path}: no image file in this archive")
    return found


def _read_member(path: Path, member: Member) -> bytes:
    try:
        return read_member(path, member)
    except OSError as error:
        raise ImageError(f"{path}/{member.name} cannot be read ({error.strerror})") from error


def _value(table: str, group: int, column: str, row: int) -> bytes:
    rows = _row_group(table, group, column)
    if isinstance(rows, ImageError):
        raise ImageError(str(rows))
    value: bytes | None = rows[row].as_py()
    if value is None:
        raise ImageError(f"{table}: an image has no bytes; write images into the file, not their paths")
    return value


@lru_cache(maxsize=2)
def _row_group(table: str, group: int, column: str) -> pa.Array[Any] | ImageError:
    """Return the images of a row group, or why it cannot be read; chunks of the same one follow each other."""
    import pyarrow as pa

    def read() -> Any:
        with _parquet(table) as file:
            return file.read_row_group(group, columns=[column]).column(0).combine_chunks()

    try:
        rows = _persistent(f"{table}: row group {group}", read)
    except ImageError as error:
        return error
    rows = rows.chunk(0) if isinstance(rows, pa.ChunkedArray) else rows
    return rows.field("bytes") if pa.types.is_struct(rows.type) else rows


def _fetched(file: tuple[str, str | None]) -> PhotoResult:
    path, error = file
    if error or not is_stored(path):
        return PhotoResult(path, error=error)
    try:
        system, name = open_store(path)
        return StoredPhoto(path, read=partial(bytes, _persistent(path, partial(system.cat_file, name))))
    except (DataError, ImageError) as cause:
        return PhotoResult(path, error=str(cause))


def _persistent(what: str, read: Callable[[], Any]) -> Any:
    """Call a function that reads from a store, again if it fails.

    Raises:
        ImageError: if it fails every time, or finds nothing.
    """
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            return read()
        except FileNotFoundError as error:
            raise ImageError(f"{what} does not exist; check its spelling") from error
        except Exception as error:  # the libraries raise anything
            reason = error
    raise ImageError(f"{what} cannot be read ({first_line(reason)}, {_TRIES} times)") from reason


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
