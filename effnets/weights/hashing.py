"""What killed processes leave behind: files in part, under names that nobody asks for again."""

from __future__ import annotations

import contextlib
import hashlib
import time
from contextlib import suppress
from pathlib import Path

from effnets.errors import WeightsError
from effnets.spec.specs import RemoteFile
from effnets.utils.paths import home_dir

# A younger file may be another process's that is still fetching: locks do not hold on every filesystem of a cluster.
_SECONDS = 24 * 3600.0


def sweep(folder: Path, pattern: str) -> None:
    """Remove the files of `folder` that match `pattern` and were not touched for a day, as far as that is possible."""
    oldest = time.time() - _SECONDS
    with suppress(OSError):
        for path in folder.glob(pattern):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


# Stands before the sha1 that git knows a file by, to tell it from a sha256 or the beginning of one.
GIT_SHA1 = "git-sha1-"


def find_problem(path: Path, remote: RemoteFile, announced: str | None = None) -> str | None:
    """What is wrong with the file; None if it is as everybody says who knows: the pin, the server, the file's name."""
    stated = {"the pin": remote.sha256, "the server": announced, "the file's name": remote.sha256_prefix}
    wrong = [f"{who} says {value}" for who, value in stated.items() if value and not is_intact(path, value)]
    return f"its sha256 is {hash_file(path)}, and {', '.join(wrong)}" if wrong else None


def hash_file(path: Path) -> str:
    """The sha256 of a file, in hex.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None


def is_intact(path: Path, expected: str) -> bool:
    """Whether the file has the hash `expected`: a sha256, the beginning of one, or git's sha1 with `GIT_SHA1` before.

    What was found intact is remembered under `expected`, the file's size, its place on the disk and when it was
    modified and changed, and not hashed again until one of them differs. Where nothing can be written the file is
    hashed each time.
    """
    marker = _marker(path, expected)
    with contextlib.suppress(OSError):
        if marker.is_file():
            return True
    if expected.startswith(GIT_SHA1):
        intact = expected.removeprefix(GIT_SHA1) in _sha1s(path)
    else:
        intact = hash_file(path).startswith(expected)
    if intact:
        remember(path, expected)
    return intact


def remember(path: Path, expected: str) -> None:
    """Note that the file was found intact, if there is a place to note it."""
    with contextlib.suppress(OSError):
        marker = _marker(path, expected)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def note(remote: RemoteFile, commit: str, announced: str) -> None:
    """Keep what the server announced for a file whose place in the cache does not tell, if there is a place to."""
    with contextlib.suppress(OSError):
        place = _note(remote, commit)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(announced, encoding="utf-8")


def recall(remote: RemoteFile, commit: str) -> str | None:
    """What `note` kept for the file; None if nothing."""
    try:
        return _note(remote, commit).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _note(remote: RemoteFile, commit: str) -> Path:
    name = f"{remote.source}@{commit}/{remote.file}"
    return home_dir() / "announced" / hashlib.sha256(name.encode()).hexdigest()


def _sha1s(path: Path) -> tuple[str, str]:
    """git's sha1 of the file, as the Hub announces for small ones; and the plain one, as some mirrors do instead."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), hashlib.sha1(content).hexdigest()


def _marker(path: Path, expected: str) -> Path:
    facts = path.stat()
    # The time of change too: copies keep the other one, and nobody can set this one.
    state = (facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns)
    return home_dir() / "verified" / "-".join([expected, *map(str, state)])
