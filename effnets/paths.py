"""Where the tables of architectures lie: at the repository's top level in a checkout, inside the package in a wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from effnets.errors import MissingFileError

__all__ = ["configs_dir"]


@cache
def configs_dir() -> Path:
    """The folder ``configs``.

    Raises:
        MissingFileError: if neither place has it, which means a broken installation.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "models").is_dir():
            return folder
    raise MissingFileError(
        f"effnets is installed without its configs (looked in {package} and {package.parent}); reinstall it"
    )
