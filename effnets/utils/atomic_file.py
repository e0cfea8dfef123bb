"""Files that are whole or not there at all, at whatever moment the process or the machine dies. Free of torch."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from pathlib import Path


def write_whole(path: Path, data: bytes | memoryview, *, partial: Path | None = None, read_back: bool = False) -> None:
    """Write a file beside, have the disk confirm it, and only then give it its name.

    Args:
        path: what it will be called; a file of that name is replaced, or stays if anything fails. A link stays, and
            what it leads to is replaced.
        data: its content.
        partial: what it is called meanwhile, where others are kept out by a lock, so that what a killed process left
            is written over; None takes a name that nobody else has. With it `path` belongs to the program, so that a
            link is replaced: in a copy of a folder it may lead to the original.
        read_back: compare what the disk gives back, before the file gets its name.

    Raises:
        OSError: the disk refuses, or gives back something else; or a pipe, a device or a folder has that name.
    """
    target = path if partial and path.is_symlink() else find_target(path)
    # Not tempfile's: that would be readable for its owner alone.
    beside = partial or target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if read_back and beside.read_bytes() != data:
            raise OSError("the disk does not hold what was written to it")
        beside.replace(target)
        _sync_folder(target.parent)
    finally:
        beside.unlink(missing_ok=True)


def find_target(path: Path) -> Path:
    """The file that is written under a name: `path`, or what it leads to as a link, whether that exists or not.

    Raises:
        OSError: it is a pipe, a device or a folder, in whose place a file would be put; or links go in a circle.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError("it is a pipe or a device, not a file")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


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
