"""``effnets similar``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from effnets.cli.embed import Embedder, comparison_options
from effnets.cli.format import (
    INTERRUPTED,
    decode_option,
    image_size_option,
    make_table,
    print_table,
    printable,
    run_through,
)
from effnets.cli.predict import find_all
from effnets.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from effnets.inference.image import PhotoResult
    from effnets.inference.pipeline import Pipeline
    from effnets.inference.predictor import Decode


class _Similar(NamedTuple):
    path: str
    similarity: float


@click.command(name="similar")
@click.argument("index", metavar="INDEX|FOLDER")
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO|FOLDER…")
@click.option("-k", "count", type=click.IntRange(1), default=10, show_default=True, help="Photos to find for each.")
@image_size_option
@decode_option
@comparison_options
def command(
    index: str,
    photos: tuple[str, ...],
    count: int,
    model: str | None,
    weights: str | None,
    ema: bool,
    image_size: int | None,
    batch_size: int | None,
    workers: int | None,
    decode: Decode,
    html: Path | None,
    as_json: bool,
) -> None:
    """Find the photos of INDEX that are most like each PHOTO.

    INDEX is a file of effnets embed. It says which network made it, and that embeds PHOTO as well; --model and
    --weights name weights that have another place now. Of a FOLDER all photos are embedded on the spot. Similarity is
    the cosine of two vectors, at most 1. PHOTO itself is left out. A photo that cannot be read is reported, and the
    exit status is 1.
    """
    is_folder = Path(index).is_dir()
    if not is_folder and (image_size is not None or decode != "exact"):
        raise click.UsageError(f"--image-size and --decode are those of {index}; leave them out")
    if is_folder:
        embedder = Embedder(model, weights, ema, image_size=image_size, decode=decode)
        pipeline = embedder.pipeline(batch_size, workers)
        found, vectors, status = _embed(pipeline, [index], embedder)
        paths = [photo.path for photo in found]
        folder = Path()
    else:
        from effnets.bulk.vectors import read_vectors

        stored = read_vectors(Path(index))
        embedder = Embedder.of(stored.settings, model, weights, ema, index)
        pipeline = embedder.pipeline(batch_size, workers)
        paths, vectors, status = stored.paths, stored.values, 0
        folder = Path(stored.settings.get("folder", ""))
    if status == INTERRUPTED:
        click.get_current_context().exit(status)
    if not paths:
        raise click.ClickException(f"{index}: has no photo to compare with")
    size = pipeline.predictor.embedding_size(embedder.stage)
    if vectors.shape[1] != size:
        raise ArgumentError(
            f"{index}: has vectors of {vectors.shape[1]} numbers, and its network makes {size}; embed the photos again"
        )
    queries, wanted, failed = _embed(pipeline, photos, embedder)
    answers = _search(queries, wanted, [os.path.join(folder, path) for path in paths], paths, vectors, count)  # noqa: PTH118
    if as_json:
        rows = [
            {"path": photo.path, "similar": [one._asdict() for one in similar]}
            for photo, similar in zip(queries, answers, strict=True)
        ]
        click.echo(json.dumps(rows, indent=1))
    else:
        _print(queries, answers)
    if html is not None and queries:
        _write_page(html, queries, answers, folder, len(paths))
    click.get_current_context().exit(failed or status)


def _embed(
    pipeline: Pipeline, paths: Sequence[str], embedder: Embedder
) -> tuple[list[PhotoResult], NDArray[np.float32], int]:
    """Return the photos that can be read, their vectors, and the exit status."""
    import numpy as np

    from effnets.embeddings.embed import embed_photos

    photos: list[PhotoResult] = []
    vectors: list[NDArray[np.float32]] = []

    def take(result: tuple[PhotoResult, NDArray[np.float32] | None]) -> str | None:
        photo, vector = result
        if vector is not None:
            photos.append(photo)
            vectors.append(vector)
        return photo.error

    stream = embed_photos(pipeline, find_all(paths), stage=embedder.stage, normalize=embedder.normalize)
    status = run_through(stream, take, "embedded")
    return photos, np.stack(vectors) if vectors else np.empty((0, 0), np.float32), status


def _search(
    queries: Sequence[PhotoResult],
    wanted: NDArray[np.float32],
    files: Sequence[str],
    paths: Sequence[str],
    vectors: NDArray[np.float32],
    count: int,
) -> list[list[_Similar]]:
    if not queries:
        return []
    from effnets.embeddings.neighbors import nearest

    cosines, rows = nearest(vectors, wanted, count + 1)
    answers = []
    for photo, near, places in zip(queries, cosines, rows, strict=True):
        itself = os.path.realpath(photo.path)
        others = [
            _Similar(paths[row], round(float(cosine), 6))
            for cosine, row in zip(near, places, strict=True)
            if os.path.realpath(files[row]) != itself
        ]
        answers.append(others[:count])
    return answers


def _print(queries: Sequence[PhotoResult], answers: Sequence[Sequence[_Similar]]) -> None:
    if not queries:
        return
    table = make_table(["photo", "similar", "similarity"], right=["similarity"])
    for photo, similar in zip(queries, answers, strict=True):
        for rank, one in enumerate(similar):
            shown = printable(photo.path) if rank == 0 else ""
            table.add_row(shown, printable(one.path), f"{one.similarity:.3f}")
        table.add_section()
    print_table(table)


def _write_page(
    page: Path, queries: Sequence[PhotoResult], answers: Sequence[Sequence[_Similar]], folder: Path, among: int
) -> None:
    from effnets.report.gallery import Section, Tile, write_gallery

    sections: list[Any] = []
    for photo, similar in zip(queries, answers, strict=True):
        tiles = [Tile(photo.path, Path(photo.path), "", "searched for")]
        tiles += [Tile(one.path, folder / one.path, f"similarity {one.similarity:.3f}") for one in similar]
        sections.append(Section(Path(photo.path).name, tiles))
    lead = f"The nearest of {among:,} photos, by the cosine of their embeddings."
    write_gallery(page, kind="similar photos", title="Similar photos", lead=lead, sections=sections)
