"""Rows for a great many images, and the accuracy on them, computed in the processes of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from effnets.bulk.cluster import joined_cluster, work_on
from effnets.bulk.model import PackedModel
from effnets.bulk.parts import PartFolder
from effnets.bulk.sources import Source, TarShard, chunk_size, digest
from effnets.errors import DataError, EngineError
from effnets.evaluation.measurement import Distribute, Measurement, Tally
from effnets.inference.image import PhotoResult
from effnets.inference.pipeline import Pipeline

# What is computed of photos: `effnets.bulk.photos.classify_photos` with its topk, for example.
Compute: TypeAlias = Callable[[Pipeline, Iterable[PhotoResult]], Iterator[PhotoResult]]

_SHOWN = 20  # errors of a chunk that are reported; all are in its rows


@dataclass(frozen=True, slots=True)
class Written:
    """Rows of a chunk that were written: how many images it has, how many failed, and the first errors.

    Attributes:
        lost: workers that were lost with the chunk.
    """

    images: int
    failed: int
    errors: tuple[str, ...]
    lost: int = 0


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
        self.folder.write(number, rows, self.columns)
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
        try:
            with joined_cluster(address, workers) as joined:
                for done in work_on(work, model, pending, workers=joined):
                    rows[done.number] = done.result.images
                    failed += done.result.failed
                    report(replace(done.result, lost=done.attempts - 1))
        except BaseException:
            output.remove_if_empty()
            raise
    missing = len(sources) - len(rows)
    if missing:
        raise DataError(f"{output.folder}: {missing:,} chunks were not worked on; continue with --resume")
    output.finish(rows)
    return failed


@dataclass(frozen=True, slots=True)
class Measure:
    """Count what an evaluation reports of a chunk."""

    measurement: Measurement

    def __call__(self, pipeline: Pipeline, number: int, chunk: range) -> Tally:  # noqa: ARG002 (of `Work`)
        return self.measurement(pipeline, chunk)


def evaluate_on_ray(address: str, model: PackedModel, workers: int | None = None) -> Distribute:
    """Return a `distribute` for `effnets.evaluate`, which measures the same model on a Ray cluster.

    Args:
        address: of the cluster, as of `effnets.bulk.cluster.joined_cluster`.
        model: what is evaluated.
        workers: processes of one thread each; None takes one for each core of the cluster.
    """

    def distribute(measurement: Measurement, progress: Callable[[float], object] | None) -> tuple[Tally, int]:
        count = len(measurement.dataset)
        size = chunk_size(count)
        chunks = list(enumerate(range(start, min(start + size, count)) for start in range(0, count, size)))
        found: dict[int, Tally] = {}
        with joined_cluster(address, workers) as joined:
            for done in work_on(Measure(measurement), model, chunks, workers=joined):
                found[done.number] = done.result
                if progress is not None:
                    progress(len(found) / len(chunks))
        tally = measurement.tally()
        for number in range(len(chunks)):  # in this order, so that sums are the same in every run
            tally.merge(found[number])
        seen = sum(len(one[0]) for one in tally.answered) + len(tally.broken)
        if seen != count:
            raise EngineError(f"the cluster answered for {seen:,} of {count:,} images; measure again")
        return tally, min(joined, len(chunks))

    return distribute
