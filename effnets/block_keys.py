"""The tables that block strings are read and written by: keys and their values, flags, and what each block takes.

Two keys beside those of MixNet's code and timm serve the MixConv paper's experiments: ``exponential`` (channel
partition) and ``dilated`` (in place of large kernels).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from effnets.errors import ConfigError
from effnets.spec import Activation, BlockType

__all__ = ["ACTIVATION_CODES", "BLOCKS", "FLAGS", "KEYS", "BlockGrammar", "Key"]

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
        raise ConfigError(f"squeeze ratio se is {text}; its denominator cannot be 0") from None


_INTEGER = "[1-9][0-9]{0,5}"
_DECIMAL = r"[0-9]{1,3}(?:\.[0-9]{1,20})?"
_RATIO = rf"(?:{_DECIMAL}|[0-9]{{1,7}}/[0-9]{{1,7}})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a block string: the field it fills, how its value is spelt, and an example for error messages."""

    field: str
    pattern: str
    decode: Callable[[str], Any]
    encode: Callable[[Any], str]
    example: str


# In the order in which they are written.
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

# Words that stand alone: the field each sets, and to what.
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
    """The keys that a block must and may have."""

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
