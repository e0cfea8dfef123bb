"""Images a second and peak memory from files to answers: effnets beside other ways, and the bounds of the machine.

    uv run scripts/benchmark_throughput.py ../shared [--photos 200] [--rounds 3] [--sets groceries,large,cifar10]

The real MobileNetV2 on groceries (348 × 348 pixels), on generated JPEGs of 12 megapixels, and on CIFAR-10's PNGs. Every
measurement is a process of its own, after a warm-up; those of a set take turns. Peak memory is that of the process and
its workers above what it held before the first image.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import effnets
from effnets.utils.machine import describe_machine

WEIGHTS = "tf_mobilenetv2_100_224.timm.safetensors"
CORES = 2
WARM_UP = 8
Answer = Callable[[list[Path]], Iterable[int]]  # the first class of every file, in order


def effnets_way(model: Path, decode: str) -> Answer:
    engine = effnets.load_engine(model)
    return lambda paths: (found[0].index for found in effnets.predict(engine, paths, topk=1, decode=decode))


def plain_way(model: Path) -> Answer:
    """What a user writes: threads decode with Pillow, ONNX Runtime takes batches."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model))
    name = session.get_inputs()[0].name

    def read(path: Path) -> np.ndarray:
        image = Image.open(path).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
        return ((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1)

    def answer(paths: list[Path]) -> Iterator[int]:
        with ThreadPoolExecutor(CORES) as threads:
            images = threads.map(read, paths)
            while batch := list(islice(images, 16)):
                yield from session.run(None, {name: np.stack(batch)})[0].argmax(1).tolist()

    return answer


def timm_way(weights: Path) -> Answer:
    """As timm's inference.py: its transform, workers of a DataLoader, the network as it is."""
    import timm
    import torch
    from safetensors.torch import load_file
    from timm.data import create_transform
    from torch.utils.data import DataLoader, Dataset

    network = timm.create_model("mobilenetv2_100", pad_type="same", bn_eps=1e-3).eval()
    network.load_state_dict(load_file(weights))
    transform = create_transform(
        224, interpolation="bicubic", crop_pct=0.875, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )

    class Photos(Dataset):
        def __init__(self, paths: list[Path]) -> None:
            self.paths = paths

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            return transform(Image.open(self.paths[index]).convert("RGB"))

    def answer(paths: list[Path]) -> Iterator[int]:
        with torch.inference_mode():
            for images in DataLoader(Photos(paths), batch_size=32, num_workers=CORES):
                yield from network(images).argmax(1).tolist()

    return answer


def transformers_way() -> Answer:
    """transformers' pipeline, with a MobileNetV2 of the same size and random weights."""
    from transformers import (
        MobileNetV2Config,
        MobileNetV2ForImageClassification,
        MobileNetV2ImageProcessor,
        pipeline,
    )

    network = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=1001)).eval()
    classify = pipeline("image-classification", model=network, image_processor=MobileNetV2ImageProcessor())

    def answer(paths: list[Path]) -> Iterator[int]:
        for found in classify((str(path) for path in paths), batch_size=16, num_workers=CORES, top_k=1):
            yield int(found[0]["label"].rpartition("_")[2])

    return answer


def decoding_bound(model: Path, decode: str) -> Answer:
    """Reading and preparing alone, on all cores."""
    return _part(model, decode, inference=False)


def inference_bound(model: Path) -> Answer:
    """The engine alone, on all cores: one prepared image again and again."""
    return _part(model, "exact", loading=False)


def _part(model: Path, decode: str, *, loading: bool = True, inference: bool = True) -> Answer:
    from effnets.inference.pipeline import Pipeline
    from effnets.inference.predictor import create_predictor

    predictor = create_predictor(effnets.load_engine(model), decode=decode)
    one: list[Any] = []

    def load(path: Path) -> Any:
        if loading:
            return predictor.prepare(path)
        one[:] = one or [predictor.prepare(path)]
        return one[0]

    def infer(batch: Any) -> Any:
        return predictor.logits(batch) if inference else np.zeros((len(batch), 1), np.float32)

    return lambda paths: (0 for _ in Pipeline(predictor).run(paths, load, infer))


WAYS: dict[str, Callable[[Path, Path], Answer]] = {
    "effnets, exact": lambda model, _: effnets_way(model, "exact"),
    "effnets, fast": lambda model, _: effnets_way(model, "fast"),
    "plain loop": lambda model, _: plain_way(model),
    "timm": lambda _, weights: timm_way(weights),
    "transformers": lambda _model, _weights: transformers_way(),
    "decoding alone, exact": lambda model, _: decoding_bound(model, "exact"),
    "decoding alone, fast": lambda model, _: decoding_bound(model, "fast"),
    "engine alone": lambda model, _: inference_bound(model),
}


def measure(way: str, model: Path, weights: Path, photos: list[Path]) -> dict[str, Any]:
    """Return images/s, peak memory in MB, and the answers, of this process."""
    import psutil

    answer = WAYS[way](model, weights)
    list(answer(photos[:WARM_UP]))
    me = psutil.Process()
    before, peak = me.memory_info().rss, 0
    begin, answers = time.perf_counter(), []
    for index, found in enumerate(answer(photos)):
        answers.append(found)
        if index % 16 == 0:
            peak = max(peak, sum(_memory(one) for one in (me, *me.children(recursive=True))))
    seconds = time.perf_counter() - begin
    assert len(answers) == len(photos)
    return {"speed": len(photos) / seconds, "memory": (peak - before) / 1e6, "answers": answers}


