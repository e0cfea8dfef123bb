"""The rows of a file while it is being made: in a journal beside it, which an interrupted run continues from."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from effnets.bulk.table import check_target, write_rows
from effnets.bulk.vectors import VECTOR_WRITERS, write_vectors
from effnets.errors import ArgumentError, DataError
from effnets.inference.image import PhotoResult
from effnets.utils.arguments import check_settings

Row = Mapping[str, Any]
_CHUNK = 1 << 16
_Self = TypeVar("_Self", bound="Journal")


class Journal:
    """The rows of `target`, one JSON object a line in ``TARGET.part``, until `finish` writes the file from them.

    A line is whole or, after a kill, cut short and then dropped, so that no row is lost, repeated, or half there. Used
    as a context manager, it lets others go on with the journal afterwards.

    Vectors lie in a second file, ``TARGET.part.vectors``, raw in float32, one for every row without ``error``. Each is
    there before its row is, so that after a kill there is at most one too many, which is dropped.

    Args:
        target: the file to make, of `effnets.bulk.table.WRITERS`, or with vectors of `VECTOR_WRITERS`.
        settings: what the rows depend on besides their photo, as plain values; a run with others may not continue.
        resume: continue the run of an existing journal.
        vector_size: length of the vectors, 0 for rows alone.

    Raises:
        ArgumentError: if the target cannot be written, another run is writing it, a journal exists and `resume` is
            false, or its run has other settings.
    """

    def __init__(
        self, target: Path, settings: Mapping[str, Any], *, resume: bool = False, vector_size: int = 0
    ) -> None:
        check_target(target, VECTOR_WRITERS if vector_size else ())
        self.target, self.path, self._vector_size = target, _path_of(target), vector_size
        self.vectors_path = target.with_name(f"{target.name}.part.vectors")
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._vectors: IO[bytes] = BytesIO()
        exists = self.path.exists()
        try:
            self._file = self.path.open("ab+")
        except OSError as error:
            raise ArgumentError(
                f"{target}: cannot be written there ({error.strerror or error}); name another"
            ) from error
        try:
            self._lock()
            if exists and not resume:
                raise ArgumentError(
                    f"{self.path} is of an interrupted run; continue it with --resume, or delete the file to start over"
                )
            with self._writing():
                self._begin(self.settings)
            if vector_size:
                self._vectors = self.vectors_path.open("ab")
                self._drop_singles()
        except BaseException:
            self._close()
            raise

    def _lock(self) -> None:
        if os.name != "posix":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ArgumentError(f"{self.path}: another run is writing it; wait for its end, or stop it") from error

    def _begin(self, settings: dict[str, Any]) -> None:
        """Write the settings, or compare them, and drop what was cut short."""
        end = _end_of_lines(self.path)
        self._file.truncate(end)
        if not end:
            self._append({"settings": settings})
            return
        with self.path.open("rb") as file:
            try:
                before = json.loads(file.readline())["settings"]
            except (ValueError, KeyError, TypeError):
                raise ArgumentError(f"{self.path} is no journal of effnets; move it away, or name another") from None
        check_settings(self.path, before, settings)

    def _drop_singles(self) -> None:
        """Drop the last vector if it has no row; and after a failure of the disk, rows whose vectors are not there."""
        size = 4 * self._vector_size
        stored, vectors = self._vectors.tell() // size, 0
        with self.path.open("rb") as file:
            end = len(file.readline())
            for line in file:
                has_vector = "error" not in json.loads(line)
                if has_vector and vectors == stored:
                    break
                vectors += has_vector
                end += len(line)
        self._file.truncate(end)
        self._vectors.truncate(vectors * size)

    @staticmethod
    def is_complete(target: Path) -> bool:
        """Whether there is nothing to resume: the file is there, and no journal."""
        return target.exists() and not _path_of(target).exists()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows so far."""
        self._file.flush()
        with self.path.open("rb") as file:
            file.readline()
            yield from map(json.loads, file)

    def pending(self, photos: Iterable[PhotoResult]) -> Iterator[PhotoResult]:
        """Yield the photos that have no row yet.

        Photos come in the same order in every run, so that they are compared with the rows one by one; only from where
        they differ, because files came or went, are the paths of the other rows held in memory.
        """
        rows = (str(row["path"]) for row in self.rows())
        others: Counter[str] | None = None
        for photo in photos:
            if others is None:
                path = next(rows, None)
                if path == photo.path:
                    continue
                others = Counter(() if path is None else (path, *rows))
            if others[photo.path]:
                others[photo.path] -= 1
                continue
            yield photo

    def vectors(self) -> NDArray[np.float32]:
        """Return the vectors so far, ``[N, D]``, mapped from their file."""
        self._vectors.flush()
        count = self._vectors.tell() // (4 * self._vector_size)
        if not count:
            return np.empty((0, self._vector_size), np.float32)
        return np.memmap(self.vectors_path, "<f4", "r", shape=(count, self._vector_size))

    def write(self, row: Row, vector: NDArray[np.float32] | None = None) -> None:
        """Append a row, which has a ``path``, with its vector if it has no ``error``.

        Raises:
            DataError: if it cannot be written: the disk is full, for example.
        """
        with self._writing():
            if vector is not None:
                self._vectors.write(vector.astype("<f4").tobytes())
                self._vectors.flush()
            self._append(row)

    def finish(self) -> None:
        """Write the target from the rows, in one piece, and remove the journal; raises as `write`."""
        with self._writing():
            if self._vector_size:
                write_vectors(self.target, self.rows, self.vectors(), self.settings)
            else:
                write_rows(self.target, self.rows)
        self._close()
        self._remove()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.target}: cannot be written ({error.strerror or error}); fix that, and continue with --resume"
            ) from error

    def _close(self) -> None:
        for file in (self._file, self._vectors):
            with suppress(OSError):  # of what could not be written before, which was an error then
                file.close()

    def _remove(self) -> None:
        self.path.unlink()
        self.vectors_path.unlink(missing_ok=True)

    def _append(self, values: Row) -> None:
        # As ASCII, so that a file name of any bytes comes back the same.
        self._file.write(f"{json.dumps(values)}\n".encode("ascii"))
        self._file.flush()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file.closed:
            return
        self._close()
        with self.path.open("rb") as file:
            empty = not file.readline() or not file.readline()
        if empty:
            self._remove()


def _path_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _end_of_lines(path: Path) -> int:
    """Return the size in bytes of a file without the beginning of a line at its end."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - _CHUNK)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0
