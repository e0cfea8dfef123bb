"""Where a training's pictures come from: decoded once where memory allows, shuffled, shared among processes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from effnets.data.cache import CACHE_BYTES, CachedDataset, cache_all
from effnets.data.dataset import ImageDataset
from effnets.data.eval_loader import Pictures, default_workers
from effnets.data.loader import EpochLoader
from effnets.data.transforms import TrainTransform
from effnets.inference.transform import create_transform
from effnets.train.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

    from effnets.nn.classifier import Classifier

__all__ = ["decoded_once", "judging_pictures", "training_batches"]

# Below, the smallest crops are brought to the input's size from fewer pixels than it has, and are blurred.
_MOST_SPARE = 2.0


def decoded_once(
    train: ImageDataset, recipe: Recipe, size: int, cached: bool | None, *, limit: int = CACHE_BYTES
) -> ImageDataset:
    """The training pictures, shrunk and kept in memory where the recipe lets them be and all of them fit.

    Shrunk pictures give crops that differ a little from those of whole ones: a training that is resumed does what it
    did before.

    Args:
        train: the pictures.
        recipe: of the training.
        size: side of the network's input in pixels.
        cached: whether they were, in a training that is resumed; None decides.
        limit: bytes of memory that all of them must fit into, in each training process.
    """
    spare = min(1 / math.sqrt(recipe.augmentation.scale[0]), _MOST_SPARE)
    side = math.ceil(spare * size)
    if cached is None:
        # To read all headers of shards on a server would fetch everything.
        asked = recipe.cache == "auto" and recipe.augmentation.crop == "resized" and train.shards is None
        return (cache_all(train, side, limit) if asked else None) or train
    return CachedDataset(train, side, limit) if cached else train


def training_batches(
    network: Classifier, train: ImageDataset, recipe: Recipe, accelerator: Accelerator, *, strict: bool
) -> EpochLoader:
    """This process's batches of the training pictures, augmented."""
    preprocess = network.spec.preprocess
    return EpochLoader(
        train,
        TrainTransform(preprocess, preprocess.input_size, recipe.augmentation),
        batch_size=max(min(recipe.batch_size, len(train) // recipe.accumulate), 1),
        order="balanced" if recipe.balance == "sampler" else "shuffled",
        seed=recipe.seed,
        multiple=recipe.accumulate,
        workers=default_workers() if recipe.workers is None else recipe.workers,
        corrupt_limit=0 if strict else None,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        device=accelerator.device,
        channels_last=recipe.channels_last,
    )


def judging_pictures(
    network: Classifier, source: ImageDataset, recipe: Recipe, accelerator: Accelerator, *, strict: bool
) -> Pictures:
    """This process's share of the pictures to judge by."""
    indices = range(accelerator.process_index, len(source), accelerator.num_processes)
    return Pictures(source, create_transform(network), recipe.batch_size, indices, strict=strict)
