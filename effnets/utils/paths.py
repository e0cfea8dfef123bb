"""Find the folders of configs, of the packaged weights, and of files kept between runs."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from effnets.errors import MissingFileError


@cache
def configs_dir() -> Path:
    """Return the folder ``configs``: at the repository's top level in a checkout, inside the package in a wheel.

    Raises:
        MissingFileError: if neither place has it: the installation is broken.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "models").is_dir():
            return folder
    raise MissingFileError(
        f"effnets is installed without its configs (looked in {package} and {package.parent}); reinstall it"
    )


def packaged_weights_dir() -> Path:
    """Return the folder of the weights that come with this package."""
    return Path(__file__).resolve().parents[1] / "assets" / "weights"


def home_dir() -> Path:
    """Return the folder of files kept between runs: ``EFFNETS_HOME``, or one in the user's cache folder."""
    if named := os.environ.get("EFFNETS_HOME"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        caches = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        caches = "~/Library/Caches"
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "effnets"
