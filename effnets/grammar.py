"""Block strings: the notation of the papers' tables, decoded to `BlockSpec` and encoded back.

``ir_r2_k3.5.7_a1.1_p1.1_s2_e6_c40_se0.5_nsw`` reads: inverted residual, two of them, depthwise kernel groups
3×3, 5×5 and 7×7, expansion and projection each in two groups, stride 2 (the first only), expansion 6, 40 channels,
squeeze ratio 0.5, swish. It is the notation of the official MixNet code and of timm.

Keys may come in any order; `encode_block` writes them in the order of `KEYS`. What is not in the tables of
`effnets.block_keys` is an error: nothing is guessed and nothing is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar, cast

from effnets.block_keys import BLOCKS, FLAGS, KEYS
from effnets.errors import ConfigError
from effnets.spec import BlockSpec, BlockType

__all__ = ["decode_block", "encode_block", "override_block"]

Result = TypeVar("Result")

_KEYS_LONGEST_FIRST = sorted(KEYS, key=len, reverse=True)
_DEFAULTS = {field.name: field.default for field in fields(BlockSpec)}


@lru_cache(maxsize=4096)  # variants share most of their rows
def decode_block(text: str) -> BlockSpec:
    """Read one block string, such as ``ir_r2_k3.5_s2_e6_c40``.

    Raises:
        ConfigError: for an unknown block or key, a key twice, a missing key, or a value out of range; the message
            quotes the string and says what to write instead.
    """
    block_type, values = _read(text)
    if block_type is None:
        raise _error(text, f"it must begin with a block type, one of {', '.join(BLOCKS)}")
    return _make_block(text, block_type, values)


def override_block(block: BlockSpec, text: str) -> BlockSpec:
    """`block` with the fields that `text` names replaced: ``k3.5``, ``k7_dilated``, or a new type, ``cn``.

    Raises:
        ConfigError: as `decode_block`, or when the block has no such field.
    """
    block_type, values = _read(text)
    kept = {field: getattr(block, field) for field in _DEFAULTS if field != "type"}
    return _make_block(text, block_type or block.type, values, kept)


def encode_block(block: BlockSpec) -> str:
    """Write the block string that `decode_block` reads as `block`."""
    grammar = BLOCKS[block.type]
    tokens: list[str] = [block.type]
    for name, key in KEYS.items():
        value = getattr(block, key.field)
        if value is None and name in grammar.required:
            raise ConfigError(f"{block.type} needs {name} ({key.field}); without, it has no block string")
        if name in grammar.required or value != _DEFAULTS[key.field]:
            tokens.append(name + key.encode(value))
    tokens += [flag for flag, (field, value) in FLAGS.items() if getattr(block, field) is value]
    return "_".join(tokens)


def _read(text: str) -> tuple[BlockType | None, dict[str, Any]]:
    """Split a block string into its type, where it has one, and the fields it sets."""
    first, *rest = tokens = text.split("_")
    block_type: BlockType | None = None
    if first in BLOCKS:
        block_type, tokens = cast(BlockType, first), rest
    values: dict[str, Any] = {}
    for token in tokens:
        field, value = _read_token(text, token)
        if field in values:
            raise _error(text, f"{_shown(token)} sets {field} a second time; keep one")
        values[field] = value
    return block_type, values


def _read_token(text: str, token: str) -> tuple[str, Any]:
    if token in FLAGS:
        return FLAGS[token]
    for name in _KEYS_LONGEST_FIRST:
        if token.startswith(name):
            key = KEYS[name]
            value = token.removeprefix(name)
            if re.fullmatch(key.pattern, value) is None:
                raise _error(text, f"{_shown(token)} is no value for {key.field}; write {key.example}")
            return key.field, _quoting(text, key.decode, value)
    raise _error(
        text,
        f"{_shown(token)} is not known; blocks are {', '.join(BLOCKS)}, keys {', '.join(KEYS)}, "
        f"flags {', '.join(FLAGS)}",
    )


def _make_block(
    text: str, block_type: BlockType, stated: dict[str, Any], kept: Mapping[str, Any] = MappingProxyType({})
) -> BlockSpec:
    grammar = BLOCKS[block_type]
    values = {**kept, **stated}
    allowed = grammar.required + grammar.optional
    for name in grammar.required:
        if values.get(KEYS[name].field) is None:
            raise _error(text, f"{block_type} needs {name} ({KEYS[name].field}); write {KEYS[name].example}")
    settable = {KEYS[name].field for name in allowed if name in KEYS}
    settable |= {FLAGS[name][0] for name in allowed if name in FLAGS}
    for field, value in values.items():
        if field not in settable and (field in stated or value != _DEFAULTS[field]):
            raise _error(text, f"{block_type} has no {field}; its keys are {', '.join(allowed)}")
    block = _quoting(text, lambda: BlockSpec(type=block_type, **values))
    if block_type in ("ds", "dsa") and block.expansion not in (None, 1):
        raise _error(text, f"{block_type} has no expansion, so e must be 1 or absent; use ir for an expanded block")
    if block.shortcut is not None and ("skip" if block.shortcut else "noskip") not in allowed:
        raise _error(text, f"{block_type} takes no {'skip' if block.shortcut else 'noskip'}; leave it out")
    return block


def _quoting(text: str, make: Callable[..., Result], *args: str) -> Result:
    """Call `make`, and let a complaint about a value quote the block string it stands in."""
    try:
        return make(*args)
    except ConfigError as error:
        raise _error(text, str(error)) from None


def _error(text: str, problem: str) -> ConfigError:
    return ConfigError(f"block string {_shown(text)}: {problem}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")
