"""Put a trained network into the package as its demonstration network: weights, record, pin, and weights.md.

uv run scripts/make_demo_weights.py RUN… ../shared/data/cifar10

RUN is a finished folder of `effnets train cifar10_demo`; or several, each of which went on with the weights of the one
before it. The weights of the last are written in float16, and what they answer for the test pictures in that precision
is what the record states. The same runs give the same files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import make_weights_table
import torch
from pin_weights import write_pins

import effnets
from effnets.errors import EffnetsError
from effnets.evaluation import Evaluation
from effnets.nn.classifier import Classifier
from effnets.spec.entries import encode_entry
from effnets.spec.specs import ModelSpec
from effnets.spec.weights import Pin, clear_cache, find_weights, read_pins, shipped_pins_path
from effnets.train.checkpoint import finished_metrics
from effnets.utils.atomic_file import write_whole
from effnets.utils.paths import packaged_weights_dir

NAME = "mixnet_xs_32px.cifar10"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NUMBERS = tuple(str(number) for number in range(len(CLASSES)))
MAX_BYTES = 1_500_000

# What the record takes over from metrics.json: nothing that only means something on the machine of the training.
TAKEN = (
    *("best_top1", "best_epoch", "best_is_average", "images", "epochs", "seconds", "precision", "processes", "seed"),
    *("written", "versions", "machine"),
)
# What all runs have to agree on: otherwise a later one would be validated by pictures that an earlier one learned from.
SPLIT = ("seed", "val_share")


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a trained network into the package.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="a finished folder of 'effnets train'")
    parser.add_argument("data", type=Path, help="CIFAR-10, with its test pictures")
    arguments = parser.parse_args()
    try:
        install(arguments.runs, arguments.data)
    except (EffnetsError, OSError) as error:
        sys.exit(str(error))
    sys.argv = sys.argv[:1]
    make_weights_table.main()


def install(runs: Sequence[Path], data: Path) -> None:
    """Write the three files. A pin that is not the file's is refused on loading, so it comes last.

    Raises:
        EffnetsError, OSError: a run or the data are not what is wanted, or the disk refuses.
    """
    metrics = [read_metrics(run) for run in runs]
    require_one_split(runs, metrics)
    content = encode(runs[-1])
    evaluation = measure(content, data)
    record = make_record(metrics, content, evaluation)
    target = packaged_weights_dir() / find_weights(NAME).file
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_whole(target, content)
    write_whole(target.with_suffix(".json"), text.encode())
    pins = dict(read_pins(shipped_pins_path()))
    write_pins(shipped_pins_path(), {**pins, NAME: Pin(sha256=record["sha256"])})
    clear_cache()
    print(f"{target.name}: {len(content):,} bytes, top-1 {evaluation.top1:.2f} % on {evaluation.count:,} test pictures")


def read_metrics(run: Path) -> dict[str, Any]:
    """What a finished run says of itself.

    Raises:
        EffnetsError: it is not finished, or no run at all.
    """
    metrics = finished_metrics(run)
    if metrics is None:
        raise EffnetsError(f"{run}: no finished training; name a folder of 'effnets train cifar10_demo', or resume it")
    return metrics


def require_one_split(runs: Sequence[Path], metrics: Sequence[dict[str, Any]]) -> None:
    """Refuse runs that divide the pictures differently.

    Raises:
        EffnetsError: names the run and the setting.
    """
    for key in SPLIT:
        first, *others = (run["recipe"][key] for run in metrics)
        for path, value in zip(runs[1:], others, strict=True):
            if value != first:
                raise EffnetsError(
                    f"{path}: {key} is {value}, and {first} in {runs[0]}, whose training pictures it validates by; "
                    f"train it again with --set {key}={first}"
                )


def encode(run: Path) -> bytes:
    """The run's network as a safetensors file in float16, under the zoo's name and with the names of the classes.

    Raises:
        EffnetsError: it is another network, or too large.
    """
    network = effnets.create_model(run, pretrained=True)
    require_same(run, network.spec, effnets.load_spec(NAME))
    names = network.class_names or NUMBERS
    if names not in (CLASSES, NUMBERS):
        raise EffnetsError(f"{run}: was trained on other classes than CIFAR-10's: {', '.join(names)}")
    packaged = effnets.create_model(NAME, dtype=torch.float16)
    packaged.load_state_dict(network.state_dict())
    packaged.class_names = CLASSES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        effnets.save_weights(packaged, path)
        content = path.read_bytes()
    if len(content) > MAX_BYTES:
        raise EffnetsError(f"{run}: makes a file of {len(content):,} bytes; at most {MAX_BYTES:,} go into the package")
    return content


def require_same(run: Path, found: ModelSpec, wanted: ModelSpec) -> None:
    """Refuse a network that is not the zoo's, whatever its table called it."""
    ours, theirs = (encode_entry(replace(spec, family=wanted.family)) for spec in (wanted, found))
    differing = [
        f"{key} {theirs.get(key, 'by default')}, not {ours.get(key, 'by default')}"
        for key in ours | theirs
        if theirs.get(key) != ours.get(key)
    ]
    if differing:
        raise EffnetsError(f"{run}: is no {wanted.name}: it has {'; '.join(differing)}")


def measure(content: bytes, data: Path) -> Evaluation:
    """What the file answers for the test pictures: those that never selected anything."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        network: Classifier = effnets.create_model(NAME.partition(".")[0], weights=path)
    evaluation = effnets.evaluate(network.eval(), data, batch_size=100, strict=True)
    if evaluation.split != "test":
        raise EffnetsError(f"{data}: has no test pictures, only {evaluation.split}; name the whole of CIFAR-10")
    return evaluation


def make_record(metrics: Sequence[dict[str, Any]], content: bytes, evaluation: Evaluation) -> dict[str, Any]:
    """What is to be known of the weights, as ``effnets/assets/weights`` keeps it."""
    return {
        "weights": NAME,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "classes": list(CLASSES),
        "top1": evaluation.top1,
        "top1_interval": list(evaluation.interval),
        "test_images": evaluation.count,
        "float32_top1": metrics[-1]["test_top1"],
        "runs": [
            {**{key: run[key] for key in TAKEN}, "recipe": portable(run["recipe"], number)}
            for number, run in enumerate(metrics, start=1)
        ],
    }


def portable(recipe: dict[str, Any], number: int) -> dict[str, Any]:
    """The recipe of a run without this machine's paths: runs are called run1, run2, … as in weights.md's commands."""
    weights = recipe["weights"] if number == 1 else f"run{number - 1}"
    return recipe | {"model": NAME.partition(".")[0], "weights": weights}


if __name__ == "__main__":
    main()
