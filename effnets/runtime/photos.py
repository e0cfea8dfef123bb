"""The photographs that paths name. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effnets.runtime.predictions import Prediction

__all__ = ["PhotoResult", "find_photos", "image_suffixes"]

# Pillow recognises these, but they are documents, films and data.
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})


@dataclass(slots=True)
class PhotoResult:
    """What became of one photograph: predictions, the reason why there are none, or nothing yet."""

    path: str
    predictions: Sequence[Prediction] = ()
    error: str | None = None


def find_photos(paths: Iterable[str], tell: Callable[[str], object]) -> Iterator[PhotoResult]:
    """Every path that is not a folder, and the image files in those that are, subfolders included.

    `tell` is told what else a folder holds; a folder that cannot be read, or has no image, is an
    error result.
    """
    for path in paths:
        if not path:
            yield PhotoResult(path, error="'' is no path")
        elif os.path.isdir(path):
            yield from _search(path, image_suffixes(), tell)
        else:
            yield PhotoResult(path)


def _search(folder: str, suffixes: set[str], tell: Callable[[str], object]) -> Iterator[PhotoResult]:
    others: list[str] = []
    unreadable: list[OSError] = []
    found = False
    for root, folders, files in os.walk(folder, onerror=unreadable.append):
        others += [f"{name} (a link to a folder)" for name in folders if os.path.islink(os.path.join(root, name))]
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in suffixes:
                found = True
                yield PhotoResult(os.path.join(root, name))
            else:
                others.append(name)
    for error in unreadable:
        yield PhotoResult(str(error.filename), error=f"{error.filename}: cannot be read ({error.strerror})")
    if others:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        tell(f"{folder}: passed over {len(others)} that are no image files by their names: {shown}")
    if not found and not unreadable:
        yield PhotoResult(folder, error=f"{folder}: no image file in this folder")


def image_suffixes() -> set[str]:
    """The endings of file names, lower case and with their dot, that Pillow reads as pictures."""
    from PIL import Image

    formats = Image.registered_extensions()
    return {suffix for suffix, name in formats.items() if name in Image.OPEN and name not in _NO_PICTURES}
