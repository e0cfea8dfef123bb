"""Checks of arguments that several public functions take. Free of torch and NumPy."""

from __future__ import annotations

import operator

from effnets.errors import ArgumentError
from effnets.limits import MAX_SIDE

__all__ = ["check_integer", "check_size"]


def check_integer(argument: str, value: object, low: int, hint: str) -> int:
    """`value` as an int of at least `low`; NumPy's integers are taken, booleans, floats and text are not.

    Raises:
        ArgumentError: it is none; `hint` says what is wanted.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < low:
        raise ArgumentError(f"{argument} is {value!r}; {hint}")
    return number


def check_size(size: object, argument: str = "size") -> tuple[int, int]:
    """(height, width) in pixels, of a square if one side is given.

    Raises:
        ArgumentError: it is no such thing, or a side lies outside of 1..8192.
    """
    hint = f"give a side or (height, width), each from 1 to {MAX_SIDE}"
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2:
        raise ArgumentError(f"{argument} is {size!r}; {hint}")
    try:
        height, width = (check_integer(argument, side, 1, hint) for side in sides)
    except ArgumentError:
        raise ArgumentError(f"{argument} is {size!r}; {hint}") from None
    if max(height, width) > MAX_SIDE:
        raise ArgumentError(f"{argument} is {size!r}; {hint}")
    return height, width
