"""Detection as a task of `effnets.finetune`: boxes around objects, measured by mean average precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from effnets.data.dataset import CACHE_BYTES, ImageDataset
from effnets.data.open import DataConfig
from effnets.data.sampling import some_images
from effnets.data.splits import Splits
from effnets.detection.annotations import open_boxes
from effnets.detection.create import create_detector
from effnets.detection.dataset import BoxDataset
from effnets.detection.detector import Detector
from effnets.detection.evaluate import evaluate_detector
from effnets.detection.folder import load_detector, save_detector
from effnets.detection.loader import BoxLoader
from effnets.detection.predict import DetectorInput
from effnets.detection.report import DetectionSummary, write_detection_report
from effnets.detection.transforms import DetectionTransform
from effnets.errors import ArgumentError, TrainingError
from effnets.evaluation.validate import Score
from effnets.nn.freeze import freeze, freeze_statistics, parse_until
from effnets.spec.models import load_spec
from effnets.train.bn_calibration import has_identity_statistics, restore_statistics
from effnets.train.loss import Loss
from effnets.train.task import Measured, Task, loader_settings
from effnets.train.trainer import TrainContext, TrainLoader, Validator
from effnets.weights.folder import read_detector_config

if TYPE_CHECKING:
    from effnets.train.recipe import Recipe
    from effnets.train.run_state import Progress, RunState
    from effnets.train.teacher import Teacher

_MEASURED_IMAGES = 256


class DetectionLoss(Loss):
    """The sum of a detector's losses on a batch."""

    def compute(self, model: nn.Module, batch: Any) -> Tensor:
        losses: dict[str, Tensor] = model(batch.images, batch.targets)
        return torch.stack([loss.float() for loss in losses.values()]).sum()


