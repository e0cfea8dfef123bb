"""Files that are whole or not there at all, at whatever moment the process or the machine dies. Free of torch."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes | memoryview, *, partial: Path | None = None, read_back: bool = False) -> None:
    """Write a file beside, have the disk confirm it, and only then give it its name.

    Args:
        path: what it will be called; a file of that name is replaced, or stays if anything fails.
        data: its content.
        partial: what it is called meanwhile, where others are kept out by a lock, so that what a killed process left
            is written over; None takes a name that nobody else has.
        read_back: compare what the disk gives back, before the file gets its name.

    Raises:
        OSError: the disk refuses, or gives back something else.
    """
    # Not tempfile's: that would be readable for its owner alone.
    beside = partial or path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if read_back and beside.read_bytes() != data:
            raise OSError("the disk does not hold what was written to it")
        beside.replace(path)
        _sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the disk confirm the new name, where the system and the folder's file system can be asked to."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # The file is whole and has its name: a folder that may be written but not listed, and file systems without
        # such a confirmation (some of networks), are no failure.
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise
