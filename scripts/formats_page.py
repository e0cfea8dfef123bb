"""Measure every export format, for the page docs/formats.md, which it prints.

    uv run scripts/formats_page.py ../shared [--parts answers,speed] [--photos 200] [--models mobilenetv1_100,…]
        [--engines …]
        [--threads 1] [--rounds 15]

Real weights: each file in every format; size, the largest difference of logits that verification found, and the first
class beside the network's on photographs of groceries. Speed: `effnets.bench` with random weights, one image at a time
on so many threads, beside timm's and torchvision's networks converted by the same converters. ExecuTorch's threads are
those of the process, so that another number of them is another run.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
from pathlib import Path

import numpy as np

import effnets
from effnets.bench.bench import bench
from effnets.bench.report import BenchReport
from effnets.bench.variants import OURS, PLAIN, REWRITTEN
from effnets.utils.machine import describe_machine

FORMATS = {".onnx": "onnxruntime", ".xml": "openvino", ".tflite": "litert", ".pte": "executorch"}
ENGINES = ("onnxruntime", "litert", "executorch")
MODELS = "mobilenetv1_100,mobilenetv2_100,mixnet_s,mixnet_m,rexnet_100"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--parts", default="answers,speed")
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    machine = describe_machine()
    print(f"# Formats, measured\n\n`scripts/formats_page.py` on {machine.processor}, {machine.cores} cores.")
    if "answers" in arguments.parts:
        print(
            "\n## The same answers\n\nThe published weights in every format. Difference: the largest of a logit, as a "
            "share of the largest, that verification found. Same first class: of photographs of groceries, as the "
            "network in PyTorch answers.\n"
        )
        print("\n".join(answers(arguments.shared, arguments.photos)))
    if "speed" in arguments.parts:
        print(
            f"\n## Speed\n\nMilliseconds for one image of 224 pixels, medians of {arguments.rounds} rounds in which "
            "all programs of a network take turns, with random weights. *timm*: its network by the same converter, "
            "or its own ONNX export. The best of ours is over the best of timm's and torchvision's on that engine."
        )
        report = bench(
            arguments.models.split(","),
            against=("timm", "torchvision"),
            engines=arguments.engines.split(","),
            batches=(1,),
            threads=arguments.threads,
            rounds=arguments.rounds,
            memory=False,
        )
        load = "" if report.load is None else f"; {report.load[1]:.1f} programs ran on average"
        print(f"\nOn {arguments.threads} thread{'s' if arguments.threads > 1 else ''}{load}:\n")
        print("\n".join(speeds(report)), flush=True)


def answers(shared: Path, count: int) -> list[str]:
    """Return a table of the real weights in every format."""
    rows = ["| weights | format | MB | difference | same first class |", "| --- | --- | ---: | ---: | ---: |"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(shared / "data" / "grocery20.tar") as archive:
            archive.extractall(folder, filter="data")
        photos = sorted(folder.rglob("test/**/*.jpg"))
        photos = [photos[index] for index in np.random.default_rng(0).permutation(len(photos))[:count]]
        for weights in sorted((shared / "weights").glob("*.safetensors")):
            model = weights.name.removeprefix("tf_").rpartition("_")[0]
            network = effnets.create_model(model, weights=weights)
            expected = [found[0].index for found in effnets.predict(network, photos, topk=1)]
            for suffix, engine in FORMATS.items():
                report = effnets.export(network, folder / f"model{suffix}")
                loaded = effnets.load_engine(report.path)
                found = [one[0].index for one in effnets.predict(loaded, photos, topk=1)]
                same = sum(a == b for a, b in zip(found, expected, strict=True))
                size, error = report.size / 1e6, report.errors[engine]
                rows.append(f"| {model} | {suffix} | {size:.1f} | {error:.0e} | {same} of {len(photos)} |")
    return rows


def speeds(report: BenchReport) -> list[str]:
    """Return a table of networks by engine: ms as built, rewritten, of peers, and the ratio."""
    rows = [
        "| network | engine | as built | rewritten | timm | torchvision | best of ours over best of theirs |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model, engine in dict.fromkeys((row.model, row.engine) for row in report.rows):
        times = {row.path: row.milliseconds for row in report.rows if (row.model, row.engine) == (model, engine)}
        shown = [f"{times[path]:.2f}" if path in times else "–" for path in (PLAIN, REWRITTEN, "timm", "torchvision")]
        theirs = [value for path, value in times.items() if path not in OURS]
        ratio = f"{min(theirs) / min(times[path] for path in OURS):.2f}" if theirs else "–"
        rows.append(f"| {model} | {engine} | {' | '.join(shown)} | {ratio} |")
    return [*rows, *(f"\n{note}." for note in report.missing)]


if __name__ == "__main__":
    main()
