"""What a run has finished, one JSON object a line, so that an interrupted run goes on. Free of torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from effnets.errors import ArgumentError, DataError
from effnets.utils.arguments import check_settings

_CHUNK = 1 << 16
_Self = TypeVar("_Self", bound="RunJournal")


class RunJournal:
    """Appends rows to a file whose first line has the settings of the run; while it is open, no other run has it.

    A line is whole or, after a kill, cut short and then dropped, so that no row is lost, repeated, or half there.

    Args:
        path: of the journal. settings: what the rows depend on, as plain values; a run with others may not go on.
        resume: go on with an existing journal.
        name: what messages call the file that cannot be written; None: the journal's path.

    Raises:
        ArgumentError: if it cannot be written, another run is writing it, it exists and `resume` is false, or its run
            has other settings; the message names them.
        DataError: if writing fails: the disk is full, for example.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], *, resume: bool = False, name: Path | None = None
    ) -> None:
        self.path, self._name = path, name or path
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        exists = path.exists()
        try:
            self._file = path.open("ab+")
        except OSError as error:
            reason = error.strerror or error
            raise ArgumentError(f"{self._name}: cannot be written there ({reason}); name another") from error
        try:
            self._lock()
            if exists and not resume:
                raise ArgumentError(
                    f"{path} is of an interrupted run; continue it with --resume, or delete the file to start over"
                )
            with self.writing():
                self._begin(self.settings)
        except BaseException:
            self.close()
            raise

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows so far."""
        self._file.flush()
        with self.path.open("rb") as file:
            file.readline()
            yield from map(json.loads, file)

    def append(self, values: Mapping[str, Any]) -> None:
        """Append a row; raises DataError if it cannot be written."""
        with self.writing():
            # As ASCII, so that a file name of any bytes comes back the same.
            self._file.write(f"{json.dumps(values)}\n".encode("ascii"))
            self._file.flush()

    def close(self) -> None:
        """Let others go on with the journal."""
        with suppress(OSError):  # of what could not be written before, which was an error then
            self._file.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raise a DataError, with what to do, where the system cannot write."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._name}: cannot be written ({error.strerror or error}); fix that, and continue with --resume"
            ) from error

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
            self.append({"settings": settings})
            return
        with self.path.open("rb") as file:
            try:
                before = json.loads(file.readline())["settings"]
            except (ValueError, KeyError, TypeError):
                raise ArgumentError(f"{self.path} is no journal of effnets; move it away, or name another") from None
        check_settings(self.path, before, settings)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


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
