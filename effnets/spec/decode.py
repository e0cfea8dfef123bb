"""Decode YAML into dataclasses, by the annotations of their fields (`effnets.utils.arguments.field_infos`).

Models, weights and recipes are read alike: every message has file, line, the place and what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NewType, TypeVar, get_args, get_origin

from effnets.errors import ArgumentError, ConfigError
from effnets.spec.block_string import decode_block
from effnets.spec.specs import MAX_BLOCKS, BlockSpec
from effnets.spec.yaml import Node
from effnets.utils.arguments import FieldInfo, field_infos

Result = TypeVar("Result")

Fragment = NewType("Fragment", str)  # a piece of a block string

_EXPECTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
    Fragment: "a piece of a block string, such as k3.5",
}


def decode_dataclass(kind: type[Result], path: Path, where: str, node: Node, /, **given: Any) -> Result:
    """Make a `kind` from a mapping; `where` says in messages which part of the file it is, empty for the whole.

    The `given` fields have these values, and are no keys of the file.

    Raises:
        ConfigError: if a key is unknown or missing, or a value is wrong, with file, line and the fix.
    """
    assert isinstance(node.value, dict), "the caller checks this"
    described: type = kind
    infos = {name: info for name, info in field_infos(described).items() if name not in given}
    values = decode_mapping(path, where, node.value, infos)
    for name, info in infos.items():
        if info.required and name not in values:
            fix = f"add {name}: {info.doc[0].lower()}{info.doc[1:].rstrip('.')}"
            raise error_at(path, node, where, f"{name!r} is missing; {fix}")
    try:
        return kind(**values, **given)
    except (ArgumentError, ConfigError) as error:
        # The checks' messages begin with the name of the field.
        at = node.value.get(str(error).partition(" ")[0], node)
        raise ConfigError(f"{_line(path, at)}{_part(where)}{error}") from None


def decode_mapping(
    path: Path, where: str, mapping: Mapping[str, Node], known: Mapping[str, FieldInfo]
) -> dict[str, Any]:
    """Decode the values of a mapping whose keys must be among the `known` ones.

    Raises:
        ConfigError: if a key is unknown or a value has the wrong type.
    """
    values = {}
    for key, node in mapping.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"keys are {', '.join(known)}"
            raise error_at(path, node, where, f"unknown key {key!r}; {fix}")
        values[key] = _decode_value(path, where, key, node, known[key].options)
    return values


def error_at(path: Path, node: Node, where: str, problem: str) -> ConfigError:
    """An error with the position of `node`, if it comes from a file."""
    position = f"{path}:{node.line}:{node.column}: " if node.line else ""
    return ConfigError(f"{position}{_part(where)}{problem}")


def placed(path: Path, node: Node, where: str, make: Callable[..., Result], *args: Any) -> Result:
    """Call `make`, and add file, line and `where` to the message of a `ConfigError`."""
    try:
        return make(*args)
    except ConfigError as error:
        raise ConfigError(f"{_line(path, node)}{_part(where)}{error}") from None


def _decode_value(path: Path, where: str, key: str, node: Node, options: tuple[Any, ...]) -> Any:
    """Decode a value that has one of the types `options`."""
    value = node.value
    for option in options:
        if option is NoneType and value is None:
            return None
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if option in (bool, int, str) and type(value) is option:
            return value
        if option is Fragment and isinstance(value, str):
            return value
        if get_origin(option) is Literal and value in get_args(option):
            return value
        if get_origin(option) is tuple:
            item, *rest = get_args(option)
            if item is BlockSpec and isinstance(value, list):
                return _decode_rows(path, f"{_part(where)}{key}", node, value)
            if isinstance(value, list):
                return tuple(_decode_value(path, where, key, each, (item,)) for each in value)
            if rest == [...] and isinstance(value, int | float) and not isinstance(value, bool):
                return (float(value),) * 3  # one for every channel
        if is_dataclass(option) and isinstance(option, type) and isinstance(value, dict):
            return decode_dataclass(option, path, f"{_part(where)}{key}", node)
    expected = ", or ".join(_expected(option) for option in options)
    raise error_at(path, node, where, f"{key} is {_shown(value)}; it must be {expected}")


def _decode_rows(path: Path, where: str, node: Node, rows: list[Node]) -> tuple[BlockSpec, ...]:
    if len(rows) > MAX_BLOCKS:
        problem = f"{len(rows):,} rows are too many; the limit is {MAX_BLOCKS:,}, and a row repeats with r"
        raise error_at(path, node, where, problem)
    blocks = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.value, str):
            raise error_at(path, row, where, f"row {number} is {_shown(row.value)}; it must be a block string")
        blocks.append(placed(path, row, f"{where}: row {number}", decode_block, row.value))
    return tuple(blocks)


def _expected(option: Any) -> str:
    if get_origin(option) is Literal:
        return f"one of {', '.join(map(str, get_args(option)))}"
    if get_origin(option) is tuple:
        item, *rest = get_args(option)
        if item is BlockSpec:
            return "a list of block strings"
        return "a number, or a list of one for each channel" if rest == [...] else f"a list of {1 + len(rest)} numbers"
    if is_dataclass(option) and isinstance(option, type):
        examples = ", ".join(f"{name}: …" for name in list(field_infos(option))[:2])
        return f"a mapping such as {{{examples}}}"
    return _EXPECTED[option]


def _shown(value: object) -> str:
    if value is None or isinstance(value, list | dict):
        return "null" if value is None else "a list" if isinstance(value, list) else "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _line(path: Path, node: Node) -> str:
    return f"{path}:{node.line}: " if node.line else ""


def _part(where: str) -> str:
    return f"{where}: " if where else ""
