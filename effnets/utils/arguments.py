"""How large the numbers of a description may be: for the checks of the specs, and for the schemas that editors read."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args, get_origin, get_type_hints

from effnets.errors import ArgumentError, ConfigError

# Above this a number is a slip of the pen, not a network: it would only run the machine out of memory.
MAX_BLOCKS = 1024
MAX_PARAMETERS = 2_000_000_000
MAX_CHANNELS = 65_536
MAX_REPEATS = 256
MAX_KERNEL = 63
MAX_KERNEL_GROUPS = 16
MAX_SIDE = 8192  # pixels
MAX_DENOMINATOR = 1_000_000

# Of each key of an entry that holds a number, or a list of them: the least and the greatest, both included.
RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "stem": (1, MAX_CHANNELS),
        "stem_stride": (1, 2),
        "start": (1, MAX_CHANNELS),
        "growth": (0, MAX_CHANNELS),
        "head": (0, MAX_CHANNELS),
        "head_hidden": (0, MAX_CHANNELS),
        "width": (0.01, 64),
        "depth": (0.01, 64),
        "divisor": (1, 1024),
        "bn_eps": (1e-12, 1),
        "bn_momentum": (1e-6, 1),
        "drop_rate": (0, 0.99),
        "num_classes": (0, 1_000_000),
        "input_size": (1, MAX_SIDE),
        "resolution": (0.01, 64),
        "resize": (1, MAX_SIDE),
        "crop_pct": (0.05, 1),
        "test_input_size": (1, MAX_SIDE),
        "test_crop_pct": (0.05, 1),
        "mean": (-1e3, 1e3),
        "std": (1e-6, 1e3),
        "top1": (0, 100),
        "top5": (0, 100),
        "accuracy_size": (1, MAX_SIDE),
    }
)


def require(condition: bool, message: str) -> None:
    """Raise a `ConfigError` with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """`value` is one of `choices`."""
    require(value in choices, f"{name} is {value!r}; choose one of {', '.join(choices)}")


def require_range(name: str, value: float, low: float, high: float) -> None:
    """`value` is a number from `low` to `high`, both included."""
    if not low <= value <= high:  # true of NaN as well
        try:
            shown = f"{value:g}"
        except OverflowError:
            shown = "too large for a float"
        raise ConfigError(f"{name} is {shown}; it must lie in {low:g}..{high:g}")


class Range(NamedTuple):
    """Annotation of a dataclass field that holds a number from `low` to `high`, both included."""

    low: float
    high: float


def check_fields(settings: object) -> None:
    """Check the fields of a dataclass that are annotated with a `Range` or a Literal; None passes.

    Raises:
        ConfigError: if a value is out of range, or not among the choices.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if get_origin(hint) is Literal:
            require_choice(name, value, get_args(hint))
        for limits in getattr(hint, "__metadata__", ()):
            if isinstance(limits, Range) and value is not None:
                require_range(name, value, *limits)


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
