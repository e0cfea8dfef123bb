"""Where the demo writes: a folder of its own, so that nothing of anybody's is touched. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from effnets.errors import ArgumentError, EffnetsError

__all__ = ["make_folder", "writing"]


def make_folder(wanted: Path) -> Path:
    """A folder that is new or empty: `wanted`, or, where that holds something, the same name with a number.

    Raises:
        ArgumentError: it cannot be made or written, `wanted` is a file, or it holds something and is called ``.`` or
            ``..``, to which no number can be put.
    """
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with writing(folder):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if not folder.is_dir():
                    raise ArgumentError(f"{folder}: is a file; name a folder, --output DIR") from None
                if any(folder.iterdir()):
                    if wanted.name in ("", ".."):
                        raise ArgumentError(f"{folder}: holds something already; name a folder, --output DIR") from None
                    continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        raise ArgumentError(f"{folder}: cannot be written (Permission denied); name another folder, --output DIR")
    raise AssertionError("numbers do not end")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the disk refuses while the demo writes to `folder`, said with its name.

    Raises:
        ArgumentError: instead of OSError.
    """
    try:
        yield
    except EffnetsError:  # some are OSErrors too, and say what they mean
        raise
    except OSError as error:
        raise ArgumentError(
            f"{folder}: cannot be written ({error.strerror or error}); name another folder, --output DIR"
        ) from None
