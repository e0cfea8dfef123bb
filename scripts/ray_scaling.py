"""Measure `predict --ray`: one worker, two, and the command without Ray, interleaved; and what limits larger clusters.

    uv run scripts/ray_scaling.py ../shared MODEL.onnx [--rounds 5] [--json scripts/ray_scaling.json]

The 946 test photos of grocery20.tar. Rates are without starts: from the begin of the first chunk to the end of the last
one; starts are measured by themselves. Ratios are of rates of the same round, which share the machine's load.
`scripts/scale_page.py` makes docs/scale.md of the JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from effnets.bulk.cluster import Done, joined_cluster, work_on
from effnets.bulk.distributed import WriteParts
from effnets.bulk.model import PackedModel, pack_model
from effnets.bulk.parts import PartFolder
from effnets.bulk.photos import classify_photos
from effnets.bulk.sources import Source, find_images
from effnets.bulk.table import prediction_columns
from effnets.inference.labels import imagenet1k
from effnets.inference.pipeline import Pipeline
from effnets.utils.machine import describe_machine, version_of

TOPK = 5
EMPTY_CHUNKS = 1000
LISTED = 20_000


class Nothing:
    """Work that takes no time: what is left is the cluster's."""

    def __call__(self, _pipeline: Pipeline, number: int, _chunk: Any) -> int:
        return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(arguments.shared / "data" / "grocery20.tar") as archive:
            archive.extractall(folder, filter="data")
        photos = next(path for path in Path(folder).rglob("test") if path.is_dir())
        found = measure(photos, arguments.model.resolve(), arguments.rounds, Path(folder))
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(photos: Path, model: Path, rounds: int, scratch: Path) -> dict[str, Any]:
    machine = describe_machine()
    images = find_images([str(photos)], print)
    chunks, packed = images.chunks(), pack_model(model)
    sizes = [Path(path).stat().st_size for path, _ in images.files]
    runs: dict[str, list[dict[str, float]]] = {}
    begin = time.perf_counter()
    with joined_cluster("local", 2):
        start = time.perf_counter() - begin
        ways: dict[str, Callable[[], dict[str, float]]] = {
            "1 thread": lambda: without_ray(packed, images.files, 1),
            "2 threads": lambda: without_ray(packed, images.files, 2),
            "2 processes": lambda: two_processes(packed, images.files),
            "1 worker": lambda: with_ray(packed, chunks, 1, scratch),
            "2 workers": lambda: with_ray(packed, chunks, 2, scratch),
        }
        per_chunk, handed = empty_chunks(packed, chunks)
        print("empty chunks", per_chunk, handed, file=sys.stderr)
        # Twice the images in one run, start and end included, to compare the page's prediction with.
        whole = {count: whole_run(packed, [*chunks, *chunks], count, scratch) for count in (1, 2)}
        for number in range(rounds):
            for name, way in ways.items():
                before = os.getloadavg()[0]
                one = {**way(), "load": before}
                runs.setdefault(name, []).append(one)
                print(number, name, {key: round(value, 2) for key, value in one.items()}, file=sys.stderr)
    return {
        "machine": f"{machine.processor}, {machine.cores} cores",
        "ray": version_of("ray"),
        "date": time.strftime("%Y-%m-%d"),
        "images": len(sizes),
        "bytes_an_image": statistics.mean(sizes),
        "chunk": len(chunks[0]),
        "runs": runs,
        "cluster_start_s": start,
        "seconds_an_empty_chunk": per_chunk,
        "bytes_handed_over_an_image": handed,
        "whole_runs": whole,
        **listing(scratch),
        **rows_of(scratch),
    }


def without_ray(model: PackedModel, files: list[tuple[str, str | None]], threads: int) -> dict[str, float]:
    from effnets.inference.image import PhotoResult

    pipeline = Pipeline(model.open(None if threads > 1 else 1), workers=threads)
    warm = [PhotoResult(path) for path, _ in files[:8]]
    list(classify_photos(pipeline, warm, TOPK))
    begin, core = time.perf_counter(), time.process_time()
    list(classify_photos(pipeline, (PhotoResult(path) for path, _ in files), TOPK))
    seconds, core = time.perf_counter() - begin, time.process_time() - core
    return {"rate": len(files) / seconds, "core_ms": 1000 * core / len(files)}


