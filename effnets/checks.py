"""Checks of a description's values. Each raises `ConfigError`, to which the reader of a file adds where it stands."""

from __future__ import annotations

from effnets.errors import ConfigError

__all__ = ["require", "require_choice", "require_range"]


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
