"""Checks of arguments, and of dataclass fields whose annotations state their range and meaning.

A field says everything about itself once::

    input_size: Annotated[int, Range(1, 8192), "Side of the square input in pixels."] = 224

`check_fields` enforces it, `effnets.spec.decode` reads YAML by it, and the JSON schemas and the documentation's tables
of keys are made from it (`effnets.spec.json_schema`).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from effnets.errors import ArgumentError, ConfigError

MAX_SIDE = 8192  # pixels


@dataclass(frozen=True, slots=True)
class Range:
    """The least and the greatest value of a number, both included; of a tuple's field, of each number in it."""

    low: float
    high: float

    def check(self, name: str, value: Any, error: type[Exception] = ConfigError) -> None:
        """Raise `error` unless `value` is a number in the range."""
        if not _is_number(value):
            raise error(f"{name} is {value!r}; it must be a number in {self.low:g}..{self.high:g}")
        if not self.low <= value <= self.high:  # also NaN
            try:
                shown = f"{value:g}"
            except OverflowError:
                shown = "too large for a float"
            raise error(f"{name} is {shown}; it must lie in {self.low:g}..{self.high:g}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """The regular expression that a text matches as a whole, and the same in words."""

    regex: str
    expected: str

    def check(self, name: str, value: Any, error: type[Exception] = ConfigError) -> None:
        """Raise `error` unless `value` is a text that matches."""
        if not isinstance(value, str) or re.fullmatch(self.regex, value) is None:
            raise error(f"{name} is {value!r}; it must be {self.expected}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldInfo:
    """What a dataclass field holds.

    Attributes:
        options: the types it may have; `NoneType` among them where None is allowed.
        limits: bounds of its number or text.
        doc: its meaning, a sentence or more.
        default: MISSING where it must be given.
    """

    options: tuple[Any, ...]
    limits: Range | Pattern | None
    doc: str
    default: Any

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is MISSING

    def check(self, name: str, value: Any, error: type[Exception] = ConfigError) -> None:
        """Raise `error` unless `value` is one of the choices and within the limits; a tuple's values each are."""
        if value is None and NoneType in self.options:
            return
        choices = [choice for option in self.options if get_origin(option) is Literal for choice in get_args(option)]
        if choices and value not in choices:
            raise error(f"{name} is {value!r}; choose one of {', '.join(map(str, choices))}")
        if self.limits is None:
            return
        for item in value if isinstance(value, tuple | list) else (value,):
            if int in self.options and isinstance(item, float) and not item.is_integer():
                raise error(f"{name} is {item:g}; it must be a whole number")
            self.limits.check(name, item, error)


@cache
def field_infos(kind: type) -> Mapping[str, FieldInfo]:
    """The fields of a dataclass by name, as their annotations describe them."""
    hints = get_type_hints(kind, include_extras=True)
    infos = {}
    for field in fields(kind):
        hint, *extras = (
            get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else [hints[field.name]]
        )
        infos[field.name] = FieldInfo(
            options=get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,),
            limits=next((extra for extra in extras if isinstance(extra, Range | Pattern)), None),
            doc=next((extra for extra in extras if isinstance(extra, str)), ""),
            default=field.default if field.default_factory is MISSING else field.default_factory(),
        )
    return MappingProxyType(infos)


def check_fields(settings: Any, error: type[Exception] = ConfigError) -> None:
    """Raise `error` for the first field of a dataclass instance that is not as its annotation says."""
    kind: type = type(settings)
    for name, info in field_infos(kind).items():
        info.check(name, getattr(settings, name), error)


def require(condition: bool, message: str) -> None:
    """Raise a `ConfigError` with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def check_integer(argument: str, value: object, low: int, hint: str) -> int:
    """Return `value` as an int of at least `low`; accept NumPy's integers, but no boolean, float or text.

    Raises:
        ArgumentError: if it is anything else; the message ends with `hint`.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < low:
        raise ArgumentError(f"{argument} is {value!r}; {hint}")
    return number


def check_size(size: object, argument: str = "size") -> tuple[int, int]:
    """Return (height, width) in pixels; one side means a square.

    Raises:
        ArgumentError: if `size` is not an int or a pair of ints in 1..8192.
    """
    hint = f"give a side or (height, width), each from 1 to {MAX_SIDE}"
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    try:
        height, width = (check_integer(argument, side, 1, hint) for side in sides)
    except ValueError:  # another number of sides, or an ArgumentError
        raise ArgumentError(f"{argument} is {size!r}; {hint}") from None
    if max(height, width) > MAX_SIDE:
        raise ArgumentError(f"{argument} is {size!r}; {hint}")
    return height, width


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_settings(what: object, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ArgumentError if an interrupted run, which left `what`, had other settings than it would go on with."""
    if before != now:
        names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        differences = ", ".join(f"{name} {before.get(name)!r:.300}, now {now.get(name)!r:.300}" for name in names)
        raise ArgumentError(f"{what} is of a run with {differences}; continue it as it was, or delete it to start over")
