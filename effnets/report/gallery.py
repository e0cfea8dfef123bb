"""A page of photographs, with a thumbnail of each inside, and of tables."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from effnets.errors import EffnetsError, ReportError
from effnets.inference.image import load_image
from effnets.report.page import render_template
from effnets.utils.atomic_file import write_whole

LARGEST_GALLERY = 1000  # photos: some 15 MB

_THUMBNAIL = 300  # pixels: twice what the page shows, for dense screens


@dataclass(frozen=True, slots=True)
class Tile:
    """A photograph of a gallery.

    Attributes:
        path: of the photo, as it is shown. file: where it lies, or its content.
        caption: below it. mark: what stands out before that.
    """

    path: str
    file: Path | bytes
    caption: str
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Photographs that belong together."""

    title: str
    tiles: Sequence[Tile]


@dataclass(frozen=True, slots=True)
class Table:
    """Figures as texts: the first of `columns` and of each row is to the left, the others are to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_gallery(
    path: Path, *, kind: str, title: str, lead: str, sections: Sequence[Section], tables: Sequence[Table] = ()
) -> None:
    """Write a page that shows photographs in sections; of more than `LARGEST_GALLERY` it shows the first, and says so.

    It holds everything, and is read by day and by night, on a desk and on a telephone. A photo that cannot be read is
    shown as such.

    Args:
        path: of the page. kind: the command that found them. title, lead: the head of the page.
        tables: to show before the photographs.

    Raises:
        ReportError: if the page cannot be written.
    """
    shown: list[dict[str, Any]] = []
    count = 0
    for section in sections:
        if count + len(section.tiles) > LARGEST_GALLERY and shown:
            lead += f" The first {len(shown)} of {len(sections)} are shown."
            break
        count += len(section.tiles)
        shown.append({"title": section.title, "tiles": [_tile(tile) for tile in section.tiles]})
    page = render_template("gallery.html.jinja", kind=kind, title=title, lead=lead, sections=shown, tables=tables)
    try:
        write_whole(path, page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ReportError(f"{path}: the page cannot be written ({error.strerror or error}); name another") from None


def _tile(tile: Tile) -> dict[str, Any]:
    image = None
    with suppress(EffnetsError):
        loaded = load_image(tile.file, min_side=_THUMBNAIL)
        assert isinstance(loaded, Image.Image)
        loaded.thumbnail((_THUMBNAIL, _THUMBNAIL))
        image = Image.fromarray(np.asarray(loaded))  # without EXIF, which may hold a place or a name
    return {"image": image, "path": tile.path, "caption": tile.caption, "mark": tile.mark}
