"""Hashes of files: computed once, remembered, and compared with the pin and with what the server announced."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from effnets.errors import WeightsError
from effnets.spec.specs import RemoteFile
from effnets.utils.paths import home_dir

# A younger file may belong to a download in progress: locks do not work on every filesystem of a cluster.
_SECONDS = 24 * 3600.0


def sweep(folder: Path, pattern: str) -> None:
    """Remove partial files of killed processes: those of `folder` that match `pattern` and are older than a day."""
    oldest = time.time() - _SECONDS
    with suppress(OSError):
        for path in folder.glob(pattern):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


# Prefix of a git sha1, to tell it from a sha256 or its prefix.
GIT_SHA1 = "git-sha1-"


def find_problem(path: Path, remote: RemoteFile, announced: str | None = None) -> str | None:
    """Return how the file differs from the pin, the announced hash or the hash in its name; None if it does not."""
    stated = {"the pin": remote.sha256, "the server": announced, "the file's name": remote.sha256_prefix}
    wrong = [f"{who} says {value}" for who, value in stated.items() if value and not is_intact(path, value)]
    return f"its sha256 is {hash_file(path)}, and {', '.join(wrong)}" if wrong else None


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, in hex.

    Raises:
        WeightsError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None


def is_intact(path: Path, expected: str) -> bool:
    """Return whether the file has the hash `expected`: a sha256, a prefix of one, or `GIT_SHA1` and git's sha1.

    An intact file is remembered by `expected`, its size, inode, and times of modification and change, and is hashed
    again only if one of them differs. Without a writable home folder it is hashed each time.
    """
    marker = _marker(path, expected)
    with suppress(OSError):
        if marker.is_file():
            return True
    if expected.startswith(GIT_SHA1):
        # Git's sha1, which the Hub announces for small files, or the plain sha1 of some mirrors.
        content = path.read_bytes()
        sha1s = [hashlib.sha1(start + content).hexdigest() for start in (b"blob %d\0" % len(content), b"")]
        intact = expected.removeprefix(GIT_SHA1) in sha1s
    else:
        intact = hash_file(path).startswith(expected)
    if intact:
        remember(path, expected)
    return intact


def remember(path: Path, expected: str) -> None:
    """Record that the file is intact, if the home folder is writable."""
    with suppress(OSError):
        marker = _marker(path, expected)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def note(remote: RemoteFile, commit: str, announced: str) -> None:
    """Record the ETag of a file in a cache without links, if the home folder is writable."""
    with suppress(OSError):
        place = _note(remote, commit)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(announced, encoding="utf-8")


def recall(remote: RemoteFile, commit: str) -> str | None:
    """Return the ETag that `note` recorded for the file; None without a record."""
    with suppress(OSError, ValueError):
        return _note(remote, commit).read_text(encoding="utf-8")
    return None


def _note(remote: RemoteFile, commit: str) -> Path:
    name = f"{remote.source}@{commit}/{remote.file}"
    return home_dir() / "announced" / hashlib.sha256(name.encode()).hexdigest()


def _marker(path: Path, expected: str) -> Path:
    facts = path.stat()
    # ctime too: copies preserve mtime, but no program can set ctime.
    state = (facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns)
    return home_dir() / "verified" / "-".join([expected, *map(str, state)])
