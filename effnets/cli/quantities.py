"""Numbers with units as arguments: ``5ms``, ``4M``, ``75%``. Strict: what is not understood is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import click

__all__ = ["COUNT", "LATENCY", "PER_CENT", "SECONDS", "Quantity"]

_NUMBER = re.compile(r"(\d+(?:\.\d+)?|\.\d+) ?([^\s\d.]*)", re.ASCII)


class Quantity(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """A positive number with one of some units, as a float in the unit whose factor is 1."""

    def __init__(self, name: str, units: Mapping[str, str], example: str, at_most: float = 1e18) -> None:
        self.name = name
        self.units = {unit: Decimal(factor) for unit, factor in units.items()}
        self.example = example
        self.at_most = at_most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):  # a default
            return value
        match = _NUMBER.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no positive {self.name}; write it like {self.example}", param, ctx)
        digits, unit = match.groups()
        if unit not in self.units:
            units = ", ".join(known for known in self.units if known)
            problem = f"has the unit {unit!r}" if unit else "has no unit"
            self.fail(f"{value!r} {problem}; use {units}, like {self.example}", param, ctx)
        number = float(Decimal(digits) * self.units[unit])
        if not 0 < number <= self.at_most:
            between = f"above 0 and at most {self.at_most:g}"
            self.fail(f"{value!r} is no {self.name}: it must be {between}, like {self.example}", param, ctx)
        return number


LATENCY = Quantity("latency", {"ms": "1", "us": "0.001", "µs": "0.001", "s": "1000"}, "5ms or 0.005s")
COUNT = Quantity("number", {"": "1", "k": "1e3", "M": "1e6", "G": "1e9"}, "4M or 300M")
PER_CENT = Quantity("percentage", {"": "1", "%": "1"}, "75 or 75%", at_most=100)
SECONDS = Quantity("time", {"": "1", "s": "1", "min": "60"}, "60, 60s or 2min")
