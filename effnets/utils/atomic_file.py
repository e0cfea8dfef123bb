"""Write files atomically: complete or not at all, also if the process or the machine dies. Free of torch."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, data: bytes | memoryview, *, partial: Path | None = None, read_back: bool = False) -> None:
    """Write a temporary file next to `path`, sync it to disk, and rename it.

    Args:
        path: the file to write or replace; it stays as it is if anything fails. A link stays, and its target is
            replaced.
        data: its content.
        partial: name of the temporary file, if a lock keeps others out, so that the leftover of a killed process is
            overwritten; None takes a unique name. With it `path` belongs to the program, so that a link is replaced: in
            a copy of a folder it may lead to the original.
        read_back: compare the file on disk with `data` before the rename.

    Raises:
        OSError: if writing fails, the file on disk differs, or `path` is a pipe, a device or a folder.
    """
    with new_file(path, partial=partial) as beside:
        beside.write_bytes(data)
        if read_back and beside.read_bytes() != data:
            raise OSError("the disk does not hold what was written to it")


@contextmanager
def new_file(path: Path, *, partial: Path | None = None) -> Iterator[Path]:
    """Give the name of a temporary file next to `path`, which is synced to disk and takes its place in the end.

    Arguments and errors as of `write_whole`. If anything fails, the temporary file is removed.
    """
    target = path if partial and path.is_symlink() else find_target(path)
    # Not tempfile's, which only its owner may read.
    beside = partial or target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(target)
        _sync_folder(target.parent)
    finally:
        beside.unlink(missing_ok=True)


def find_target(path: Path) -> Path:
    """Return the file to write for `path`: itself, or the target of a link, existing or not.

    Raises:
        OSError: if it is a pipe, a device or a folder; or if links go in a circle.
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
    """Sync the new name to disk, where the system and the file system support it."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # The file is complete and has its name: a folder that is writable but not listable, and file systems without
        # such a sync (some network ones), are not failures.
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise
