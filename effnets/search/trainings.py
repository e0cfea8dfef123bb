"""Train a candidate of a study or a search from scratch, once: a finished training is read, an interrupted resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Protocol, TypeVar

import yaml

from effnets.errors import ConfigError, TrainingError
from effnets.spec.cost import stage_costs, sum_costs
from effnets.spec.entries import encode_entry
from effnets.spec.models import load_spec
from effnets.spec.plan import make_plan
from effnets.spec.specs import ModelSpec
from effnets.train.callbacks import Callback, ProgressCallback
from effnets.train.checkpoint import RECIPE, Checkpointer, finished_metrics, write_file
from effnets.train.recipe import Recipe, encode_recipe, read_recipe
from effnets.train.run import finetune

_MODEL = "candidate.yaml"  # finetune's own model.yaml has the classes of the data


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What one training reached.

    Attributes:
        val_top1: of the best weights on validation, in per cent.
        test_top1: of these on test/; None without test images.
        seconds: of the whole training, all processes that worked on it.
        params, madds: of the network with a classifier for the data's classes, for one image.
    """

    val_top1: float
    test_top1: float | None
    seconds: float
    params: int
    madds: int

    @property
    def top1(self) -> float:
        """In per cent, on test images if there are any, else on validation."""
        return self.val_top1 if self.test_top1 is None else self.test_top1


class NamedSpec(Protocol):
    """A network of a study."""

    @property
    def name(self) -> str:
        """Unique in the study; part of a folder's name."""

    @property
    def spec(self) -> ModelSpec:
        """What is trained."""


Subject = TypeVar("Subject", bound=NamedSpec)


def train_all(
    networks: Sequence[Subject],
    data: str | os.PathLike[str],
    recipe: Recipe,
    folder: Path,
    *,
    seeds: int,
    progress: Callable[[str, float], object] | None = None,
) -> Iterator[tuple[Subject, int, TrainingResult]]:
    """Train all networks with one seed before the next, below ``folder/trainings``; yield network, seed and result.

    Trainings that are there are not repeated, and an interrupted one goes on.

    Args:
        networks: of the study. data, recipe: as of `train_candidate`. folder: of the study.
        seeds: trainings of each network.
        progress: called with what is being done, and the share of all that is done, 0 to 1.

    Raises:
        as `train_candidate`.
    """
    pairs = list(product(range(seeds), networks))
    for done, (seed, network) in enumerate(pairs):
        title = f"{network.name}, seed {seed}"

        def report(what: str, share: float, title: str = title, done: int = done) -> None:
            if progress is not None:
                progress(f"{title}: {what}", (done + share) / len(pairs))

        place = folder / "trainings" / f"{network.name}-seed{seed}"
        yield network, seed, train_candidate(network.spec, data, recipe, place, seed=seed, progress=report)


def train_candidate(
    spec: ModelSpec,
    data: str | os.PathLike[str],
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    progress: Callable[[str, float], object] | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainingResult:
    """Train `spec` from random weights by `effnets.finetune` into `folder`; its model, weights and seed replace the
    recipe's.

    A finished training of the same network, data, recipe and seed there is not repeated; an interrupted one goes on, to
    the bit as undisturbed. The folder, which may be moved, also holds `spec` as ``candidate.yaml``.

    Raises:
        TrainingError: if the folder holds a training of another network, recipe, seed or data; the message names what
            differs. Or without images for validation.
        TrainingInterruptedError: if a signal was received; call again to go on.
        as `effnets.finetune`.
    """
    folder = folder.resolve()
    recipe = replace(recipe, model=str(folder / _MODEL), weights="random", seed=seed)
    _check_folder(folder, spec, data, recipe)
    if not (folder / _MODEL).exists():
        entry = yaml.safe_dump({"candidate": encode_entry(spec)}, sort_keys=False, allow_unicode=True)
        write_file(folder / _MODEL, entry.encode())
    bar = [] if progress is None else [ProgressCallback(progress)]
    metrics = finetune(recipe, data, folder, resume=True, callbacks=[*bar, *callbacks]).metrics
    if metrics["best_top1"] is None:
        raise TrainingError(f"{data}: has no images for validation; add some, or raise the recipe's val_share above 0")
    plan = make_plan(spec, in_chans=recipe.in_chans or 3, num_classes=len(metrics["classes"]))
    cost = sum_costs(stage_costs(plan, recipe.image_size or spec.input_size))
    return TrainingResult(
        val_top1=metrics["best_top1"],
        test_top1=metrics["test_top1"],
        seconds=metrics["seconds"],
        params=cost.params,
        madds=cost.madds,
    )


def _check_folder(folder: Path, spec: ModelSpec, data: str | os.PathLike[str], recipe: Recipe) -> None:
    """Refuse a folder with another training; writes nothing but the place of a folder that was moved."""
    network = folder / _MODEL
    if network.exists() and not _describes(network, spec):
        raise TrainingError(f"{folder}: holds a training of another network than {spec.name}; name another folder")
    if network.exists() and (folder / RECIPE).exists():
        before = read_recipe(folder / RECIPE)
        if before.model != recipe.model:
            write_file(folder / RECIPE, encode_recipe(replace(before, model=recipe.model)).encode())
    # `finetune` would take what the recipe leaves at its default from the folder, the seed among it.
    Checkpointer(folder, recipe).check(os.fspath(data), resume=True)
    metrics = finished_metrics(folder)
    if metrics is not None and os.fspath(data) != metrics["data"] and str(Path(data).resolve()) != metrics["data_path"]:
        raise TrainingError(f"{folder}: was trained on {metrics['data']}, not on {data}; name another folder")


def _describes(path: Path, spec: ModelSpec) -> bool:
    try:
        return encode_entry(load_spec(path)) == encode_entry(spec)
    except ConfigError as error:
        raise TrainingError(f"{error}; name another folder") from None
