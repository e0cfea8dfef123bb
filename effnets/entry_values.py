"""The values of an entry, of architectures and of weights alike: of what kind each is, and how it is decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from effnets.errors import ConfigError
from effnets.grammar import decode_block
from effnets.spec import BlockSpec, ChannelSchedule
from effnets.utils.arguments import MAX_BLOCKS
from effnets.yamltree import Node

Result = TypeVar("Result")

__all__ = ["SCHEDULE_KEYS", "EntryKey", "decode_mapping", "placed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryKey:
    """What one key of an entry holds.

    `kind` is ``integer``, ``number``, ``boolean``, ``text``, ``block`` (a block string, or a piece of one),
    ``blocks`` (a list of them), ``numbers`` (one for every channel, or one for all) or ``schedule``.
    """

    kind: str
    doc: str
    choices: tuple[str, ...] = ()


SCHEDULE_KEYS: Mapping[str, EntryKey] = MappingProxyType(
    {
        "start": EntryKey(kind="integer", doc="Channels of the first block."),
        "growth": EntryKey(kind="integer", doc="What the ramp adds over the whole depth."),
        "inclusive": EntryKey(kind="boolean", doc="True: the last block reaches start + growth exactly."),
    }
)

_EXPECTED = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "text": "text",
    "block": "a piece of a block string, such as k3.5",
    "blocks": "a list of block strings",
    "numbers": "a number, or a list of one for each channel",
    "schedule": "a mapping such as {start: 16, growth: 180}, or null",
}


def decode_mapping(
    where: str, path: Path, mapping: Mapping[str, Node], known: Mapping[str, EntryKey]
) -> dict[str, Any]:
    """The values of a mapping whose keys must be among the `known` ones.

    Raises:
        ConfigError: unknown key or wrong type, with file, line, `where` and what belongs there.
    """
    values = {}
    for key, node in mapping.items():
        if key not in known:
            raise ConfigError(
                f"{path}:{node.line}:{node.column}: {where}: unknown key {key!r}; keys are {', '.join(known)}"
            )
        values[key] = _decode_value(f"{where}: {key}", path, node, known[key])
    return values


def _decode_value(where: str, path: Path, node: Node, key: EntryKey) -> Any:
    """Check the type of one value and decode it; the error says where it stands and what belongs there."""
    value = node.value
    match key.kind:
        case "integer" if isinstance(value, int) and not isinstance(value, bool):
            return value
        case "number" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case "boolean" if isinstance(value, bool):
            return value
        case "text" if isinstance(value, str) and (not key.choices or value in key.choices):
            return value
        case "block" if isinstance(value, str):
            return value
        case "blocks" if isinstance(value, list):
            if len(value) > MAX_BLOCKS:
                raise ConfigError(
                    f"{path}:{node.line}:{node.column}: {where}: {len(value):,} rows are too many; "
                    f"the limit is {MAX_BLOCKS:,}, and a row repeats with r"
                )
            return tuple(_decode_row(where, path, number, row) for number, row in enumerate(value, start=1))
        case "numbers" if isinstance(value, int | float) and not isinstance(value, bool):
            return (float(value),) * 3
        case "numbers" if isinstance(value, list):
            number_key = EntryKey(kind="number", doc="")
            return tuple(_decode_value(where, path, item, number_key) for item in value)
        case "schedule" if value is None:
            return None
        case "schedule" if isinstance(value, dict):
            return _decode_schedule(where, path, node, value)
    expected = f"one of {', '.join(key.choices)}" if key.choices else _EXPECTED[key.kind]
    raise ConfigError(f"{path}:{node.line}:{node.column}: {where} is {_shown(value)}; it must be {expected}")


def _decode_row(where: str, path: Path, number: int, row: Node) -> BlockSpec:
    if not isinstance(row.value, str):
        raise ConfigError(
            f"{path}:{row.line}:{row.column}: {where}: row {number} is {_shown(row.value)}; it must be a block string"
        )
    return placed(path, row.line, f"{where}: row {number}", decode_block, row.value)


def _decode_schedule(where: str, path: Path, node: Node, mapping: Mapping[str, Node]) -> ChannelSchedule:
    values = decode_mapping(where, path, mapping, SCHEDULE_KEYS)
    for key in ("start", "growth"):
        if key not in values:
            raise ConfigError(f"{path}:{node.line}: {where}: {key!r} is missing; write {{start: 16, growth: 180}}")
    return placed(path, node.line, where, lambda: ChannelSchedule(**values))


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def placed(path: Path, line: int, where: str, make: Callable[..., Result], *args: Any) -> Result:
    """Call `make`, and let a complaint about a value say where in the file it stands."""
    try:
        return make(*args)
    except ConfigError as error:
        raise ConfigError(f"{path}:{line}: {where}: {error}") from None
