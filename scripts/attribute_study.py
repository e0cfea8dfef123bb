"""What a teacher of attributes is worth to narrower networks, as in MobileNet's table 12, on planted pictures.

    uv run scripts/attribute_study.py --runs FOLDER [--seeds 0,1,2] [--write docs/multilabel.md]

MobileNet learned attributes of faces from the answers of a large network, without labels, and small ones kept its mean
average precision (arXiv:1704.04861, section 4.5). Here pictures of 48 pixels have or lack six attributes, faint in
noise. MobileNetV1 x0.5 learns them from 600 labeled pictures, which a seed draws. Networks of a half and a quarter of
its width learn from the same labels, from labels and teacher, from the teacher's answers to these pictures alone, and
from its answers to five times as many. All students see as many pictures, counted with repetitions. Mean average
precision is of 1,000 other pictures, the same for all. Finished runs are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from metric_learning_study import replace_table, spread
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import effnets
from effnets.data.augmentation import Augmentation

Box = tuple[int, int, int, int]

# How each attribute is drawn into a box of a mask.
DRAWN: dict[str, Callable[[ImageDraw.ImageDraw, Box], object]] = {
    "disc": lambda draw, box: draw.ellipse(box, fill=255),
    "ring": lambda draw, box: draw.ellipse(box, outline=255, width=3),
    "square": lambda draw, box: draw.rectangle(box, fill=255),
    "frame": lambda draw, box: draw.rectangle(box, outline=255, width=3),
    "cross": lambda draw, box: [draw.line(box, fill=255, width=3), draw.line(_other_way(box), fill=255, width=3)],
    "stripes": lambda draw, box: [draw.line((box[0], y, box[2], y), fill=255) for y in range(box[1], box[3], 3)],
}
SIDE, CONTRAST, NOISE, SHARE = 48, 90, 35, 0.3
LABELED, MORE, VALIDATE, TEST = 600, 5, 300, 1000
TEACHER, EPOCHS = 0.5, 20
WAYS: dict[str, tuple[bool, float | None]] = {  # with the other pictures too? the teacher's share
    "labels": (False, None),
    "labels and teacher": (False, 0.5),
    "teacher alone": (False, 1.0),
    f"teacher alone, {MORE} times the pictures": (True, 1.0),
}
BEGIN, END = "<!-- attribute study: begin -->", "<!-- attribute study: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--students", default="0.25,0.125", help="width multipliers")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    arguments = parser.parse_args()
    found: dict[tuple[float, str], list[float]] = {}
    for seed in map(int, arguments.seeds.split(",")):
        widths = [float(width) for width in arguments.students.split(",")]
        for key, figure in study(arguments.runs / str(seed), seed, widths).items():
            found.setdefault(key, []).append(figure)
            print(seed, key, f"{figure:.2f}", flush=True)
    text = table(found)
    print(text)
    if arguments.write is not None:
        replace_table(arguments.write, text, BEGIN, END)


def study(folder: Path, seed: int, widths: Sequence[float]) -> dict[tuple[float, str], float]:
    """Return the mean average precision in per cent by width and way of learning."""
    labeled, taught = plant(folder, seed)
    teacher = learn(labeled, folder / "teacher", TEACHER, seed)
    found = {(TEACHER, "labels"): precision(teacher)}
    for width in widths:
        for number, (way, (more, share)) in enumerate(WAYS.items()):
            changes: dict[str, Any] = {"epochs": EPOCHS // MORE} if more else {}
            if share is not None:
                changes |= {"teacher": str(teacher.folder), "teacher_share": share}
            data = taught if more else labeled
            found[width, way] = precision(learn(data, folder / f"{width}-{number}", width, seed, **changes))
    return found


def learn(data: Path, run: Path, width: float, seed: int, **changes: Any) -> effnets.TrainedModel:
    network = data.parent / f"mobilenetv1_{round(1000 * width)}.yaml"
    network.write_text(
        f"{network.stem}: {{base: mobilenetv1_100_shallow, width: {width}, input_size: {SIDE}, crop_pct: 1.0}}\n"
    )
    settings: dict[str, Any] = {"epochs": EPOCHS, "seed": seed} | changes
    recipe = effnets.Recipe(
        model=str(network),
        task="multilabel",
        weights="random",
        epoch_repeats=1,
        ema_decay=0.0,
        layer_decay=1.0,
        workers=0,
        precision="float32",
        augmentation=Augmentation(scale=(0.8, 1.0)),
        **settings,
    )
    return effnets.finetune(recipe, data, run, resume=True)


def precision(trained: effnets.TrainedModel) -> float:
    figure: float = trained.metrics["test_mean_ap"]
    return figure


def table(found: dict[tuple[float, str], list[float]]) -> str:
    """Return mean and spread over the seeds, and each seed's gain over the same network's labels alone."""
    lines = ["| MobileNetV1 | learned from | mean AP in % | gain |", "|---|---|---:|---:|"]
    for (width, way), figures in found.items():
        gains = [figure - before for figure, before in zip(figures, found[width, "labels"], strict=True)]
        gain = "" if way == "labels" else f"{', '.join(f'{one:+.1f}' for one in gains)} (mean {mean(gains):+.1f})"
        lines.append(f"| x{width:g} | {way} | {spread(figures)} | {gain} |")
    return "\n".join(lines)


def plant(folder: Path, seed: int) -> tuple[Path, Path]:
    """Draw the pictures; return the table with the labeled ones to train on, and one with all of them.

    In the second, those that only the teacher labels have zeros, which a teacher's share of 1 does not look at.
    """
    rows: dict[str, list[list[str | int]]] = {}
    for split, count, key in (
        ("train", LABELED, seed),
        ("more", LABELED * (MORE - 1), 100 + seed),
        ("val", VALIDATE, 200 + seed),
        ("test", TEST, 1000),
    ):
        generator = np.random.default_rng(key)
        (folder / split).mkdir(parents=True, exist_ok=True)
        rows[split] = []
        for number in range(count):
            has = generator.random(len(DRAWN)) < SHARE
            name = f"{split}/{number:04}.png"
            Image.fromarray(draw(has, generator)).save(folder / name)
            known = [0] * len(DRAWN) if split == "more" else has.astype(int).tolist()
            rows[split].append([name, "train" if split == "more" else split, *known])
    tables = folder / "labeled.csv", folder / "taught.csv"
    for path, splits in zip(tables, (("train", "val", "test"), ("train", "more", "val", "test")), strict=True):
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["path", "split", *DRAWN], *(row for split in splits for row in rows[split])])
    return tables


def draw(has: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return a picture [48, 48, 3] of noise, with a faint shape of any color for each attribute that it has."""
    pixels = generator.normal(128, NOISE, (SIDE, SIDE, 3))
    for given, shape in zip(has, DRAWN.values(), strict=True):
        side = int(generator.integers(14, 24))
        left, top = (int(edge) for edge in generator.integers(0, SIDE - side, 2))
        color = generator.normal(0, 1, 3)
        if given:
            mask = Image.new("L", (SIDE, SIDE))
            shape(ImageDraw.Draw(mask), (left, top, left + side, top + side))
            pixels += CONTRAST * 3**0.5 * color / np.linalg.norm(color) * (np.asarray(mask)[..., None] / 255)
    return pixels.clip(0, 255).astype(np.uint8)


def _other_way(box: Box) -> Box:
    return box[0], box[3], box[2], box[1]


if __name__ == "__main__":
    main()
