"""Write docs/scale.md from what `scripts/ray_scaling.py` measured: what a million and a billion images cost.

uv run scripts/scale_page.py scripts/ray_scaling.json > docs/scale.md
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from effnets.bulk.sources import chunk_size

CORES = (1, 16, 1000)
NUMBERS = (10**6, 10**9)
_FILES = 10**7  # as many may be files of their own; more are in tables

GUIDE = """\
# Many images, many machines

```console
$ pip install 'effnets[ray,export]'
$ effnets predict photos/ --weights model.onnx --ray --output labels/          # all cores of this machine
$ effnets predict s3://bucket/shards/ --weights model.onnx --ray auto --output s3://bucket/labels/
$ effnets eval imagenet/ --weights model.onnx --ray 10.0.0.1:6379
```

`--ray` without an address starts a cluster of this machine's cores and ends it; `auto` and `HOST:PORT` join one that
runs, whose machines need the same version of effnets (`ray://HOST:PORT`, Ray's client, is passed on, and not tested).
Ray's usage statistics are off in a cluster of its own. `--workers` is the number of processes, one for each core by
default; each has the model, one thread, and takes chunk after chunk. On one machine the command without `--ray` does
the same with threads, and starts at once ([A million photographs](throughput.md)).

**Data**: image files and folders, tar archives, and Parquet tables in the Hub's layout (`--image-column` names
another column), here or at any URL of [fsspec](https://filesystem-spec.readthedocs.io): `s3://` (with s3fs), `gs://`
(gcsfs), `hf://`; the tests have no network, and use `file://` and `memory://`. Workers read the images themselves:
the driver hands over names only, so that no image passes through Ray's object store. An archive at a URL is fetched
whole by the worker that takes it, to its temporary folder; tables need no such room. `eval` reads what it always does
(see [Fine-tune](finetune.md)).

**Output**: a folder of Parquet files with the columns of `--output FILE.parquet`, one row for each image; what cannot
be read has its error there, and the exit status is 1. The files gather in `labels.part/`, which becomes `labels/`
when every chunk has its file with all of its rows; else the command says which is missing. Several machines need a
folder that all share, or a URL. A store's folder is copied, file by file, under its final name, as stores cannot
rename.

**Interruptions**: a worker that is lost (killed, out of memory, a machine that is taken away) is replaced, and its
chunk done again: each chunk writes one file by its number, in one piece, so that doing it twice changes nothing. A
chunk that loses five workers ends the run, with its name. After Ctrl-C (status 130) or a crash of the driver,
`--resume` goes on with the chunks that have no file yet.
"""


def main() -> None:
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("\n".join([GUIDE, *measured(found), "", *check(found), "", *costs(found), "", *limits(found)]))


def medians(found: dict[str, Any], way: str, value: str) -> float:
    return statistics.median(run[value] for run in found["runs"][way])


def ratios(found: dict[str, Any], way: str, other: str) -> list[float]:
    """The rates of one way over those of another, round by round."""
    return [a["rate"] / b["rate"] for a, b in zip(found["runs"][way], found["runs"][other], strict=True)]


def free_ratio(found: dict[str, Any]) -> float:
    """The rate of two workers over that of one if nothing else ran."""
    speed = {
        way: (1 - medians(found, way, "idle")) / medians(found, way, "core_ms") for way in ("1 worker", "2 workers")
    }
    return 2 * speed["2 workers"] / speed["1 worker"]


def span(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def measured(found: dict[str, Any]) -> list[str]:
    runs = found["runs"]
    loads = [run["load"] for way in runs.values() for run in way]
    lines = [
        "## Measured",
        "",
        f"`scripts/ray_scaling.py ../shared model.onnx --rounds {len(runs['1 worker'])}` on {found['date']}: "
        "MobileNetV2 "
        f"in ONNX Runtime on {found['images']:,} photos of {found['bytes_an_image'] / 1000:.0f} kB, in chunks of "
        f"{found['chunk']}; {found['machine']}, Ray {found['ray']}. The machine is shared: other programs had a "
        "load of "
        f"{min(loads):.0f} to {max(loads):.0f} on its cores, so that images a second say little, and ratios within a "
        "round more. Rates are without starts.",
        "",
        "| | images/s, median | range | processor ms/image | start (s) |",
        "|---|---:|---:|---:|---:|",
    ]
    for way, values in runs.items():
        rates = [run["rate"] for run in values]
        start = f"{medians(found, way, 'start_s'):.1f}" if "start_s" in values[0] else ""
        lines.append(
            f"| {way}{' of `--ray`' if 'worker' in way else ', without Ray'} | {statistics.median(rates):.0f} | "
            f"{min(rates):.0f} – {max(rates):.0f} | {medians(found, way, 'core_ms'):.1f} | {start} |"
        )
    return [
        *lines,
        "",
        "Ratios of the same round, median and range:",
        "",
        f"- two workers over one: **{span(ratios(found, '2 workers', '1 worker'))}**",
        "- the same on cores of their own, from the processor's time for an image and the share of the time in which "
        f"workers had no chunk ({100 * medians(found, '1 worker', 'idle'):.0f} % and "
        f"{100 * medians(found, '2 workers', 'idle'):.0f} %): {free_ratio(found):.2f}",
        "- two processes over one thread, without Ray or anything else between them, which is what the machine gave: "
        f"{span(ratios(found, '2 processes', '1 thread'))}",
        f"- two workers over two such processes: {span(ratios(found, '2 workers', '2 processes'))}",
        f"- two threads over one, without Ray: {span(ratios(found, '2 threads', '1 thread'))}",
        f"- one worker over one thread: {span(ratios(found, '1 worker', '1 thread'))}",
        f"- two workers over two threads: {span(ratios(found, '2 workers', '2 threads'))}",
        "",
        f"The cluster itself started in {found['cluster_start_s']:.1f} s; the start in the table is that of the "
        "workers, "
        "which import Ray Data and effnets, and load the model.",
    ]


def check(found: dict[str, Any]) -> list[str]:
    """Compare the model's prediction with whole runs that it has not seen."""
    given = statistics.median(ratios(found, "2 processes", "1 thread"))
    lines = [
        "## The model, checked",
        "",
        "Seconds of a run in a cluster that is there = start of the workers + images / (workers × rate of one worker). "
        "Start and rate are the medians above, of one worker only; the runs are of twice the images, and of their own.",
        "",
        f"The machine gave two bare processes {given:.2f} times the rate of one, as others had its cores: the second "
        "prediction is with that factor in place of the number of workers.",
        "",
        "| workers | images | predicted (s) | with what the machine gave (s) | measured (s) | load before |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    start, rate = medians(found, "1 worker", "start_s"), medians(found, "1 worker", "rate")
    for workers, run in found["whole_runs"].items():
        predicted = start + run["images"] / rate / int(workers)
        shared = start + run["images"] / rate / (given if workers == "2" else 1)
        lines.append(
            f"| {workers} | {run['images']:,} | {predicted:.1f} | {shared:.1f} | {run['seconds']:.1f} | "
            f"{run['load']:.1f} |"
        )
    return lines


def costs(found: dict[str, Any]) -> list[str]:
    core = medians(found, "1 worker", "core_ms") / 1000
    start = found["cluster_start_s"] + medians(found, "1 worker", "start_s")
    lines = [
        "## What a million and a billion cost",
        "",
        f"**Extrapolated**, not measured: from {1000 * core:.1f} ms of a core for each image, the processor's "
        f"time above (photos of {found['bytes_an_image'] / 1000:.0f} kB; larger ones take longer to decode), the "
        f"driver's time for a chunk where that is the limit, a start of {start:.0f} s, a last chunk that all wait for, "
        "the check of the parts, and the listing of a million files. More than two workers were not tried.",
        "",
        "| images | cores | core-hours | time | of it beside the work | images in a chunk | read (MB/s) |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for number in NUMBERS:
        chunk = chunk_size(number)
        for cores in CORES:
            work = max(number * core / cores, number / chunk * found["seconds_an_empty_chunk"])
            beside = start + chunk * core + (number / found["listed_a_second"] if number <= _FILES else 0)
            beside += number / chunk / found["parts_checked_a_second"]
            reading = found["bytes_an_image"] * number / work / 1e6
            lines.append(
                f"| {number:,} | {cores:,} | {number * core / 3600:,.1f} | {duration(work + beside)} | "
                f"{duration(beside)} | "
                f"{chunk:,} | {reading:,.0f} |"
            )
    return lines


def duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def limits(found: dict[str, Any]) -> list[str]:
    core = medians(found, "1 worker", "core_ms") / 1000
    a_chunk = found["seconds_an_empty_chunk"]
    bound = {number: chunk_size(number) * core / a_chunk for number in NUMBERS}
    files = found["listed_a_second"]
    return [
        "## Where it stops",
        "",
        f"- **The driver** takes {1000 * a_chunk:.1f} ms for a chunk without work, with the whole cluster on "
        "the same two "
        f"cores. It keeps up with {bound[NUMBERS[0]]:,.0f} cores for a million images (chunks of "
        f"{chunk_size(NUMBERS[0])}), and {bound[NUMBERS[1]]:,.0f} for a billion ({chunk_size(NUMBERS[1]):,}). Beyond "
        "that it is the limit; chunks then need to be larger.",
        f"- **Listing** happens before the work, in one process: {files:,.0f} files a second in folders and "
        f"{found['listed_tar_a_second']:,.0f} in archives, so {duration(1e6 / files)} for a million files, and "
        f"{found['driver_bytes_an_image']:,.0f} bytes of its memory for each. A billion files would be "
        f"{duration(1e9 / files)} and {1e9 * found['driver_bytes_an_image'] / 1e9:,.0f} GB: put so many into "
        "Parquet tables, of "
        "which it reads the footers alone, or into archives in a store, which it does not open.",
        f"- **Storage**: every core reads {found['bytes_an_image'] / core / 1e6:.1f} MB/s; the table says what that is "
        "together. Stores limit requests too: photos that are files of their own are one each, and a thousand "
        "cores make "
        f"{1000 / core:,.0f} a second. Archives and tables are a few for each chunk.",
        f"- **The object store** has {found['bytes_handed_over_an_image']:.0f} bytes for each image, names and counts, "
        "and no images: it is no limit.",
        f"- **The output** has {found['bytes_a_row']:.0f} bytes for an image with five predictions: "
        f"{found['bytes_a_row'] * 1e9 / 1e9:,.0f} GB for a billion, in {1e9 / chunk_size(10**9):,.0f} files.",
        "- An archive at a URL is one chunk, so that there should be several for each worker, and fetching it is not "
        "overlapped with work: at 100 MB/s that is "
        f"{100 * found['bytes_an_image'] / 100e6 / core:.0f} % of the time here.",
    ]


if __name__ == "__main__":
    main()
