"""The front door to data: a path or a name → splits to train on. Free of torch."""

from __future__ import annotations

import os
from pathlib import Path

from effnets.errors import DataError, MissingFileError
from effnets.train.data.folder import open_folder
from effnets.train.data.source import ImageSource
from effnets.train.data.splits import UNDIVIDED, Parts, Splits, divide

__all__ = ["open_data", "open_evaluation_data"]


def open_data(data: str | os.PathLike[str], *, val_share: float = 0.1, seed: int = 0) -> Splits:
    """Open a data set to train on.

    Where it has no val/, one is taken from its training pictures, the same share of every class. What has no test/
    gets none.

    Args:
        data: a folder by class, with or without train/, val/ and test/.
        val_share: part of the training pictures to validate by where there is no val/; 0 for none.
        seed: of the draw of these.

    Raises:
        MissingFileError: no such file or folder.
        DataError: it is no data set, or there is nothing to learn from it.
        ArgumentError: an argument has a value it cannot take.
    """
    parts = _open(os.fspath(data))
    sources, notes = dict(parts.sources), parts.notes
    train = sources.get("train") or sources.get(UNDIVIDED)
    val = sources.get("val")
    if train is not None and val is None:
        train, val, more = divide(train, val_share, seed)
        notes += more
    return Splits(train=train, val=val, test=sources.get("test"), notes=notes)


def open_evaluation_data(
    data: str | os.PathLike[str],
) -> tuple[str, ImageSource, tuple[str, ...]]:
    """Open the pictures to measure by: those of test/, else of val/, else, where nothing is divided, all.

    Returns:
        "test", "val" or "all"; the pictures; notes for the user.

    Raises:
        MissingFileError: no such file or folder.
        DataError: it is no data set, or holds training pictures only.
    """
    parts = _open(os.fspath(data))
    for split in ("test", "val", UNDIVIDED):
        if split in parts.sources:
            return split, parts.sources[split], parts.notes
    raise DataError(f"{data}: holds train/ only; name pictures that no network has learned from, in test/ or val/")


def _open(data: str) -> Parts:
    path = Path(data)
    if not path.exists():
        raise MissingFileError(f"{data} does not exist; check its spelling and the current folder")
    if path.is_dir():
        return open_folder(path)
    raise DataError(f"{data}: is not a folder")
