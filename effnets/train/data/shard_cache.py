"""A folder of fetched shards that never grows beyond a limit: data may be larger than the disk. Free of torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from effnets.errors import ArgumentError, DataError
from effnets.paths import home_dir
from effnets.train.data.download import download

__all__ = ["ShardCache", "default_cache"]

_GIB = 1 << 30
_LIMIT = "EFFNETS_SHARDS_GIB"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCache:
    """Shards as files, by their address; those that were not needed for longest make room.

    Several processes may use one folder: each shard is fetched once, and what others have open they can read to its
    end, though it be removed.

    Attributes:
        folder: where they lie; made where it is missing.
        limit: bytes that they may take together; a single one that is larger is kept alone.
    """

    folder: Path
    limit: int

    def path(self, url: str) -> Path:
        """Where a shard lies while it is here."""
        name = PurePosixPath(urlsplit(url).path).name or "shard"
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"

    def open(self, url: str) -> BinaryIO:
        """A shard's content, fetched if it is not here.

        Raises:
            DataError: it cannot be fetched or kept.
        """
        path = self.path(url)
        while True:
            try:
                file = path.open("rb")
            except (FileNotFoundError, NotADirectoryError):
                self._fetch(url, path)
                continue  # another process may have removed it already
            with suppress(FileNotFoundError):  # another process may remove it just now, which does no harm
                os.utime(path)  # it is needed
            return file

    def forget(self, url: str) -> None:
        """Remove a shard, so that it is fetched again."""
        with suppress(OSError):  # what cannot be removed is what cannot be written, of which others tell
            self.path(url).unlink()

    def _fetch(self, url: str, path: Path) -> None:
        partial = path.with_name(f".{path.name}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as file, _alone(file):
                # While this process waited, another may have fetched the shard, or given up.
                if path.exists() or not _is_still(file, partial):
                    return
                try:
                    download(url, file, self._make_room)
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)
        except DataError:
            raise
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot be written ({error.strerror or error}); make room, lower {_LIMIT}, or name "
                "another folder by EFFNETS_HOME"
            ) from error

    def _make_room(self, size: int) -> None:
        """Remove those shards that were not needed for longest until so many bytes more are within the limit."""
        shards: list[tuple[float, int, Path]] = []
        total = size
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # other processes make room as well
                status = path.stat()
                total += 0 if path.suffix == ".json" else status.st_size
                if path.suffix != ".json" and not path.name.startswith("."):  # nor those that are on their way
                    shards.append((status.st_mtime, status.st_size, path))
        for _, held, path in sorted(shards):
            if total <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= held


def default_cache() -> ShardCache:
    """The cache among what effnets keeps between runs, of 16 GiB, or as many as ``EFFNETS_SHARDS_GIB`` says.

    Raises:
        ArgumentError: that is no number above 0.
    """
    stated = os.environ.get(_LIMIT, "16")
    try:
        limit = float(stated)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise ArgumentError(f"{_LIMIT} is {stated!r}; give the room for shards that are fetched in GiB, such as 16")
    return ShardCache(folder=home_dir() / "shards", limit=int(limit * _GIB))


@contextmanager
def _alone(file: BinaryIO) -> Iterator[None]:
    """Keep others from this file; the system lets go when the process dies."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where two processes may fetch the same shard, one after the other
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _is_still(file: BinaryIO, path: Path) -> bool:
    """Whether `path` is the file that was opened."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
