"""`predict_on_ray`: rows for the images of a folder, archives or tables, computed in the processes of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from effnets.bulk.cluster import joined_cluster, work_on
from effnets.bulk.model import PackedModel
from effnets.bulk.parts import PartFolder
from effnets.bulk.sources import Source, TarShard, digest
from effnets.errors import DataError
from effnets.inference.image import PhotoResult
from effnets.inference.pipeline import Pipeline

# What is computed of photos: `effnets.bulk.photos.classify_photos` with its topk, for example.
Compute: TypeAlias = Callable[[Pipeline, Iterable[PhotoResult]], Iterator[PhotoResult]]

_SHOWN = 20  # errors of a chunk that are reported; all are in its rows


@dataclass(frozen=True, slots=True)
class Written:
    """Rows of a chunk that were written: how many images it has, how many failed, and the first errors."""

    images: int
    failed: int
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WriteParts:
    """Compute rows for a chunk, and write them as its part."""

    compute: Compute
    columns: Sequence[str]
    folder: PartFolder

    def __call__(self, pipeline: Pipeline, number: int, chunk: Source) -> Written:
        rows, errors = [], []
        for photo in self.compute(pipeline, chunk.photos()):
            rows.append(photo.to_dict())
            if photo.error:
                errors.append(photo.error)
        if not isinstance(chunk, TarShard) and len(rows) != len(chunk):
            raise DataError(f"part {number}: {len(rows):,} rows for {len(chunk):,} images")
        try:
            self.folder.write(number, rows, self.columns)
        except OSError as error:
            raise DataError(
                f"{self.folder.folder}: part {number} cannot be written ({error.strerror or error}); on several "
                "machines name a folder that all of them share, or the URL of a store, and continue with --resume"
            ) from error
        return Written(len(rows), len(errors), tuple(errors[:_SHOWN]))


def predict_on_ray(
    address: str,
    model: PackedModel,
    sources: Sequence[Source],
    output: PartFolder,
    *,
    compute: Compute,
    columns: Sequence[str],
    settings: Mapping[str, Any],
    resume: bool = False,
    workers: int | None = None,
    report: Callable[[Written], object],
) -> int:
    """Write one row for each image to a folder of Parquet files; return how many images failed.

    Args:
        address: of the cluster, as of `effnets.bulk.cluster.joined_cluster`.
        model: of the predictions.
        sources: chunks of images.
        output: of the rows.
        compute: computes the rows; it is pickled.
        columns: of the rows.
        settings: what the rows depend on besides their images, as plain values.
        resume: continue an interrupted run.
        workers: processes of one thread each; None takes one for each core of the cluster.
        report: called with what was written, chunk after chunk.

    Raises:
        ArgumentError: if the output cannot be written, or is of another run.
        DataError: if the output lacks images in the end, or has some twice.
        EffnetsError: what the model or the cluster raise.
    """
    known = output.begin({**settings, "images": digest(sources)}, resume=resume)
    counts = output.count_rows(known)
    failed = sum(errors for _, errors in counts.values())
    rows = {number: count for number, (count, _) in counts.items()}
    rows |= {number: len(source) for number, source in enumerate(sources) if not isinstance(source, TarShard)}
    pending = [(number, source) for number, source in enumerate(sources) if number not in known]
    if known:
        report(Written(sum(count for count, _ in counts.values()), failed, ()))
    if pending:
        work = WriteParts(compute, columns, output)
        with joined_cluster(address, workers) as joined:
            for done in work_on(work, model, pending, workers=joined):
                rows[done.number] = done.result.images
                failed += done.result.failed
                report(done.result)
    missing = len(sources) - len(rows)
    if missing:
        raise DataError(f"{output.folder}: {missing:,} chunks were not worked on; continue with --resume")
    output.finish(rows)
    return failed
