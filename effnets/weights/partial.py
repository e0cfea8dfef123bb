"""What killed processes leave behind: files in part, under names that nobody asks for again."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

__all__ = ["sweep"]

# A younger file may be another process's that is still fetching: locks do not hold on every filesystem of a cluster.
_SECONDS = 24 * 3600.0


def sweep(folder: Path, pattern: str) -> None:
    """Remove the files of `folder` that match `pattern` and were not touched for a day, as far as that is possible."""
    oldest = time.time() - _SECONDS
    with suppress(OSError):
        for path in folder.glob(pattern):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