class Detection(Task):
    """Detectors on the zoo's backbones, learned from labeled boxes."""

    learns_classes: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = (
        *("head_epochs", "label_smoothing", "balance", "augmentation", "in_chans", "mean", "std", "drop_rate"),
        *("drop_path_rate", "layer_decay"),
    )

    def open_data(
        self, config: DataConfig, recipe: Recipe, progress: Callable[[str, float], object] | None = None
    ) -> Splits:
        """Open images with boxes; raises as `open_boxes`, and ArgumentError for what only tables of classes have."""
        for name in ("image_column", "label_column", "class_names"):
            if getattr(config, name) is not None:
                raise ArgumentError(f"{name} is not for task: detect, whose files name their classes; leave it out")
        return open_boxes(
            config.path,
            val_share=config.val_share,
            seed=recipe.seed,
            strict=config.strict,
            check=config.check,
            progress=progress,
        )

    def build_model(self, recipe: Recipe, class_names: Sequence[str]) -> tuple[nn.Module, bool]:
        """Return the detector, and whether it was trained for these classes before."""
        if Path(recipe.weights).is_dir() and read_detector_config(Path(recipe.weights)) is not None:
            model, known = self._load_trained(recipe, class_names), True
        else:
            given = recipe.weights not in ("pretrained", "random")
            model, known = (
                create_detector(
                    recipe.model,
                    recipe.detection.detector,
                    num_classes=len(class_names) + 1,
                    pretrained=recipe.weights == "pretrained",
                    weights=recipe.weights if given else None,
                    image_size=recipe.image_size,
                    class_names=class_names,
                    bn=recipe.bn,
                ),
                False,
            )
        try:
            freeze(model.body, parse_until(recipe.freeze))
        except ArgumentError as error:
            raise TrainingError(f"freeze is {recipe.freeze!r}, for {recipe.model}: {error}") from None
        if recipe.bn == "eval":
            freeze_statistics(model.body)
        return model, known

    def _load_trained(self, recipe: Recipe, class_names: Sequence[str]) -> Detector:
        model = load_detector(recipe.weights)
        if model.settings.kind != recipe.detection.detector or model.class_names != tuple(class_names):
            raise TrainingError(
                f"{recipe.weights}: has a {model.settings.kind} for {', '.join(model.class_names or ('?',))}, and this "
                f"is to be a {recipe.detection.detector} for {', '.join(class_names)}; give the backbone's weights"
            )
        theirs = {"model": model.spec.name, "image_size": model.settings.image_size}
        ours = {"model": load_spec(recipe.model).name, "image_size": recipe.image_size or theirs["image_size"]}
        for name, wanted in ours.items():
            if wanted != theirs[name]:
                raise TrainingError(
                    f"{recipe.weights}: has a detector with {name} {theirs[name]}, and this one's {name} is {wanted}; "
                    f"set {name} to {theirs[name]}, or give the backbone's weights"
                )
        return model

    def check(self, model: Detector, recipe: Recipe, train: ImageDataset) -> Sequence[str]:
        if min(recipe.batch_size, len(train) // recipe.accumulate) == 1 and model.settings.kind == "ssdlite":
            raise TrainingError(
                "forward passes are of 1 image, and SSDLite's last maps are of one place, where a batch normalization "
                "cannot normalize by one value: raise batch_size, or lower accumulate"
            )
        return ()

    def restore_statistics(
        self, model: Detector, recipe: Recipe, train: ImageDataset, context: TrainContext
    ) -> str | None:
        if recipe.weights == "random" or not has_identity_statistics(model.body):
            return None
        chosen = _with_boxes(train).subset(some_images(train, recipe.seed, _MEASURED_IMAGES))
        count = restore_statistics(model.body, _inputs(model, chosen, recipe.batch_size, context))
        return (
            "the backbone's weights came with batch normalization folded away, without statistics to train with; these "
            f"were measured on {count} training images, and the backbone computes the same as before"
        )

    def cache(self, train: ImageDataset, model: Any, recipe: Recipe, cached: bool | None) -> ImageDataset:  # noqa: ARG002
        return train  # the loader keeps what fits

    def make_loss(self, model: Any, recipe: Recipe, train: ImageDataset, teacher: Teacher | None) -> Loss:  # noqa: ARG002
        return DetectionLoss()

    def make_train_loader(
        self, train: ImageDataset, model: Detector, recipe: Recipe, context: TrainContext, state: RunState
    ) -> TrainLoader:
        settings = model.settings
        transform = DetectionTransform(
            settings.image_size,
            fit="stretch" if settings.kind == "ssdlite" else "shorter",
            max_size=settings.max_size,
            augmentation=recipe.detection.augmentation,
            fill=model.spec.preprocess.for_channels(3).mean,
        )
        loader = BoxLoader(
            _with_boxes(train),
            transform,
            batch_size=self.batches(recipe, train)["batch_size"],
            **loader_settings(recipe, context, state),
            cache_bytes=0 if recipe.cache == "none" else CACHE_BYTES,
        )
        state.track_corrupt("train", loader.corrupt.messages)
        return loader

    def make_validator(
        self,
        val: ImageDataset,
        model: Detector,  # noqa: ARG002
        recipe: Recipe,
        context: TrainContext,
        state: RunState,  # noqa: ARG002
    ) -> Validator:
        """Return what measures a network. Every process measures all images, and finds the same."""
        images = _with_boxes(val)

        def interrupt(_share: float) -> None:
            if context.accelerator.num_processes == 1:  # of several, those without a signal would wait for this one
                context.shutdown.check("training was interrupted during validation")

        def validate(network: nn.Module) -> Score:
            result = evaluate_detector(
                network, images, batch_size=recipe.batch_size, strict=context.strict, progress=interrupt
            ).result
            found = result.mean_ap
            # What is missing to 1 stands for a loss, of which the lower is better.
            return Score(top1=None, loss=1 - found / 100, count=len(images), mean_ap=found)

        return validate

    def save(self, model: Detector, folder: Path) -> None:
        save_detector(model, folder)

    def load(self, folder: Path) -> nn.Module:
        return load_detector(folder)

    def measure(
        self, model: Detector, splits: Splits, state: RunState, progress: Progress, context: TrainContext
    ) -> Measured:
        split, images = ("val", splits.val) if splits.test is None else ("test", splits.test)
        if images is None:
            state.messages.append("without images for validation or in test/, nothing was measured, and no report made")
            return {}, None
        report = context.progress("the result was measured")
        found = evaluate_detector(
            model,
            _with_boxes(images),
            batch_size=state.recipe.batch_size,
            strict=context.strict,
            progress=lambda share: report(f"measuring on {split}", share),
        )
        state.note_broken(split, found.broken)
        metrics: dict[str, Any] = {"detection": {"split": split, **found.to_dict()}}
        if split == "test":
            metrics["test_mean_ap"] = found.result.mean_ap
        best = progress.best
        summary = DetectionSummary(
            **state.told(progress),
            model=f"{model.settings.kind} on {model.spec.name}",
            evaluation=found,
            split=split,
            history=[row for row in progress.rows if row.epoch > 0],
            selected_map=best.score.mean_ap if best is not None and best.score is not None else None,
        )
        return metrics, lambda folder: write_detection_report(folder, summary)


def _with_boxes(images: ImageDataset) -> BoxDataset:
    assert isinstance(images, BoxDataset), "open_boxes makes no others"
    return images


def _inputs(model: Detector, images: BoxDataset, batch_size: int, context: TrainContext) -> Iterator[Tensor]:
    """Yield batches of the backbone's input [N, 3, H, W]."""
    reader = DetectorInput(model)
    transform: Any = model.transform
    for start in range(0, len(images), batch_size):
        context.shutdown.check("batch statistics were measured")
        places = range(start, min(start + batch_size, len(images)))
        yield transform([reader.prepare(images.image(place)) for place in places])[0].tensors
