"""What metric learning is worth for classes that were never seen: MobileNetV1 x0.25 on photographs of groceries.

    uv run scripts/metric_learning_study.py ../shared --runs FOLDER [--seeds 0,1,2] [--write docs/embeddings.md]

Of grocery20's 20 classes a seed leaves 5 out of training. Their test photos are then searched for, each among the
others of the five (leave-one-out), and, which is harder, among all test photos of the 20 classes; recall@1 is the share
whose nearest one is of its class. The features are the pooled ones of the same weights before training. With --distill
a student learns the embedding of MobileNetV2 without labels. Finished runs are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

import effnets
from effnets.embeddings.retrieval import retrieve
from effnets.train.task_settings import EmbeddingSettings
from effnets.utils.atomic_file import write_whole

MODEL, WEIGHTS = "tf_mobilenetv1_025", "weights/keras_mobilenet_2_5_224_tf.h5"
TEACHER, TEACHER_WEIGHTS = "tf_mobilenetv2_100", "weights/tf_mobilenetv2_100_224.timm.safetensors"
STUDENT_WEIGHTS = "weights/tf_mobilenetv1_025_128.timm.safetensors"
LEFT_OUT = 5
BEGIN, END = "<!-- metric learning study: begin -->", "<!-- metric learning study: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--losses", default="triplet,arcface,multi_similarity")
    parser.add_argument("--size", type=int, default=None, help="of the embedding [default: the pooled features]")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--set", dest="changes", type=json.loads, default={}, help="JSON of settings of the recipe")
    parser.add_argument("--distill", action="store_true", help="train the student of an embedding instead")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    arguments = parser.parse_args()
    groceries = unpack(arguments.shared, arguments.runs)
    text = distill(arguments, groceries) if arguments.distill else study(arguments, groceries)
    print(text)
    if arguments.write is not None:
        replace_table(arguments.write, text, BEGIN, END)


def study(arguments: argparse.Namespace, groceries: Path) -> str:
    """Return the table of all losses and seeds."""
    names = sorted(folder.name for folder in (groceries / "train").iterdir())
    rows: dict[str, list[dict[str, float]]] = {"untrained": []}
    for seed in map(int, arguments.seeds.split(",")):
        left_out = sorted(np.random.default_rng(seed).permutation(names)[:LEFT_OUT].tolist())
        data = leave_out(groceries, left_out, arguments.runs / f"data-{seed}")
        rows["untrained"].append(
            kept(
                arguments.runs / f"untrained-{arguments.image_size}-{seed}.json",
                lambda left_out=left_out: measure(untrained(arguments), groceries, left_out, arguments.image_size),
            )
        )
        for loss in arguments.losses.split(","):
            changes = "".join(f"-{key}={value}" for key, value in arguments.changes.items())
            run = arguments.runs / f"{loss}-{arguments.size}-{arguments.image_size}-{arguments.epochs}{changes}-{seed}"
            given = loss, seed, data, run, groceries, left_out
            rows.setdefault(loss, []).append(
                kept(run.with_name(f"{run.name}.json"), train_and_measure, arguments, *given)
            )
            print(seed, loss, rows[loss][-1], "untrained", rows["untrained"][-1], flush=True)
    lines = [
        "| | recall@1 among the five in % | gain | MAP@R in % | recall@1 among all twenty in % | gain |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in rows.items():
        figures = []
        for key in ("recall_at_1", "map_at_r", "among_all"):
            figures.append(spread([row[key] for row in found]))
            pairs = zip(found, rows["untrained"], strict=True)
            if key != "map_at_r":
                gains = ", ".join(f"{row[key] - before[key]:+.1f}" for row, before in pairs)
                figures.append("" if name == "untrained" else gains)
        lines.append(f"| {name.replace('_', '-')} | {' | '.join(figures)} |")
    return "\n".join(lines)


def train_and_measure(
    arguments: argparse.Namespace,
    loss: str,
    seed: int,
    data: Path,
    run: Path,
    groceries: Path,
    left_out: Sequence[str],
) -> dict[str, float]:
    """Train on the classes that are left, and measure on those that are not."""
    settings: dict[str, Any] = {"val_share": 0.15, "batch_size": 40, "workers": 1} | arguments.changes
    recipe = effnets.Recipe(
        model=MODEL,
        task="embed",
        weights=str(arguments.shared / WEIGHTS),
        image_size=arguments.image_size,
        epochs=arguments.epochs,
        seed=seed,
        embedding=EmbeddingSettings(loss=loss, size=arguments.size),  # type: ignore[arg-type]
        **settings,
    )
    trained = effnets.finetune(recipe, data, run, resume=True)
    return measure(trained.load(), groceries, left_out, arguments.image_size)


def untrained(arguments: argparse.Namespace) -> effnets.Classifier:
    return effnets.create_model(MODEL, weights=arguments.shared / WEIGHTS)


def measure(network: effnets.Classifier, groceries: Path, left_out: Sequence[str], size: int) -> dict[str, float]:
    """Return recall@1 and MAP@R in per cent of the test photos of the classes that were left out."""
    vectors, names = embed_test(network, groceries, size)
    labels = np.unique(names, return_inverse=True)[1]
    unseen = np.isin(names, left_out)
    found = retrieve(vectors[unseen], labels[unseen])
    return {
        "recall_at_1": 100 * found.recall[1],
        "map_at_r": 100 * found.map_at_r,
        "among_all": 100 * float(retrieve(vectors, labels).right[unseen].mean()),
    }


def embed_test(
    network: effnets.Classifier, groceries: Path, size: int | None
) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    photos = sorted((groceries / "test").glob("*/*.jpg"))
    return effnets.embed(network, photos, input_size=size), np.array([photo.parent.name for photo in photos])


def distill(arguments: argparse.Namespace, groceries: Path) -> str:
    """Let MobileNetV1 x0.25 learn MobileNetV2's embedding; return the table."""
    teacher = effnets.create_model(TEACHER, weights=arguments.shared / TEACHER_WEIGHTS)
    student = effnets.create_model(MODEL, weights=arguments.shared / STUDENT_WEIGHTS)
    rows = {}
    # The student's own size for both, since a teacher sees the images that its student does.
    for name, network, size in (("teacher, MobileNetV2", teacher, 224), ("the same at 128", teacher, 128),
                                ("MobileNetV1 x0.25, untrained", student, 128)):  # fmt: skip
        file = arguments.runs / f"distill-{name.replace(' ', '_')}.json"
        rows[name] = kept(file, lambda network=network, size=size: recall_of_all(network, groceries, size))
    for seed in map(int, arguments.seeds.split(",")):
        run = arguments.runs / f"student-{arguments.epochs}-{seed}"

        def train(seed: int = seed, run: Path = run) -> dict[str, float]:
            recipe = effnets.Recipe(
                model=MODEL,
                task="embed",
                weights=str(arguments.shared / STUDENT_WEIGHTS),
                teacher=TEACHER,
                teacher_weights=str(arguments.shared / TEACHER_WEIGHTS),
                distillation_type="embedding",
                teacher_share=1.0,
                epochs=arguments.epochs,
                seed=seed,
                embedding=EmbeddingSettings(size=teacher.head_hidden_size),
                **arguments.changes,
            )
            return recall_of_all(effnets.finetune(recipe, groceries, run, resume=True).load(), groceries, 128)

        rows[f"MobileNetV1 x0.25, learned, seed {seed}"] = kept(run.with_name(f"{run.name}.json"), train)
    first = next(iter(rows.values()))["recall_at_1"]
    lines = ["| | recall@1 in % | of the teacher's in % | MAP@R in % |", "|---|---:|---:|---:|"]
    for name, row in rows.items():
        share = 100 * row["recall_at_1"] / first
        lines.append(f"| {name} | {row['recall_at_1']:.1f} | {share:.1f} | {row['map_at_r']:.1f} |")
    return "\n".join(lines)


