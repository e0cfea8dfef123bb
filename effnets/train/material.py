"""What a training works on, put together and checked before anything is written or takes time."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch

from effnets.data.dataset import ImageDataset
from effnets.data.splits import Splits
from effnets.errors import TrainingError
from effnets.nn.classifier import Classifier
from effnets.train.loss import Teacher
from effnets.train.network import build_network, freeze_by, load_teacher
from effnets.train.optim import learning_rate, make_optimizer
from effnets.train.recipe import Recipe

__all__ = ["Material", "gather"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a training works on.

    Attributes:
        recipe: with the learning rate that suits the network, where none was stated.
        network: with the weights that it begins with, frozen as far as it will be.
        knows_classes: whether these weights know the classes already.
        teacher: to learn from as well.
        splits: the data.
        train: those of them to be learned from.
    """

    recipe: Recipe
    network: Classifier
    knows_classes: bool
    teacher: Teacher | None
    splits: Splits
    train: ImageDataset


def gather(recipe: Recipe, splits: Splits, data: str) -> Material:
    """Put together what `recipe` needs; draws from torch's global generator, which it seeds.

    Raises:
        TrainingError: `data` has too few training pictures, the network cannot learn from one at a time, or the teacher
            or what is to be frozen does not fit.
        ArgumentError: there is no such optimiser, or it does not take its settings.
        as `effnets.create_model`: the network cannot be loaded.
    """
    train = splits.train
    if train is None:
        raise TrainingError(f"{data}: has no training pictures; put them into train/")
    if len(train) < recipe.accumulate:
        raise TrainingError(
            f"accumulate is {recipe.accumulate}, and {data} has {len(train)} training pictures, of which each forward "
            f"pass of a step takes one at least; lower accumulate to {len(train)} or less"
        )
    torch.manual_seed(recipe.seed)
    network, known = build_network(recipe, train.class_names)
    freeze_by(recipe, network)
    if min(recipe.batch_size, len(train) // recipe.accumulate) == 1:
        _require_batch_of_one(network, recipe)
    make_optimizer(network, recipe)  # made again when it is needed; what its settings lack is told now
    return Material(
        recipe=replace(recipe, learning_rate=learning_rate(recipe, network)),
        network=network,
        knows_classes=known,
        teacher=load_teacher(recipe, network),
        splits=splits,
        train=train,
    )


def _require_batch_of_one(network: Classifier, recipe: Recipe) -> None:
    """Raise a TrainingError where a batch of one picture leaves a normalisation a single value of some channel."""
    size = network.spec.input_size
    trial = copy.deepcopy(network).train()
    try:
        with torch.no_grad():
            trial(torch.zeros(1, network.in_chans, size, size))
    except ValueError:
        raise TrainingError(
            f"forward passes are of 1 picture (batch_size {recipe.batch_size}, accumulate {recipe.accumulate}), and "
            f"{recipe.model} has layers that cannot normalise by one: raise batch_size, lower accumulate, or set bn to "
            "eval"
        ) from None
