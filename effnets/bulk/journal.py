"""The rows of a file while it is being made: in a journal beside it, which an interrupted run continues from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from effnets.bulk.table import check_target, write_rows
from effnets.bulk.vectors import VECTOR_WRITERS, write_vectors
from effnets.inference.image import PhotoResult
from effnets.utils.run_journal import RunJournal

Row = Mapping[str, Any]


class Journal(RunJournal):
    """The rows of `target`, one JSON object a line in ``TARGET.part``, until `finish` writes the file from them.

    Used as a context manager, it lets others go on with the journal afterwards.

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
        self.target, self._vector_size = target, vector_size
        self.vectors_path = target.with_name(f"{target.name}.part.vectors")
        self._vectors: IO[bytes] = BytesIO()
        super().__init__(_path_of(target), settings, resume=resume, name=target)
        if vector_size:
            try:
                self._vectors = self.vectors_path.open("ab")
                self._drop_singles()
            except BaseException:
                self.close()
                raise

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
        with self.writing():
            if vector is not None:
                self._vectors.write(vector.astype("<f4").tobytes())
                self._vectors.flush()
        self.append(row)

    def finish(self) -> None:
        """Write the target from the rows, in one piece, and remove the journal; raises as `write`."""
        with self.writing():
            if self._vector_size:
                write_vectors(self.target, self.rows, self.vectors(), self.settings)
            else:
                write_rows(self.target, self.rows)
        self.close()
        self._remove()

    def close(self) -> None:
        """Let others go on with the journal."""
        super().close()
        with suppress(OSError):  # as of the rows
            self._vectors.close()

    def _remove(self) -> None:
        self.path.unlink()
        self.vectors_path.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file.closed:
            return
        self.close()
        with self.path.open("rb") as file:
            empty = not file.readline() or not file.readline()
        if empty:
            self._remove()


def _path_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")
