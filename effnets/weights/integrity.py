"""Whether a file is the one that was announced: hashed once, and remembered. Free of torch's tensors."""

from __future__ import annotations

import contextlib
from pathlib import Path

from effnets.paths import home_dir
from effnets.weights.files import hash_file
from effnets.weights_spec import WeightsSpec

__all__ = ["expected_hash", "is_intact", "mismatch"]


def expected_hash(weights: WeightsSpec, announced: str | None = None) -> str | None:
    """The sha256 that the file must have, or the beginning of one, by whoever knows it best; None if nobody does."""
    return weights.sha256 or announced or weights.sha256_prefix


def is_intact(path: Path, expected: str) -> bool:
    """Whether the file has the sha256 (or the beginning of one) `expected`.

    What was found intact is remembered under `expected`, the file's size and its time of change, and not hashed again
    until one of them differs. Where nothing can be written the file is hashed each time.
    """
    facts = path.stat()
    marker = home_dir() / "verified" / f"{expected}-{facts.st_size}-{facts.st_mtime_ns}"
    with contextlib.suppress(OSError):
        if marker.is_file():
            return True
    if not hash_file(path).startswith(expected):
        return False
    with contextlib.suppress(OSError):
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    return True


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
