"""The section of weights.md about the demonstration network, from the record that lies beside its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from effnets.spec.cost import count
from effnets.spec.specs import WeightsSpec
from effnets.train.recipe import Recipe, find_recipe, read_recipe
from effnets.utils.paths import packaged_weights_dir

__all__ = ["make_section"]

# Of the first run, and of those that went on with its weights.
FIRST, FURTHER = "cifar10_demo", "cifar10_demo_further"
DATA = "../shared/data/cifar10"


def make_section(weights: WeightsSpec) -> str:
    """What the network is, how it was trained, what it reaches, and every epoch of it."""
    record = json.loads((packaged_weights_dir() / weights.file).with_suffix(".json").read_text(encoding="utf-8"))
    runs = [f"run{number}" for number, _ in enumerate(record["runs"], start=1)]
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
            *(command(number, run["recipe"]) for number, run in enumerate(record["runs"], start=1)),
            f"$ uv run scripts/make_demo_weights.py {' '.join(runs)} {DATA}",
            f"$ effnets eval {DATA} --model {weights.model}",
            "```",
            *(line for number, run in enumerate(record["runs"], start=1) for line in log(number, run)),
            "",
        ]
    )


def facts(weights: WeightsSpec, record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """What is to be known of the file, as rows."""
    cost = count(weights.name)
    low, high = record["top1_interval"]
    last = record["runs"][-1]
    images = last["images"]
    average = ", moving average of the weights" if last["best_is_average"] else ""
    seconds = sum(run["seconds"] for run in record["runs"])
    yield f"`{weights.name}`", ""
    yield "---", "---"
    yield "top-1 on CIFAR-10's test set", f"**{record['top1']:.2f} %** (95 % interval {low:.2f} to {high:.2f})"
    yield "measured on", f"{record['test_images']:,} pictures, with this very file"
    if record["float32_top1"] is not None:
        yield "before rounding to float16", f"{record['float32_top1']:.2f} % of {images['test']:,}"
    if last["best_top1"] is not None:
        yield "chosen by validation", f"{last['best_top1']:.2f} %, epoch {last['best_epoch']}{average}"
    yield "trained on", f"{images['train']:,} pictures, {images['val']:,} more for validation; none of the test set"
    yield "seed", str(last["seed"])
    yield "parameters, MAdds", f"{cost.params:,}, {cost.madds / 1e6:.2f} M at {weights.preprocess.input_size} pixels"
    yield "file", f"`effnets/assets/weights/{weights.file}`, float16, {record['bytes']:,} bytes"
    yield "sha256", f"`{record['sha256']}`"
    yield "licence", weights.licence
    yield "training", f"{seconds / 3600:.2f} hours, {last['precision']}, {last['machine']}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in last["versions"].items())


def recipe_name(number: int) -> str:
    """The recipe of the run of this number."""
    return FIRST if number == 1 else FURTHER


def command(number: int, recipe: dict[str, Any]) -> str:
    """What makes the run again: with what the recipe that comes along says otherwise, of settings that there are."""
    shipped = dict(flat(asdict(read_recipe(find_recipe(recipe_name(number))))))
    changes = [f" --set {key}={value}" for key, value in flat(recipe) if key in shipped and value != shipped[key]]
    return f"$ effnets train {recipe_name(number)} {DATA} --output run{number}{''.join(changes)}"


def log(number: int, run: dict[str, Any]) -> Iterator[str]:
    """The settings of a run and its epochs: what validation said of the weights and of their moving average."""
    defaults = dict(flat(asdict(Recipe(model=run["recipe"]["model"]))))
    settings = (f"`{key}: {value}`" for key, value in flat(run["recipe"]) if value != defaults.get(key, value))
    name = recipe_name(number)
    yield f"\n### run{number}\n"
    yield f"Settings of `configs/recipes/{name}.yaml` as they were, beside the defaults:"
    yield f"{', '.join(settings)}.\n"
    yield from table(epochs(run))


def epochs(run: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Rows of the log."""
    yield "epoch", "learning rate", "training loss", "validation top-1 (%)", "of the average", "pictures", "seconds"
    yield "---:", "---:", "---:", "---:", "---:", "---:", "---:"
    for row in run["epochs"]:
        yield (
            str(row["epoch"]),
            f"{row['learning_rate']:.4g}",
            number_or_dash(row["train_loss"], 4),
            number_or_dash(row["val_top1"], 2),
            number_or_dash(row["average_top1"], 2),
            f"{row['images']:,}",
            f"{row['seconds']:,.0f}",
        )


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


def number_or_dash(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
