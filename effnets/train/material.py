"""What a training works on, put together and checked before anything is written or takes time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from effnets.errors import TrainingError
from effnets.nn.classifier import Classifier
from effnets.train.data.source import ImageSource
from effnets.train.data.splits import Splits
from effnets.train.network import build_network, freeze_by, load_teacher
from effnets.train.objective import Teacher
from effnets.train.optimise import learning_rate, make_optimizer
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
    train: ImageSource


def gather(recipe: Recipe, splits: Splits, data: str) -> Material:
    """Put together what `recipe` needs; draws from torch's global generator, which it seeds.

    Raises:
        TrainingError: `data` has too few training pictures, or the teacher or what is to be frozen does not fit.
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
    make_optimizer(network, recipe)  # made again when it is needed; what its settings lack is told now
    return Material(
        recipe=replace(recipe, learning_rate=learning_rate(recipe, network)),
        network=network,
        knows_classes=known,
        teacher=load_teacher(recipe, network),
        splits=splits,
        train=train,
    )
