"""Whether a file is the one that was announced: hashed once, and remembered. Free of torch."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from effnets.errors import WeightsError
from effnets.paths import home_dir
from effnets.weights_spec import WeightsSpec

__all__ = ["expected_hash", "hash_file", "is_intact", "mismatch", "remember"]


def expected_hash(weights: WeightsSpec, announced: str | None = None) -> str | None:
    """The sha256 that the file must have, or the beginning of one, by whoever knows it best; None if nobody does."""
    return weights.sha256 or announced or weights.sha256_prefix


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
    """Whether the file has the sha256 (or the beginning of one) `expected`.

    What was found intact is remembered under `expected`, the file's size and its time of change, and not hashed again
    until one of them differs. Where nothing can be written the file is hashed each time.
    """
    marker = _marker(path, expected)
    with contextlib.suppress(OSError):
        if marker.is_file():
            return True
    if not hash_file(path).startswith(expected):
        return False
    remember(path, expected)
    return True


def remember(path: Path, expected: str) -> None:
    """Note that the file was found intact, if there is a place to note it."""
    with contextlib.suppress(OSError):
        marker = _marker(path, expected)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def _marker(path: Path, expected: str) -> Path:
    facts = path.stat()
    return home_dir() / "verified" / f"{expected}-{facts.st_size}-{facts.st_mtime_ns}"


def mismatch(weights: WeightsSpec, announced: str | None, found: str) -> str:
    """What is wrong with a file whose hash is `found`, in words."""
    says = [
        f"{who} says {value}"
        for who, value in (
            ("the pin", weights.sha256),
            ("the server", announced),
            ("the file's name", weights.sha256_prefix),
        )
        if value and not found.startswith(value)
    ]
    return f"its sha256 is {found}, and {', '.join(says)}"
