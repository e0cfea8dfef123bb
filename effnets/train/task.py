"""What a network learns: how its data are read, what is minimized, and how it is measured. Here, a class an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from effnets.data.checks import allowed_corrupt, reasons
from effnets.data.dataset import cache_decoded
from effnets.data.eval_loader import default_workers
from effnets.data.open import DataConfig, open_data
from effnets.errors import DataError
from effnets.evaluation import Evaluation, evaluate
from effnets.evaluation.outputs import Outputs, compute_outputs
from effnets.evaluation.validate import ValidationLoader, validate
from effnets.factory import create_model
from effnets.inference.pipeline import Pipeline
from effnets.inference.predictor import Predictor
from effnets.inference.transform import create_transform
from effnets.report import write_report
from effnets.train.bn_calibration import restore_if_identity
from effnets.train.loss import Loss, make_loss
from effnets.train.model import build_model, require_batch_of_one
from effnets.train.trainer import TrainContext, TrainLoader, Validator
from effnets.weights.folder import CONFIG, WEIGHTS
from effnets.weights.save import save_pretrained, save_weights

if TYPE_CHECKING:
    from effnets.data.dataset import ImageDataset
    from effnets.data.loader import BatchSettings, LoaderSettings
    from effnets.data.splits import Splits
    from effnets.nn.classifier import Classifier
    from effnets.train.recipe import Recipe
    from effnets.train.run_state import Progress, RunState
    from effnets.train.teacher import Teacher

Measured = tuple[dict[str, Any], Callable[[Path], Path] | None]

# By the recipe's name for it; rooms that build on this one have theirs.
_TASKS = {
    "classify": "effnets.train.task:Task",
    "multilabel": "effnets.train.multilabel:Multilabel",
    "embed": "effnets.embeddings.metric_learning:MetricLearning",
    "detect": "effnets.detection.task:Detection",
}


def task_of(name: str) -> Task:
    """Return the task that a recipe calls `name`."""
    module, _, kind = _TASKS[name].partition(":")
    task: Task = getattr(import_module(module), kind)()
    return task


class Task:
    """Classification: each image has one class. Other tasks derive from it and replace what differs.

    Attributes:
        learns_classes: whether the network's last layer is a classifier of the data's classes, which a head start and
            linear probes train on features.
        unused: settings of a recipe that have no effect, which is said where they differ from their defaults.
    """

    learns_classes: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = ()

    def open_data(
        self, config: DataConfig, recipe: Recipe, progress: Callable[[str, float], object] | None = None
    ) -> Splits:
        """Open the data; raises as `effnets.data.open_data`."""
        return open_data(config, seed=recipe.seed, progress=progress)

    def build_model(self, recipe: Recipe, class_names: Sequence[str]) -> tuple[Any, bool]:
        """Return the network with its first weights, and whether these know the data's classes already."""
        return build_model(recipe, class_names)

    def check(self, model: Any, recipe: Recipe, train: ImageDataset) -> Sequence[str]:
        """Return notes for the user; raise a TrainingError if the model cannot train on the images like that."""
        if min(recipe.batch_size, len(train) // recipe.accumulate) == 1:
            require_batch_of_one(model, recipe)
        return ()

    def restore_statistics(self, model: Any, recipe: Recipe, train: ImageDataset, context: TrainContext) -> str | None:
        """Measure batch statistics if the weights lack them; return a message for the user if so."""
        return restore_if_identity(model, recipe, train, context)

    def cache(self, train: ImageDataset, model: Any, recipe: Recipe, cached: bool | None) -> ImageDataset:
        """Return the training images, kept in memory if they fit, or as a resumed run had them `cached`."""
        return cache_decoded(train, recipe.augmentation, model.spec.input_size, mode=recipe.cache, cached=cached)

    def make_loss(self, model: Any, recipe: Recipe, train: ImageDataset, teacher: Teacher | None) -> Loss:  # noqa: ARG002
        """Return the loss of a batch; what of it learns may draw from torch's global generator."""
        return make_loss(recipe, train, teacher)

    def make_train_loader(
        self, train: ImageDataset, model: Any, recipe: Recipe, context: TrainContext, state: RunState
    ) -> TrainLoader:
        """Return the loader of this process's batches of the training images, augmented."""
        from effnets.data.loader import EpochLoader
        from effnets.data.transforms import TrainTransform

        loader = EpochLoader(
            train,
            TrainTransform(model.spec.preprocess, None, recipe.augmentation, model.in_chans),
            **self.batches(recipe, train),
            **loader_settings(recipe, context, state),
            channels_last=recipe.channels_last,
        )
        state.track_corrupt("train", loader.corrupt.messages)
        return loader

    def batches(self, recipe: Recipe, train: ImageDataset) -> BatchSettings:
        """Return which images are in a batch."""
        return {
            "batch_size": max(min(recipe.batch_size, len(train) // recipe.accumulate), 1),
            "order": "balanced" if recipe.balance == "sampler" else "shuffled",
        }

    def make_validator(
        self, val: ImageDataset, model: Any, recipe: Recipe, context: TrainContext, state: RunState
    ) -> Validator:
        """Return what measures a network on the validation images, together with all processes."""
        loader = validation_loader(val, model, recipe, context, state)
        return lambda network: validate(network, loader, context.accelerator, context.shutdown)

    def save(self, model: Any, folder: Path) -> None:
        """Write the network into the folder of the run; raises an EffnetsError if the disk refuses."""
        if (folder / CONFIG).exists():
            save_weights(model, folder / WEIGHTS[0])  # the folder's other files stay true
        else:
            save_pretrained(model, folder)

    def load(self, folder: Path) -> nn.Module:
        """Load what `save` wrote."""
        return create_model(folder, pretrained=True)

    def measure(
        self, model: Any, splits: Splits, state: RunState, progress: Progress, context: TrainContext
    ) -> Measured:
        """Measure the best model.

        Returns:
            What is added to the metrics, and a function that writes the report, and what else was found out about the
            model, into a folder; None for nothing to write.

        Args:
            model: on the device that computes.
            splits: the images.
            state: receives messages about images that cannot be read.
            progress: of the training, for the report.
            context: devices, signals, callbacks.

        Raises:
            ImageError: if an image cannot be read, if the context is strict.
            DataError: if more than 5 % and more than 3 images cannot be read.
        """
        evaluation = evaluate_best(
            model, splits, state, context.progress("the result was measured"), strict=context.strict
        )
        if evaluation is None:
            return {}, None
        tested = evaluation.split == "test"
        found = {"test_top1": evaluation.top1, "test_loss": evaluation.loss} if tested else {}
        return found, lambda folder: write_report(folder, state.summary(model.cpu(), evaluation, progress))


def loader_settings(recipe: Recipe, context: TrainContext, state: RunState) -> LoaderSettings:
    """Return what of a recipe and its processes is the same for the training batches of all tasks."""
    return {
        "seed": recipe.seed,
        "passes": state.epoch_repeats,
        "multiple": recipe.accumulate,
        "workers": default_workers() if recipe.workers is None else recipe.workers,
        "corrupt_limit": 0 if context.strict else None,
        "rank": context.accelerator.process_index,
        "world_size": context.accelerator.num_processes,
        "device": context.accelerator.device,
    }


def validation_loader(
    val: ImageDataset, model: Any, recipe: Recipe, context: TrainContext, state: RunState
) -> ValidationLoader:
    """Return this process's share of the validation images."""
    share = range(context.accelerator.process_index, len(val), context.accelerator.num_processes)
    loader = ValidationLoader(val, create_transform(model), recipe.batch_size, share, strict=context.strict)
    state.track_corrupt("val", loader.corrupt.messages)
    return loader


def measure_outputs(
    predictor: Predictor,
    infer: Callable[[Sequence[Any]], NDArray[np.float32]] | None,
    images: ImageDataset,
    split: str,
    state: RunState,
    context: TrainContext,
) -> Outputs:
    """Return what the best model puts out for a split; images that cannot be read are left out, with a message.

    `predictor` and `infer` are as of `effnets.evaluation.outputs.compute_outputs`; raises as that.
    """
    report = context.progress("the result was measured")
    outputs = compute_outputs(
        Pipeline(predictor, batch_size=state.recipe.batch_size),
        images,
        infer,
        origin=f"{state.data}, {split}",
        strict=context.strict,
        progress=lambda share: report(f"measuring on {split}", share),
    )
    state.note_broken(split, [broken.reason for broken in outputs.broken])
    return outputs


def evaluate_best(
    model: Classifier, splits: Splits, state: RunState, progress: Callable[[str, float], object], *, strict: bool
) -> Evaluation | None:
    """Measure a model on test/ or, without it, on validation.

    With both, the temperature is fitted on validation and its calibration measured on test/; with one of them, the
    temperature is fitted on the images that measure it, and the evaluation says so.

    Args:
        model: on the device that computes.
        splits: the images.
        state: receives the calibration, and messages about images that cannot be read.
        progress: called with what is being done and the fraction that is done, 0 to 1.
        strict: raise if an image cannot be read.

    Raises:
        ImageError: if an image cannot be read, with `strict`.
        DataError: if more than 5 % and more than 3 images cannot be read.
    """

    def measure(source: ImageDataset, split: str, temperature: float | None = None) -> Evaluation:
        evaluation = evaluate(
            model,
            source,
            batch_size=state.recipe.batch_size,
            temperature=temperature,
            strict=strict,
            progress=lambda fraction: progress(f"measuring on {split}", fraction),
        )
        if evaluation.broken:
            count, allowed = len(evaluation.broken), allowed_corrupt(len(source))
            if count > allowed:
                raise DataError(
                    f"{state.data}: {count} of the {len(source)} images of {split} cannot be read, and {allowed} "
                    "may be left out; fix or remove them, and resume: the training itself is over"
                    + reasons(broken.reason for broken in evaluation.broken)
                )
            state.note_broken(split, [broken.reason for broken in evaluation.broken])
        return replace(evaluation, data=state.data, split=split)

    validated = None if splits.val is None else measure(splits.val, "val")
    tested = None
    if splits.test is not None:
        tested = measure(splits.test, "test", None if validated is None else validated.calibration.temperature)
    evaluation = tested or validated
    if evaluation is None:
        state.messages.append("without images for validation or in test/, nothing was measured, and there is no report")
    else:
        state.record_calibration(evaluation)
    return evaluation
