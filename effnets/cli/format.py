"""Numbers and names as people read them."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click


def short(number: int) -> str:
    """``4231976`` → ``4.23 M``, ``864`` → ``0.9 k``."""
    return f"{number / 1e6:,.2f} M" if number >= 100_000 else f"{number / 1e3:.1f} k"


def split_names(text: str) -> list[str]:
    """``timm, torchvision`` → both; of empty text none."""
    return [part.strip() for part in text.split(",") if part.strip()]


def printable(text: str) -> str:
    """`text` on one line, with what would steer a terminal escaped: a file may have any name."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text
    )


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


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None] | None]:
    """A function to call with what is being done and the share that is done, 0 to 1; None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return

    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda what, share: progress.update(task, description=what, completed=share)


class SvgFile(click.Path):
    """A file ``….svg`` in a folder that exists, as a path."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix.lower() != ".svg":
            self.fail(f"{str(path)!r} is no name of an SVG file; let it end in .svg", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"{path.parent} is no folder; make it first", param, ctx)
        if not find_spec("matplotlib"):
            self.fail("matplotlib, which draws it, is not installed: pip install 'effnets[train]'", param, ctx)
        return path
