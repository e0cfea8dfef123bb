"""Pins: the exact file behind each published name, as ``scripts/pin_weights.py`` found it. Free of torch.

They lie in a file of their own, ``configs/weights/pins.yaml``, so that an organisation can pin its own mirror: the
environment variable ``EFFNETS_PINS`` names another file, which then stands in for it altogether. Only files that lie in
the package have their pins there always.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from effnets.entry_values import EntryKey, decode_mapping
from effnets.errors import ConfigError, MissingFileError
from effnets.utils.paths import configs_dir
from effnets.yamltree import read_yaml

__all__ = ["PINS_VARIABLE", "PIN_KEYS", "Pin", "pins_path", "read_pins", "shipped_pins_path"]

PINS_VARIABLE = "EFFNETS_PINS"

PIN_KEYS: Mapping[str, EntryKey] = MappingProxyType(
    {
        "revision": EntryKey(kind="text", doc="Commit of the repository on the Hub, 40 hex digits."),
        "sha256": EntryKey(kind="text", doc="Of the file, 64 hex digits."),
    }
)

_DIGITS = {"revision": 40, "sha256": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What is pinned for one ``model.tag``, and where that stands."""

    revision: str | None = None
    sha256: str | None = None
    where: str = ""


def pins_path() -> Path:
    """The file of pins: the one that ``EFFNETS_PINS`` names, or ``configs/weights/pins.yaml``."""
    named = os.environ.get(PINS_VARIABLE)
    return Path(named) if named else shipped_pins_path()


def shipped_pins_path() -> Path:
    """The file of pins that comes with this package."""
    return configs_dir() / "weights" / "pins.yaml"


@lru_cache(maxsize=8)
def read_pins(path: Path) -> Mapping[str, Pin]:
    """Read a file of pins: ``model.tag`` → `Pin`.

    Raises:
        MissingFileError: no such file.
        ConfigError: not such a mapping, an unknown key, or digits that are none, with file, line and the fix.
    """
    try:
        document = read_yaml(path)
    except MissingFileError:
        hint = f"{PINS_VARIABLE} names it" if os.environ.get(PINS_VARIABLE) else "reinstall effnets"
        raise MissingFileError(f"{path}: no such file of pins ({hint})") from None
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}:{document.line}: the file must map model.tag to pins")
    pins = {}
    for name, node in document.value.items():
        if not isinstance(node.value, dict) or not node.value:
            raise ConfigError(f"{path}:{node.line}: {name}: a pin is a mapping, {{revision: …, sha256: …}}")
        values = decode_mapping(name, path, node.value, PIN_KEYS)
        for key, value in values.items():
            if not re.fullmatch(f"[0-9a-f]{{{_DIGITS[key]}}}", value):
                line = node.value[key].line
                raise ConfigError(
                    f"{path}:{line}: {name}: {key} is {value!r}; it must be {_DIGITS[key]} small hex digits, in quotes"
                )
        pins[name] = Pin(**values, where=f"{path}:{node.line}")
    return pins
