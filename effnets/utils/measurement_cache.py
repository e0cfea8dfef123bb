"""Latencies that were measured, kept between runs in ``EFFNETS_HOME/measurements``. Free of torch.

One file for one measurement: processes that measure side by side lose nothing of each other's, and what damages one
file costs one measurement.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnets.utils.atomic_file import write_whole
from effnets.utils.paths import home_dir
from effnets.utils.timing import Timing

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of measurements; by default the user's, made with the first of them."""

    folder: Path

    @classmethod
    def default(cls) -> Store:
        """That in `effnets.utils.paths.home_dir`."""
        return cls(home_dir() / "measurements")

    def read(self, conditions: Mapping[str, Any]) -> tuple[Timing | None, str | None]:
        """What was measured under these conditions, or None; and a note where a file is there but of no use."""
        path = self._path(conditions)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None, None
        except (OSError, UnicodeDecodeError) as error:
            return None, f"{path}: cannot be read ({error}); measuring anew"
        try:
            samples = _samples(json.loads(text), _plain(conditions))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None, f"{path}: the measurement in it is damaged; measuring anew"
        return Timing(samples), None

    def write(self, conditions: Mapping[str, Any], timing: Timing, *, when: str) -> str | None:
        """Keep a measurement, whole or not at all; a note where that fails, which costs no more than time."""
        path = self._path(conditions)
        content = {"format": _FORMAT, "conditions": _plain(conditions), "measured": when, "ms": list(timing.samples)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:
            return f"{path}: the measurement is not kept ({error.strerror or error})"
        return None

    def _path(self, conditions: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(_plain(conditions), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.json"


def _plain(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from a file: tuples as lists."""
    plain: dict[str, Any] = json.loads(json.dumps(conditions))
    return plain


def _samples(content: Any, conditions: dict[str, Any]) -> tuple[float, ...]:
    if content["format"] != _FORMAT or content["conditions"] != conditions:
        raise ValueError("written for something else")
    samples = content["ms"]
    if not isinstance(samples, list) or not samples:
        raise ValueError("no samples")
    if not all(type(value) in (int, float) and 0 < value < math.inf for value in samples):
        raise ValueError("no times")
    return tuple(float(value) for value in samples)