def two_processes(model: PackedModel, files: list[tuple[str, str | None]]) -> dict[str, float]:
    """Return what the machine gives to two processes with nothing between them."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        done = list(pool.map(one_process, [model] * 2, [files[0::2], files[1::2]]))
    first, last = min(begun for begun, _, _ in done), max(end for _, end, _ in done)
    return {"rate": len(files) / (last - first), "core_ms": 1000 * sum(core for _, _, core in done) / len(files)}


def one_process(model: PackedModel, files: list[tuple[str, str | None]]) -> tuple[float, float, float]:
    begun = time.time()
    found = without_ray(model, files, 1)
    seconds = len(files) / found["rate"]
    return max(begun, time.time() - seconds), time.time(), found["core_ms"] * len(files) / 1000


@contextmanager
def parts(scratch: Path) -> Iterator[WriteParts]:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        output = PartFolder(f"{folder}/out")
        output.begin({}, resume=False)
        yield WriteParts(partial(classify_photos, topk=TOPK), prediction_columns(TOPK), output)


def with_ray(model: PackedModel, chunks: list[Source], workers: int, scratch: Path) -> dict[str, float]:
    with parts(scratch) as work:
        begin = time.time()
        done = list(work_on(work, model, list(enumerate(chunks)), workers=workers))
    count = sum(one.result.images for one in done)
    first, last = min(one.begun for one in done), max(one.begun + one.seconds for one in done)
    return {
        "rate": count / (last - first),
        "core_ms": 1000 * sum(one.core_seconds for one in done) / count,
        "start_s": first - begin,
        "idle": 1 - sum(one.seconds for one in done) / (last - first) / workers,
    }


def whole_run(model: PackedModel, chunks: list[Source], workers: int, scratch: Path) -> dict[str, float]:
    """Return the images and seconds of a run from begin to end, in a cluster that is there, with its load before."""
    load = os.getloadavg()[0]
    with parts(scratch) as work:
        begin = time.perf_counter()
        rows = {one.number: one.result.images for one in work_on(work, model, list(enumerate(chunks)), workers=workers)}
        work.folder.finish(rows)
        seconds = time.perf_counter() - begin
    return {"images": sum(rows.values()), "seconds": seconds, "load": load}


def empty_chunks(model: PackedModel, chunks: list[Source]) -> tuple[float, float]:
    """Return the seconds that a chunk takes driver and cluster beside its work, and the bytes that travel an image."""
    import pickle

    many = [(number, chunks[number % len(chunks)]) for number in range(EMPTY_CHUNKS)]
    ends = [time.perf_counter() for _ in work_on(Nothing(), model, many, workers=2)]
    done = pickle.dumps(Done(0, None, Pipeline(model.open(), workers=1).timing, 0.0, 0.0, 0.0, "worker", 1))
    handed = (len(pickle.dumps(chunks[0])) + len(done)) / len(chunks[0])
    return (ends[-1] - ends[0]) / (EMPTY_CHUNKS - 1), handed


def listing(scratch: Path) -> dict[str, float]:
    """Return how many images a second are found in folders and in archives."""
    folder = scratch / "listed"
    for number in range(LISTED // 1000):
        (folder / str(number)).mkdir(parents=True)
        for image in range(1000):
            (folder / str(number) / f"{image}.jpg").touch()
    with tarfile.open(scratch / "listed.tar", "w") as archive:
        archive.add(folder, "listed")
    rates = {}
    for name in ("listed", "listed.tar"):
        begin = time.perf_counter()
        find_images([str(scratch / name)], print).chunks()
        rates[f"{name.replace('.', '_')}_a_second"] = LISTED / (time.perf_counter() - begin)
    tracemalloc.start()
    chunks = find_images([str(scratch / "listed")], print).chunks()
    rates["driver_bytes_an_image"] = tracemalloc.get_traced_memory()[0] / LISTED
    tracemalloc.stop()
    del chunks
    return rates


def rows_of(scratch: Path) -> dict[str, float]:
    """Return the bytes of a row, of 10,000 in a part, and how many parts a second are checked."""
    labels, draw = imagenet1k(), random.Random(0)
    rows: list[dict[str, Any]] = []
    for number in range(10_000):
        best = [{"index": index, "label": labels[index]} for index in draw.sample(range(1000), TOPK)]
        for one in best:
            one["probability"] = draw.random()
        rows.append({"path": f"/photos/{number // 1000}/{number}.jpg", "predictions": best})
    output = PartFolder(str(scratch / "rows"))
    output.begin({}, resume=False)
    output.write(0, rows, prediction_columns(TOPK))
    size = (scratch / "rows.part" / "part-0000000.parquet").stat().st_size / len(rows)
    for number in range(1, 500):
        output.write(number, rows[:64], prediction_columns(TOPK))
    begin = time.perf_counter()
    output.count_rows(range(500))
    return {"bytes_a_row": size, "parts_checked_a_second": 500 / (time.perf_counter() - begin)}


if __name__ == "__main__":
    main()
