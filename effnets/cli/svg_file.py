"""Files that plots are drawn into, as arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

__all__ = ["SvgFile"]


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
        return path