def recall_of_all(network: effnets.Classifier, groceries: Path, size: int) -> dict[str, float]:
    vectors, names = embed_test(network, groceries, size)
    found = retrieve(vectors, np.unique(names, return_inverse=True)[1])
    return {"recall_at_1": 100 * found.recall[1], "map_at_r": 100 * found.map_at_r}


def unpack(shared: Path, runs: Path) -> Path:
    runs.mkdir(parents=True, exist_ok=True)
    if not (runs / "grocery20").exists():
        with tarfile.open(shared / "data" / "grocery20.tar") as archive:
            archive.extractall(runs, filter="data")
    return runs / "grocery20"


def leave_out(groceries: Path, left_out: Sequence[str], folder: Path) -> Path:
    """Make a folder of links: the classes to train on in train/, those that are left out in test/."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for source in sorted((groceries / split).iterdir()):
            link = folder / split / source.name
            if (source.name in left_out) == (split == "test") and not link.exists():
                link.symlink_to(source.resolve())
    return folder


def kept(file: Path, run: Callable[..., dict[str, float]], *given: Any) -> dict[str, float]:
    """Return what an earlier run wrote, or run, and write it."""
    if not file.exists():
        write_whole(file, json.dumps(run(*given)).encode())
    found: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return found


def spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def replace_table(page: Path, table: str, begin: str, end: str) -> None:
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    write_whole(page, f"{before}{begin}\n{table}\n{end}{after}".encode())


if __name__ == "__main__":
    main()
