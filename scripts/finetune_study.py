"""Fine-tuning beside a plain loop of PyTorch, on three small data sets: what the defaults are worth.

    uv run scripts/finetune_study.py ../shared --runs FOLDER [--seeds 0,1,2] [--epochs 8]

The data sets are groceries (967 photos to train on, 20 classes), things (CIFAR-10, 50 images of each class, enlarged)
and few (20 of each). Both start from the real weights of MobileNetV1 x0.25, both train for the same epochs on the same
images; test/ is measured once. The plain loop is what tutorials show: AdamW, one-cycle, random crops, flips, the last
weights. Ours is the command `effnets finetune`; its last weights and moving average are measured on test/, too,
beside the ones that were kept. Finished runs are kept in FOLDER: a study that was stopped goes on with the next one.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow.parquet as parquet
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import effnets
from effnets.train.checkpoint import load_state
from effnets.utils.atomic_file import write_whole
from effnets.utils.machine import describe_machine

MODEL, WEIGHTS, SIZE = "tf_mobilenetv1_025", "weights/keras_mobilenet_2_5_224_tf.h5", 224
DATA = ("groceries", "things", "few")


def plain_loop(folder: Path, weights: Path, epochs: int, seed: int) -> dict[str, Any]:
    """Train as tutorials do; return top-1 on test/ in per cent, and seconds."""
    torch.manual_seed(seed)
    begin = time.perf_counter()
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    augment = v2.Compose([v2.RandomResizedCrop(SIZE, scale=(0.35, 1.0)), v2.RandomHorizontalFlip(), *to_tensor])
    center = v2.Compose([v2.Resize(256), v2.CenterCrop(SIZE), *to_tensor])
    train, test = ImageFolder(folder / "train", augment), ImageFolder(folder / "test", center)
    loader = DataLoader(train, batch_size=32, shuffle=True, drop_last=True, num_workers=2)
    model = effnets.create_model(MODEL, weights=weights, num_classes=len(train.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * len(loader))
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.1)
    for _ in range(epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            loss_function(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        hits = sum(
            int((model(images).argmax(1) == labels).sum()) for images, labels in DataLoader(test, 64, num_workers=2)
        )
    return {"plain": 100 * hits / len(test), "plain_seconds": time.perf_counter() - begin}


def ours(folder: Path, weights: Path, epochs: int, seed: int, output: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Train by `effnets finetune`; return top-1 on test/ of the kept weights, the last and the average, and seconds."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "effnets", "finetune", folder, "--model", MODEL, "--weights", weights]
    command += ["--epochs", str(epochs), "--seed", str(seed), "--output", output]
    for key, value in changes.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - begin
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    state = load_state(output / "last")
    assert state is not None, "just finished"
    found = {"kept": metrics["test_top1"], "seconds": seconds, "average_kept": metrics["best_is_average"]}
    for name, part in (("last", "network"), ("average", "average")):
        model = effnets.create_model(output, pretrained=True)
        model.load_state_dict(state[part])
        found[name] = effnets.evaluate(model, folder).top1
    shutil.rmtree(output)
    return found


def kept(file: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what an earlier run wrote, or run, and write it."""
    if not file.exists():
        write_whole(file, json.dumps(run()).encode())
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def make_data(shared: Path, root: Path) -> None:
    """Write the three data sets as folders train/ and test/ by class."""
    if (root / "few" / "train").exists():
        return
    with tarfile.open(shared / "data" / "grocery20.tar") as archive:
        archive.extractall(root / "raw", filter="data")
    (root / "raw" / "grocery20").rename(root / "groceries")
    for split, images in (("train", 50), ("test", 100)):
        _write_things(shared / "data" / "cifar10" / f"{split}.parquet", root / "things" / split, images)
    (root / "few").mkdir()
    (root / "few" / "test").symlink_to(root / "things" / "test")
    _write_things(shared / "data" / "cifar10" / "train.parquet", root / "few" / "train", 20)
    shutil.rmtree(root / "raw")


def _write_things(source: Path, target: Path, images: int) -> None:
    counts: Counter[int] = Counter()
    table = parquet.read_table(source)
    for number, (image, label) in enumerate(zip(table["img"].to_pylist(), table["label"].to_pylist(), strict=True)):
        if counts[label] < images:
            counts[label] += 1
            (target / str(label)).mkdir(parents=True, exist_ok=True)
            picture = Image.open(io.BytesIO(image["bytes"])).resize((160, 160), Image.Resampling.BICUBIC)
            picture.save(target / str(label) / f"{number}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--set", dest="changes", type=json.loads, default={}, help="JSON of settings of ours")
    parser.add_argument("--only-ours", action="store_true")
    arguments = parser.parse_args()
    make_data(arguments.shared, arguments.runs / "data")
    weights = arguments.shared / WEIGHTS
    print(describe_machine(), f"{arguments.epochs} epochs; top-1 on test/ in per cent", sep="\n")
    rows: list[dict[str, Any]] = []
    label = (
        re.sub(r"[^\w.=-]", "", json.dumps(arguments.changes).replace(":", "=")) if arguments.changes else "defaults"
    )
    for seed in (int(seed) for seed in arguments.seeds.split(",")):
        for name in arguments.data.split(","):
            folder = arguments.runs / "data" / name
            run = f"{name}-{seed}-{arguments.epochs}"
            row = {"data": name, "seed": seed} | kept(
                arguments.runs / f"{run}-{label}.json",
                partial(ours, folder, weights, arguments.epochs, seed, arguments.runs / run, arguments.changes),
            )
            if not arguments.only_ours:
                loop = partial(plain_loop, folder, weights, arguments.epochs, seed)
                row |= kept(arguments.runs / f"{run}-plain.json", loop)
            rows.append(row)
            print(rows[-1], flush=True)
    columns = [column for column in ("plain", "kept", "last", "average") if column in rows[0]]
    print("| data | " + " | ".join(columns) + " |")
    for name in (*arguments.data.split(","), None):
        some = [row for row in rows if name in (None, row["data"])]
        print(
            f"| {name or 'mean'} | "
            + " | ".join(f"{mean(row[column] for row in some):.2f}" for column in columns)
            + " |"
        )
    if "plain_seconds" in rows[0]:
        # Data sets differ in size, so that their sums weigh them as they cost.
        seconds, plain = (sum(row[key] for row in rows) for key in ("seconds", "plain_seconds"))
        print(f"seconds, ours over the plain loop's: {seconds / plain:.2f}")


if __name__ == "__main__":
    main()
