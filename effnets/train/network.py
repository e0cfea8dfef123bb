"""The network that a training begins with, and the teacher it may have."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from effnets.data.dataset import ImageDataset
from effnets.data.eval_loader import Pictures
from effnets.data.sampling import some_images
from effnets.errors import ArgumentError, TrainingError
from effnets.factory import create_model
from effnets.inference.transform import create_transform
from effnets.nn.classifier import Classifier
from effnets.nn.freeze import freeze, hold_statistics, parse_until
from effnets.train.bn_calibration import adapt_statistics, has_identity_statistics, restore_statistics
from effnets.train.loss import Teacher
from effnets.train.recipe import Recipe
from effnets.train.shutdown import StopSignals

__all__ = [
    "adapt_backbone",
    "adapts_backbone",
    "build_network",
    "freeze_by",
    "load_teacher",
    "place",
    "restore_if_identity",
]

# Enough for means and variances: every picture gives each channel hundreds of values in all but the last layers.
_MEASURED_PICTURES = 512


def build_network(recipe: Recipe, class_names: Sequence[str]) -> tuple[Classifier, bool]:
    """The network of a recipe with a classifier for these classes, its own weights loaded.

    Draws from torch's global generator. The size of the recipe becomes the network's own.

    Returns:
        The network, and whether its weights know these classes, as those of an earlier training do.

    Raises:
        as `effnets.create_model`.
    """
    published, drawn = recipe.weights == "pretrained", recipe.weights == "random"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*newly initialised")  # that is the plan
        network = create_model(
            recipe.model,
            pretrained=published,
            weights=None if published or drawn else recipe.weights,
            num_classes=len(class_names),
            drop_rate=recipe.drop_rate,
            drop_path_rate=recipe.drop_path_rate,
        )
    known = not drawn and network.class_names == tuple(class_names)
    if not published and not drawn and not known:
        # A classifier of as many classes, but of others: none of its knowledge is about ours.
        network.reset_classifier(len(class_names))
    network.class_names = tuple(class_names)
    if recipe.image_size is not None:
        preprocess = replace(
            network.spec.preprocess, input_size=recipe.image_size, test_input_size=None, test_crop_pct=None
        )
        network.spec = replace(network.spec, preprocess=preprocess)
    return network, known


def freeze_by(recipe: Recipe, network: Classifier) -> None:
    """Freeze what the recipe says, and hold the batch statistics it says.

    Raises:
        TrainingError: the network has fewer stages.
    """
    try:
        freeze(network, parse_until(recipe.freeze))
    except ArgumentError as error:
        raise TrainingError(f"freeze is {recipe.freeze!r}, for {recipe.model}: {error}") from None
    if recipe.bn == "eval":
        hold_statistics(network)


def place(network: Classifier, device: torch.device) -> None:
    """Move a network to a device, its channels innermost in memory."""
    network.to(device)
    network.to(memory_format=torch.channels_last)


def restore_if_identity(
    recipe: Recipe, network: Classifier, source: ImageDataset, stop: StopSignals, *, strict: bool
) -> str | None:
    """Measure batch statistics where the weights came without any; a note for the user if that was so.

    Raises:
        TrainingInterruptedError: a signal asked to end.
    """
    if recipe.weights == "random" or not has_identity_statistics(network):
        return None
    seen = restore_statistics(network, _some_images(recipe, network, source, stop, strict=strict))
    return (
        "the weights came with batch normalisation folded away, so there were no statistics to train with; they were "
        f"measured on {seen} training pictures, and the network computes what it did"
    )


def adapts_backbone(recipe: Recipe, network: Classifier) -> bool:
    """Whether a linear probe moves the backbone's batch statistics towards those of the training pictures.

    Weights whose normalisations are folded away have none that could be moved.
    """
    return recipe.freeze == "backbone" and recipe.bn == "train" and not has_identity_statistics(network)


def adapt_backbone(
    recipe: Recipe, network: Classifier, source: ImageDataset, stop: StopSignals, *, strict: bool
) -> dict[str, Tensor]:
    """Move batch statistics halfway to those of the training pictures, or less far where these are few.

    Returns:
        The statistics, by their names in the network's state.

    Raises:
        DataError: with `strict`, a picture cannot be read; without, more than 5 % and more than 3.
        TrainingInterruptedError: a signal asked to end.
    """
    images = _some_images(recipe, network, source, stop, strict=strict)
    device = next(network.parameters()).device
    placed = (batch.to(device, memory_format=torch.channels_last) for batch in images)
    adapt_statistics(network, placed, own=_MEASURED_PICTURES)
    state = network.state_dict()
    return {name: state[name].cpu() for name in state if name.endswith(("running_mean", "running_var"))}


def _some_images(
    recipe: Recipe, network: Classifier, source: ImageDataset, stop: StopSignals, *, strict: bool
) -> Iterator[Tensor]:
    chosen = some_images(source, recipe.seed, _MEASURED_PICTURES)
    pictures = Pictures(source, create_transform(network), recipe.batch_size, chosen.tolist(), strict=strict)
    return (images for images, _ in stop.between(pictures, "batch statistics were measured"))


def load_teacher(recipe: Recipe, pupil: Classifier) -> Teacher | None:
    """Whom the recipe names to learn from.

    Raises:
        TrainingError: the teacher does not know these classes.
        as `effnets.create_model`: it cannot be loaded.
    """
    if recipe.teacher is None:
        return None
    if Path(recipe.teacher).is_file() and Path(recipe.teacher).suffix not in (".yaml", ".yml"):
        raise TrainingError(
            f"teacher {recipe.teacher} is a file, which does not say of which network; name the folder of a training, "
            "or one that save_pretrained wrote"
        )
    network = create_model(recipe.teacher, pretrained=True)
    return Teacher(network, pupil, _outputs(recipe.teacher, network, pupil))


def _outputs(name: str, teacher: Classifier, pupil: Classifier) -> Tensor | None:
    """The teacher's output for each class of the pupil."""
    ours, theirs = pupil.class_names, teacher.class_names
    if ours is None or theirs is None:
        if teacher.num_classes == pupil.num_classes:
            return None
        raise TrainingError(
            f"teacher {name} has {teacher.num_classes} outputs without names for {pupil.num_classes} classes; "
            "fine-tune it on these classes first, and name its folder"
        )
    missing = [label for label in ours if label not in theirs]
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise TrainingError(
            f"teacher {name} does not know {len(missing)} of {len(ours)} classes ({shown}); fine-tune it on these "
            "classes first, and name its folder"
        )
    return None if ours == theirs else torch.tensor([theirs.index(label) for label in ours])
