"""The section of weights.md about the demonstration network, from the record that lies beside its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from effnets.cost import count
from effnets.paths import packaged_weights_dir
from effnets.train.recipe import Recipe
from effnets.train.recipe_file import find_recipe, read_recipe
from effnets.weights_spec import WeightsSpec

__all__ = ["make_section"]

RECIPE = "cifar10_demo"
DATA = "../shared/data/cifar10"


def make_section(weights: WeightsSpec) -> str:
    """What the network is, how it was trained, what it reaches, and every epoch of it."""
    record = json.loads((packaged_weights_dir() / weights.file).with_suffix(".json").read_text(encoding="utf-8"))
    return "\n".join(
        [
            "\n## Demonstration network\n",
            f"`{weights.name}` lies in the package: `effnets predict photo.jpg`, where no model is named, answers",
            f"with it, without network. It knows CIFAR-10's {len(record['classes'])} classes and nothing else:",
            f"{', '.join(record['classes'])}.",
            "Its accuracy was measured here, on CIFAR-10's test pictures, and stands apart from ImageNet's figures: it",
            "is in neither of the plots, nor does `effnets choose` know it.\n",
            *table(facts(weights, record)),
            "\n```console",
            f"$ effnets train {RECIPE} {DATA} --output run{''.join(other_settings(record))}",
            f"$ uv run scripts/make_demo_weights.py run {DATA}    # float16, measured, pinned, and this section",
            f"$ effnets eval {DATA} --model {weights.model}",
            "```\n",
            f"Settings of [{RECIPE}](configs/recipes/{RECIPE}.yaml) as they were, beside the defaults: "
            f"{', '.join(named_settings(record))}.\n",
            *table(epochs(record)),
            "",
        ]
    )


def facts(weights: WeightsSpec, record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """What is to be known of the file, as rows."""
    cost = count(weights.name)
    low, high = record["top1_interval"]
    images = record["images"]
    average = ", moving average of the weights" if record["best_is_average"] else ""
    yield f"`{weights.name}`", ""
    yield "---", "---"
    yield "top-1 on CIFAR-10's test set", f"**{record['top1']:.2f} %** (95 % interval {low:.2f} to {high:.2f})"
    yield "measured on", f"{record['test_images']:,} pictures, with this very file"
    if record["float32_top1"] is not None:
        yield "before rounding to float16", f"{record['float32_top1']:.2f} % of {images['test']:,}"
    if record["best_top1"] is not None:
        yield "chosen by validation", f"{record['best_top1']:.2f} %, epoch {record['best_epoch']}{average}"
    yield "trained on", f"{images['train']:,} pictures, {images['val']:,} more for validation; none of the test set"
    yield "seed", str(record["seed"])
    yield "parameters, MAdds", f"{cost.params:,}, {cost.madds / 1e6:.2f} M at {weights.preprocess.input_size} pixels"
    yield "file", f"`effnets/data/weights/{weights.file}`, float16, {record['bytes']:,} bytes"
    yield "sha256", f"`{record['sha256']}`"
    yield "licence", weights.licence
    yield "training", f"{record['seconds'] / 3600:.2f} hours, {record['precision']}, {record['machine']}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())


def epochs(record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The log, as rows: what validation said of the weights and of their moving average."""
    yield "epoch", "learning rate", "training loss", "validation top-1 (%)", "of the average", "pictures", "seconds"
    yield "---:", "---:", "---:", "---:", "---:", "---:", "---:"
    for row in record["epochs"]:
        yield (
            str(row["epoch"]),
            f"{row['learning_rate']:.4g}",
            number(row["train_loss"], 4),
            number(row["val_top1"], 2),
            number(row["average_top1"], 2),
            f"{row['images']:,}",
            f"{row['seconds']:,.0f}",
        )


def named_settings(record: dict[str, Any]) -> Iterator[str]:
    """The settings of the training that are not the defaults of a recipe."""
    defaults = dict(flat(asdict(Recipe(model=record["recipe"]["model"]))))
    for key, value in flat(record["recipe"]):
        if value != defaults.get(key):
            yield f"`{key}: {value}`"


def other_settings(record: dict[str, Any]) -> Iterator[str]:
    """What the command has to say because the recipe that comes along says otherwise."""
    recipe = dict(flat(asdict(read_recipe(find_recipe(RECIPE)))))
    for key, value in flat(record["recipe"]):
        if value != recipe.get(key):
            yield f" --set {key}={json.dumps(value)}"


def flat(settings: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by the names that ``--set`` takes: ``augmentation.mixup``."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")
        else:
            yield before + key, list(value) if isinstance(value, tuple) else value


def table(rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """Markdown."""
    return (f"| {' | '.join(row)} |" for row in rows)


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