def _memory(process: Any) -> int:
    import psutil

    try:
        # Workers are forked, and share what they do not change.
        return int(process.memory_full_info().uss if process.pid != os.getpid() else process.memory_info().rss)
    except psutil.Error:
        return 0


def photo_sets(shared: Path, folder: Path, count: int) -> dict[str, list[Path]]:
    """Return the files of every set, unpacked or generated in a folder, or found there."""
    import pyarrow.parquet as pq

    large, small = folder / "large", folder / "cifar10"
    if small.exists():
        found = {"groceries": sorted(folder.rglob("test/**/*.jpg"))}
        return found | {"large": sorted(large.iterdir()), "cifar10": sorted(small.iterdir())}
    with tarfile.open(shared / "data" / "grocery20.tar") as archive:
        archive.extractall(folder, filter="data")
    groceries = sorted(folder.rglob("test/**/*.jpg"))
    rng = np.random.default_rng(0)
    for made in (large, small):
        made.mkdir()
    for index in range(count):
        with Image.open(groceries[index * len(groceries) // count]) as image:
            enlarged = image.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (750, 1000, 1)).repeat(4, 0).repeat(4, 1)  # or it would be smoother than a photograph
        pixels = (np.asarray(enlarged, np.float32) + noise.astype(np.float32)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(large / f"{index:04}.jpg", quality=90)
    rows = pq.read_table(shared / "data" / "cifar10" / "test.parquet", columns=["img"]).slice(0, 1000).to_pylist()
    for index, row in enumerate(rows):
        (small / f"{index:05}.png").write_bytes(row["img"]["bytes"])
    return {"groceries": groceries, "large": sorted(large.iterdir()), "cifar10": sorted(small.iterdir())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--photos", type=int, default=200, help="of 12 megapixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sets", default="groceries,large,cifar10")
    parser.add_argument("--folder", type=Path, help="keeps the sets for other runs")
    parser.add_argument("--ways", default=";".join(WAYS), help="separated by ;")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    weights = arguments.shared / "weights" / WEIGHTS
    if arguments.one:
        way, model, listing, result = arguments.one
        photos = [Path(line) for line in Path(listing).read_text().splitlines()]
        Path(result).write_text(json.dumps(measure(way, Path(model), weights, photos)))
        return
    machine = describe_machine()
    print(f"{machine.processor}, {machine.cores} cores; medians of {arguments.rounds} rounds", flush=True)
    ways = arguments.ways.split(";")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.onnx"
        effnets.export_onnx(effnets.create_model("mobilenetv2_100", weights=weights), model)
        sets = photo_sets(arguments.shared, arguments.folder or folder, arguments.photos)
        for kind in arguments.sets.split(","):
            listing, result = folder / "listing.txt", folder / "result.json"
            listing.write_text("\n".join(map(str, sets[kind])))
            found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
            for _ in range(arguments.rounds):
                for way in ways:
                    own = [str(arguments.shared), "--one", way, str(model), str(listing), str(result)]
                    subprocess.run([sys.executable, __file__, *own], check=True, stderr=subprocess.DEVNULL)
                    found[way].append(json.loads(result.read_text()))
            print(f"\n{kind}, {len(sets[kind])} files; load {os.getloadavg()[0]:.1f}\n")
            print("\n".join(table(found)), flush=True)


def table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return a table of images/s, their ratio to the plain loop's, peak memory, and answers that agree with exact's."""
    speeds = {way: statistics.median(one["speed"] for one in runs) for way, runs in found.items()}
    plain = speeds.get("plain loop")
    exact = found["effnets, exact"][0]["answers"] if "effnets, exact" in found else None
    rows = ["| way | images/s | to the plain loop | MB | answers as exact |", "| --- | ---: | ---: | ---: | ---: |"]
    for way, runs in found.items():
        ratio = f"{speeds[way] / plain:.2f}" if plain else "–"
        answers = runs[0]["answers"]
        same = "–"
        if exact and "alone" not in way and way != "transformers":
            same = f"{sum(a == b for a, b in zip(answers, exact, strict=True))} of {len(exact)}"
        memory = max(one["memory"] for one in runs)
        rows.append(f"| {way} | {speeds[way]:.1f} | {ratio} | {memory:.0f} | {same} |")
    for decode in ("exact", "fast"):
        own, decoding, engine = (
            speeds.get(one) for one in (f"effnets, {decode}", f"decoding alone, {decode}", "engine alone")
        )
        if own and decoding and engine:
            shared = 1 / (1 / decoding + 1 / engine)
            rows.append(
                f"\n{decode}: {own / min(decoding, engine):.0%} of the slower of decoding and engine, each alone on "
                f"all cores; {own / shared:.0%} of what the two can do on the same cores, {shared:.1f} images/s."
            )
    return rows


if __name__ == "__main__":
    main()
