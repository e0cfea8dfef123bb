"""The page about a training of embeddings: figures, and some images with their nearest neighbors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.embeddings.retrieval import Retrieval, Verification, nearest_others
from effnets.errors import ImageError
from effnets.report.gallery import Section, Table, Tile, write_gallery

_QUERIES, _NEIGHBORS = 24, 6


def write_embedding_report(
    path: Path,
    results: Mapping[str, tuple[Retrieval, Verification | None]],
    source: ImageDataset,
    vectors: NDArray[np.float32],
    *,
    title: str,
    model: str,
) -> Path:
    """Write the page; return its path.

    Args:
        results: by split. source: the images of the last one, some of which are shown. vectors: of these, ``[N, D]``.

    Raises:
        ReportError: if it cannot be written.
    """
    split, (found, _) = list(results.items())[-1]
    lead = (
        f"{model}: of {found.images:,} images of {split}, the nearest other one is of the same class for "
        f"{100 * found.recall[1]:.1f} %. Those with a neighbor of another class come first below."
    )
    write_gallery(
        path,
        kind="embedding",
        title=title,
        lead=lead,
        tables=_tables(results),
        sections=_sections(source, vectors),
    )
    return path


def _tables(results: Mapping[str, tuple[Retrieval, Verification | None]]) -> list[Table]:
    ranks = [f"recall@{k} in %" for k in next(iter(results.values()))[0].recall]
    retrieved = [
        [
            split,
            f"{found.images:,}",
            *(f"{100 * share:.1f}" for share in found.recall.values()),
            f"{100 * found.map_at_r:.1f}",
        ]
        for split, (found, _) in results.items()
    ]
    tables = [Table("Nearest neighbors", ("split", "images", *ranks, "MAP@R in %"), retrieved)]
    verified = [
        [
            split,
            f"{pairs.same:,} + {pairs.different:,}",
            f"{pairs.threshold:.4f}",
            f"{100 * pairs.accuracy:.1f}",
            f"{100 * pairs.accepted:.1f}",
            f"{100 * pairs.falsely_accepted:.1f}",
        ]
        for split, (_, pairs) in results.items()
        if pairs is not None
    ]
    columns = ("split", "pairs of one class + of two", "least cosine", "accuracy in %", "accepted in %", "falsely in %")
    return (
        [*tables, Table("Is it the same? Threshold fitted on the first split", columns, verified)]
        if verified
        else tables
    )


def _sections(source: ImageDataset, vectors: NDArray[np.float32]) -> list[Section]:
    if len(source) < 2:
        return []
    rows = np.arange(len(source))
    near = nearest_others(vectors, rows, _NEIGHBORS)
    wrong = source.labels[near[:, 0]] != source.labels
    order = np.concatenate([rows[wrong][:: _step(wrong)], rows[~wrong][:: _step(~wrong)]])[:_QUERIES]
    sections = []
    for query in order.tolist():
        name = source.class_names[source.labels[query]]
        tiles = [_tile(source, query, "", "searched for")]
        for other in near[query].tolist():
            label = source.class_names[source.labels[other]]
            cosine = float(
                vectors[query] @ vectors[other] / np.linalg.norm(vectors[query]) / np.linalg.norm(vectors[other])
            )
            tiles.append(_tile(source, other, f"{label}, {cosine:.3f}", "" if label == name else "another class:"))
        sections.append(Section(name, tiles))
    return sections


def _step(chosen: NDArray[np.bool_]) -> int:
    """Return the distance of images to show, so that they are of many classes: half of what is shown."""
    return max(1, int(chosen.sum()) // (_QUERIES // 2))


def _tile(source: ImageDataset, index: int, caption: str, mark: str) -> Tile:
    try:
        content: bytes | Path = source.read(index)
    except ImageError:
        content = Path(source.name(index))
    return Tile(Path(source.name(index)).name, content, caption, mark)
