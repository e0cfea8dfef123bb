"""Read and write block strings by one table: keys and their values, flags, and what each block takes.

Two keys beside those of MixNet's code and timm serve the MixConv paper's experiments: ``exponential`` (channel
partition) and ``dilated`` (in place of large kernels).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar, cast

from effnets.errors import ConfigError
from effnets.spec.specs import Activation, BlockSpec, BlockType

ACTIVATION_CODES: Mapping[str, Activation] = MappingProxyType(
    {"re": "relu", "r6": "relu6", "sw": "silu", "hs": "hard_swish"}
)


def _decode_kernel_sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("."))


def _encode_kernel_sizes(sizes: tuple[int, ...]) -> str:
    return ".".join(str(size) for size in sizes)


def _decode_pointwise_groups(text: str) -> int:
    return text.count("1")


def _encode_pointwise_groups(groups: int) -> str:
    return ".".join("1" * groups)


def _encode_decimal(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _encode_ratio(value: Fraction) -> str:
    decimal = _encode_decimal(float(value))
    exact = re.fullmatch(_DECIMAL, decimal) is not None and Fraction(decimal) == value
    return decimal if exact else f"{value.numerator}/{value.denominator}"


def _decode_ratio(text: str) -> Fraction:
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise ConfigError(f"se_ratio is {text}; its denominator cannot be 0") from None


_INTEGER = "[1-9][0-9]{0,5}"
_DECIMAL = r"[0-9]{1,3}(?:\.[0-9]{1,20})?"
_RATIO = rf"(?:{_DECIMAL}|[0-9]{{1,7}}/[0-9]{{1,7}})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a block string: the field it sets, the pattern of its value, and an example for error messages."""

    field: str
    pattern: str
    decode: Callable[[str], Any]
    encode: Callable[[Any], str]
    example: str


# In the order of writing.
KEYS: Mapping[str, Key] = MappingProxyType(
    {
        "r": Key(field="repeats", pattern=_INTEGER, decode=int, encode=str, example="r2"),
        "k": Key(
            field="kernel_sizes",
            pattern=r"[1-9][0-9]?(?:\.[1-9][0-9]?)*",
            decode=_decode_kernel_sizes,
            encode=_encode_kernel_sizes,
            example="k3 or k3.5.7",
        ),
        "a": Key(
            field="expand_groups",
            pattern=r"1(?:\.1)*",
            decode=_decode_pointwise_groups,
            encode=_encode_pointwise_groups,
            example="a1.1",
        ),
        "p": Key(
            field="project_groups",
            pattern=r"1(?:\.1)*",
            decode=_decode_pointwise_groups,
            encode=_encode_pointwise_groups,
            example="p1.1",
        ),
        "s": Key(field="stride", pattern="[1-9]", decode=int, encode=str, example="s2"),
        "e": Key(field="expansion", pattern=_DECIMAL, decode=float, encode=_encode_decimal, example="e6"),
        "c": Key(field="channels", pattern=_INTEGER, decode=int, encode=str, example="c40"),
        "se": Key(
            field="se_ratio",
            pattern=_RATIO,
            decode=_decode_ratio,
            encode=_encode_ratio,
            example="se0.25 or se1/12",
        ),
        "n": Key(
            field="activation",
            pattern="|".join(ACTIVATION_CODES),
            decode=ACTIVATION_CODES.__getitem__,
            encode={activation: code for code, activation in ACTIVATION_CODES.items()}.__getitem__,
            example="one of " + ", ".join(f"n{code} ({name})" for code, name in ACTIVATION_CODES.items()),
        ),
    }
)

# Words without a value: the field each sets, and its value.
FLAGS: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        "exponential": ("exponential", True),
        "dilated": ("dilated", True),
        "skip": ("shortcut", True),
        "noskip": ("shortcut", False),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGrammar:
    """The keys that a block must have and may have."""

    required: tuple[str, ...]
    optional: tuple[str, ...]


BLOCKS: Mapping[BlockType, BlockGrammar] = MappingProxyType(
    {
        "cn": BlockGrammar(required=("r", "k", "s", "c"), optional=("n", "skip")),
        "ds": BlockGrammar(
            required=("r", "k", "s", "c"), optional=("p", "e", "se", "n", "exponential", "dilated", "noskip")
        ),
        "dsa": BlockGrammar(required=("r", "k", "s", "c"), optional=("p", "e", "se", "n", "exponential", "dilated")),
        "ir": BlockGrammar(
            required=("r", "k", "s", "e", "c"),
            optional=("a", "p", "se", "n", "exponential", "dilated", "noskip"),
        ),
        # Without c where the model has a linear channel schedule.
        "lb": BlockGrammar(
            required=("r", "k", "s", "e"), optional=("c", "se", "n", "exponential", "dilated", "noskip")
        ),
    }
)


Result = TypeVar("Result")

_KEYS_LONGEST_FIRST = sorted(KEYS, key=len, reverse=True)
_DEFAULTS = {field.name: field.default for field in fields(BlockSpec)}


@lru_cache(maxsize=4096)  # variants share most of their rows
def decode_block(text: str) -> BlockSpec:
    """Read one block string, such as ``ir_r2_k3.5_s2_e6_c40``.

    Raises:
        ConfigError: if a block or key is unknown, a key is missing or repeated, or a value is out of range; the message
            quotes the string and says what to write instead.
    """
    block_type, values = _read(text)
    if block_type is None:
        raise _error(text, f"it must begin with a block type, one of {', '.join(BLOCKS)}")
    return _make_block(text, block_type, values)


def override_block(block: BlockSpec, text: str) -> BlockSpec:
    """Replace the fields of `block` that `text` names: ``k3.5``, ``k7_dilated``, or a new type, ``cn``.

    Raises:
        ConfigError: as `decode_block`, or if the block does not have the field.
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
            raise ConfigError(f"{block.type} needs {name} ({key.field}); a block without it has no block string")
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
                raise _error(text, f"{_shown(token)} is not a value for {key.field}; write {key.example}")
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
    """Call `make`, and quote the block string in the message of a `ConfigError`."""
    try:
        return make(*args)
    except ConfigError as error:
        raise _error(text, str(error)) from None


def _error(text: str, problem: str) -> ConfigError:
    return ConfigError(f"block string {_shown(text)}: {problem}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")
