"""``effnets duplicates``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effnets.cli.embed import Embedder, comparison_options
from effnets.cli.eval import is_exported
from effnets.cli.format import INTERRUPTED, make_table, print_table, printable, run_through
from effnets.cli.predict import DEMONSTRATION, find_all

if TYPE_CHECKING:
    from effnets.embeddings.duplicates import Copy, Group, Photo
    from effnets.inference.image import PhotoResult

STAGE = -2  # by measurement (docs/embeddings.md)


@click.command(name="duplicates")
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO|FOLDER…")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.85,
    show_default=True,
    help="Least correlation of pixels, where one photo lies in the other.",
)
@comparison_options
def command(
    photos: tuple[str, ...],
    threshold: float,
    model: str | None,
    weights: str | None,
    ema: bool,
    batch_size: int | None,
    workers: int | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Find photos that are copies of each other: saved again, resized, or cropped to 60 % of the area or more.

    Photos that are near each other by their embeddings are compared by their pixels. Without --model and --weights the
    small network that comes along embeds them. Of each group the largest is the one to keep; nothing is deleted. A
    photo that cannot be read is reported, and the exit status is 1; it is 0 whether or not there are copies.
    """
    from effnets.embeddings.duplicates import Photo, find_duplicates, read_photos

    embedder = Embedder(
        model or (None if weights else DEMONSTRATION),
        weights,
        ema,
        stage=None if is_exported(weights) else STAGE,  # exported files have the last embedding alone
        decode="fast",
    )
    readable: list[Photo] = []

    def take(result: Photo | PhotoResult) -> str | None:
        if isinstance(result, Photo):
            readable.append(result)
            return None
        return result.error

    stream = read_photos(embedder.pipeline(batch_size, workers), find_all(photos), stage=embedder.stage)
    status = run_through(stream, take, "compared")
    if status == INTERRUPTED:
        click.get_current_context().exit(status)
    groups = find_duplicates(readable, threshold)
    if as_json:
        click.echo(json.dumps([_to_dict(group) for group in groups], indent=1))
    else:
        _print(groups, len(readable))
    if html is not None:
        _write_page(html, groups, len(readable))
    click.get_current_context().exit(status)


def _to_dict(group: Group) -> dict[str, object]:
    copies = [
        _facts(copy.photo) | {"kind": copy.kind, "agreement": round(copy.agreement, 4), "kept": round(copy.kept, 3)}
        for copy in group.copies
    ]
    return {"keep": _facts(group.keep), "copies": copies}


def _facts(photo: Photo) -> dict[str, object]:
    return {"path": photo.path, "width": photo.width, "height": photo.height, "bytes": photo.bytes}


def _print(groups: Sequence[Group], count: int) -> None:
    if groups:
        numbers = ["pixels", "kB", "agreement"]
        table = make_table(["photo", *numbers, "copy"], right=numbers, whole=["copy"])
        for group in groups:
            table.add_row(printable(group.keep.path), *_size(group.keep), "", "keep")
            for copy in group.copies:
                table.add_row(printable(copy.photo.path), *_size(copy.photo), f"{copy.agreement:.3f}", _how(copy))
            table.add_section()
        print_table(table)
    click.echo(_summary(groups, count))


def _summary(groups: Sequence[Group], count: int) -> str:
    copies = sum(len(group.copies) for group in groups)
    groups_of = f"{len(groups):,} group{'s' if len(groups) != 1 else ''}"
    return f"{copies:,} of {count:,} photos are copies, in {groups_of}" if groups else f"no copies in {count:,} photos"


def _size(photo: Photo) -> tuple[str, str]:
    return f"{photo.width}×{photo.height}", f"{photo.bytes / 1000:,.0f}"


def _how(copy: Copy) -> str:
    return f"cropped, {100 * copy.kept:.0f} % in common" if copy.kind == "cropped" else copy.kind


def _write_page(page: Path, groups: Sequence[Group], count: int) -> None:
    from effnets.report.gallery import Section, Tile, write_gallery

    sections = []
    for group in groups:
        tiles = [Tile(group.keep.path, Path(group.keep.path), ", ".join(_captions(group.keep)), "keep")]
        for copy in group.copies:
            caption = ", ".join([_how(copy), *_captions(copy.photo), f"agreement {copy.agreement:.3f}"])
            tiles.append(Tile(copy.photo.path, Path(copy.photo.path), caption))
        sections.append(Section(f"{Path(group.keep.path).name}, {len(tiles)} photos", tiles))
    summary = _summary(groups, count)
    lead = f"{summary[0].upper()}{summary[1:]}. Of each group, the largest is to keep."
    write_gallery(page, kind="duplicates", title="Copies of the same photo", lead=lead, sections=sections)


def _captions(photo: Photo) -> tuple[str, str]:
    size, kilobytes = _size(photo)
    return f"{size} pixels", f"{kilobytes} kB"
