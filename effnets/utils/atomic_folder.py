"""Write folders atomically: complete or not at all. Free of torch."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`, of the same suffix, which takes its place in the end.

    If anything fails, it is removed, and what was at `path` stays. An existing folder is replaced by two renames,
    between which there is none; a link stays, and its target is replaced.

    Raises:
        OSError: if the folder cannot be made, or renamed.
    """
    target = Path(os.path.realpath(path))
    unique = uuid.uuid4().hex
    beside, before = (target.with_name(f".{unique}.{kind}{target.name}") for kind in ("", "before."))
    beside.mkdir()
    try:
        yield beside
        try:
            if target.exists():
                target.rename(before)
            beside.rename(target)
        except BaseException:
            if before.exists() and not target.exists():
                before.rename(target)
            raise
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
