"""The model that a training starts with."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from effnets.errors import ArgumentError, TrainingError
from effnets.factory import create_model
from effnets.nn.classifier import Classifier
from effnets.nn.freeze import freeze, freeze_statistics, parse_until
from effnets.nn.mixed_depthwise import use_mixed_kernel
from effnets.spec.specs import ClassifierActivation, ModelSpec
from effnets.train.recipe import Recipe
from effnets.utils.machine import describe_machine


def build_model(
    recipe: Recipe,
    class_names: Sequence[str] | None,
    *,
    num_outputs: int | None = None,
    activation: ClassifierActivation = "softmax",
    spec: ModelSpec | None = None,
    device: str | torch.device | None = None,
) -> tuple[Classifier, bool]:
    """Build a recipe's model with a classifier for these classes, load its weights, and freeze what the recipe says.

    Draws from torch's global generator. The recipe's image size, mean and std become the model's own. `spec` is built
    in place of the recipe's model, with random weights, on `device`. Without class names there are `num_outputs`. The
    `activation` is as of `Classifier.classifier_activation`; a classifier that was trained for another one is not kept.

    Returns:
        The model, and whether its weights have a classifier for these classes, as those of an earlier training do.

    Raises:
        TrainingError: if the model has fewer stages than `freeze`.
        as `effnets.create_model`.
    """
    pretrained, random = recipe.weights == "pretrained", recipe.weights == "random"
    names = None if class_names is None else tuple(class_names)
    num_outputs = len(names) if names is not None else num_outputs
    # Without the argument, a saved network keeps its own.
    saved_or_given: dict[str, Any] = {} if recipe.in_chans is None else {"in_chans": recipe.in_chans}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*newly initiali[sz]ed")  # as intended
        model = create_model(
            recipe.model if spec is None else spec,
            pretrained=pretrained,
            weights=None if pretrained or random else recipe.weights,
            num_classes=num_outputs,
            drop_rate=recipe.drop_rate,
            drop_path_rate=recipe.drop_path_rate,
            mean=recipe.mean,
            std=recipe.std,
            device=device,
            **saved_or_given,
        )
    model.spec.preprocess.for_channels(model.in_chans)  # to refuse other numbers of means before all else
    has_class_head = not random and (model.class_names, model.classifier_activation) == (names, activation)
    if not random and not has_class_head and (not pretrained or activation != "softmax"):
        # As many classes, but others: what the classifier knows is not about these.
        model.reset_classifier(model.num_classes)
    model.class_names, model.classifier_activation, model.thresholds = names, activation, None
    if recipe.image_size is not None:
        preprocess = replace(
            model.spec.preprocess, input_size=recipe.image_size, test_input_size=None, test_crop_pct=None
        )
        model.spec = replace(model.spec, preprocess=preprocess)
    try:
        freeze(model, parse_until(recipe.freeze))
    except ArgumentError as error:
        raise TrainingError(f"freeze is {recipe.freeze!r}, for {recipe.model}: {error}") from None
    if recipe.bn == "eval":
        freeze_statistics(model)
    return model, has_class_head


def require_batch_of_one(model: Classifier, recipe: Recipe) -> None:
    """Raise a TrainingError if a batch of one image leaves a normalization with a single value of some channel."""
    size = model.spec.input_size
    trial = copy.deepcopy(model).train()
    try:
        with torch.no_grad():
            trial(torch.zeros(1, model.in_chans, size, size))
    except ValueError:
        raise TrainingError(
            f"forward passes are of 1 image (batch_size {recipe.batch_size}, accumulate {recipe.accumulate}), and "
            f"{recipe.model} has layers that cannot normalize by one: raise batch_size, lower accumulate, or set bn to "
            "eval"
        ) from None


def to_device(model: Classifier, device: torch.device) -> None:
    """Move a model to a device, in the channels_last memory format; on CUDA, mixed convolutions become one operator."""
    model.to(device)
    model.to(memory_format=torch.channels_last)
    if device.type == "cuda":
        use_mixed_kernel(model)


def choose_precision(device: torch.device) -> str:
    """Return ``bfloat16`` where `device` has matrix units for it, else ``float32``.

    GPUs have them from compute capability 8.0 (Ampere) on, CPUs with AMX. With vectors alone (AVX512-BF16) MixNet-S
    trained at 0.7 of the speed of float32, and ReXNet and MobileNetV2 at about the same (`scripts/benchmark_train.py`).
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and "amx_bf16" in describe_machine().features
    return "bfloat16" if native else "float32"
