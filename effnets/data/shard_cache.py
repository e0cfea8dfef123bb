"""A folder of fetched shards that never grows beyond a limit: data may be larger than the disk. Free of torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from effnets.data.download import download
from effnets.data.sampling import SHARDS_AT_ONCE
from effnets.errors import ArgumentError, DataError
from effnets.utils.atomic_file import write_whole
from effnets.utils.paths import home_dir

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
        pack: writes into its second file what is kept of its first, which was fetched; None keeps shards as they are.
            It says by its `repr` what it does.
    """

    folder: Path
    limit: int
    pack: Callable[[Path, Path], None] | None = None

    def path(self, url: str) -> Path:
        """Where a shard lies while it is here."""
        name = PurePosixPath(urlsplit(url).path).name or "shard"
        key = url if self.pack is None else f"{url} {self.pack!r}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{name}"

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

    def noted(self, url: str) -> dict[str, Any]:
        """What was noted of a shard, which stays when the shard goes; nothing where there is nothing."""
        try:
            noted = json.loads(self.notes(url).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def note(self, url: str, values: Mapping[str, Any]) -> None:
        """Note something of a shard.

        Raises:
            DataError: the disk refuses.
        """
        path = self.notes(url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(values).encode())
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror or error}); make room") from error

    def notes(self, url: str) -> Path:
        """The file of what is noted of a shard."""
        return self.path(url).with_suffix(".json")

    def _fetch(self, url: str, path: Path) -> None:
        partial = path.with_name(f".{path.name}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as file, _alone(file):
                # While this process waited, another may have fetched the shard, or given up.
                if path.exists() or not _is_still(file, partial):
                    return
                try:
                    self._fill(url, file, partial, path)
                finally:
                    partial.unlink(missing_ok=True)
        except DataError as error:
            raise DataError(str(error).replace(str(partial), url)) from error
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot be written ({error.strerror or error}); make room, lower {_LIMIT}, or name "
                "another folder by EFFNETS_HOME"
            ) from error

    def _fill(self, url: str, file: BinaryIO, partial: Path, path: Path) -> None:
        download(url, file, self._make_room)
        if self.pack is None:
            partial.replace(path)
            return
        file.flush()
        self._make_room(file.tell())  # both forms lie here for a moment
        packed = path.with_name(f".{path.name}.packed.partial")
        try:
            self.pack(partial, packed)
            packed.replace(path)
        finally:
            packed.unlink(missing_ok=True)

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


def check_room(sizes: Sequence[int], cache: ShardCache) -> None:
    """Raise a DataError if there is none for the shards that are read from at the same time, and those after."""
    largest = sorted(sizes)[-2 * SHARDS_AT_ONCE :]
    needed = sum(largest) + (largest[-1] if cache.pack is not None else 0)
    if needed > cache.limit:
        raise DataError(
            f"{cache.folder}: may hold {cache.limit / 2**30:.3g} GiB of shards, but {2 * SHARDS_AT_ONCE} of these take "
            f"{needed / 2**30:.3g}; set {_LIMIT} to {needed / 2**30:.3g} or more, or make smaller shards"
        )


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
