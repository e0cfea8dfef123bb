"""Multi-label classification: an image has any number of labels, each of which is decided by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effnets.data.open import DataConfig, open_data
from effnets.evaluation.multilabel import (
    LABEL_COLUMNS,
    LabelEvaluation,
    average_precision,
    binary_cross_entropy,
    fit_thresholds,
    mean_share,
    measure_labels,
)
from effnets.evaluation.validate import Score, collect_outputs
from effnets.inference.predictor import create_predictor
from effnets.report.gallery import Table, write_gallery
from effnets.train.loss import Loss
from effnets.train.model import build_model
from effnets.train.task import Measured, Task, measure_outputs, validation_loader
from effnets.train.trainer import TrainContext, Validator
from effnets.weights.save import save_pretrained

if TYPE_CHECKING:
    from effnets.data.dataset import ImageDataset
    from effnets.data.splits import Splits
    from effnets.train.recipe import Recipe
    from effnets.train.run_state import Progress, RunState
    from effnets.train.teacher import Teacher


class LabelCriterion(nn.Module):
    """The loss of logits ``[N, C]`` and targets ``[N, C]``, 1, 0, or NaN for what is unknown, which has no part in it.

    Binary cross entropy, its mean over what is known, or the asymmetric loss (arXiv:2009.14119), whose sum over the
    labels is averaged over the images.

    Args:
        kind: ``bce`` or ``asymmetric``.
        smoothing: targets are moved towards a half, by this share of the way.
        weights: [C]; of each label where an image has it.
    """

    def __init__(self, kind: str = "bce", *, smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.asymmetric: nn.Module | None = None
        if kind == "asymmetric":
            from timm.loss import AsymmetricLossMultiLabel

            self.asymmetric = AsymmetricLossMultiLabel(reduction="none", pos_weight=weights)
        self.weights: Tensor | None
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        known = ~targets.isnan()
        wanted = targets.nan_to_num() * (1 - self.smoothing) + self.smoothing / 2
        if self.asymmetric is not None:
            losses: Tensor = self.asymmetric(logits, wanted)
            return (losses * known).sum() / len(logits)
        losses = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=self.weights, reduction="none")
        return (losses * known).sum() / known.sum().clamp(min=1)


class LabelLoss(Loss):
    """The loss of labels. A teacher's probabilities, both outputs softened by the temperature τ, are targets as well.

    So MobileNet learned from a network of attributes of faces (arXiv:1704.04861, section 4.5).
    """

    def _distance(self, logits: Tensor, answer: Tensor) -> Tensor:
        expected = (answer / self.temperature).sigmoid()
        return F.binary_cross_entropy_with_logits(logits / self.temperature, expected) * self.temperature**2


class Multilabel(Task):
    """Each image has any number of labels."""

    learns_classes: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = ("head_epochs",)

    def open_data(
        self, config: DataConfig, recipe: Recipe, progress: Callable[[str, float], object] | None = None
    ) -> Splits:
        return open_data(replace(config, multilabel=True), seed=recipe.seed, progress=progress)

    def build_model(self, recipe: Recipe, class_names: Sequence[str]) -> tuple[nn.Module, bool]:
        return build_model(recipe, class_names, activation="sigmoid")

    def make_loss(self, model: Any, recipe: Recipe, train: ImageDataset, teacher: Teacher | None) -> Loss:  # noqa: ARG002
        weights = positive_weights(train) if recipe.balance == "weights" else None
        criterion = LabelCriterion(recipe.multilabel.loss, smoothing=recipe.label_smoothing, weights=weights)
        return LabelLoss.of_recipe(recipe, criterion, teacher)

    def make_validator(
        self, val: ImageDataset, model: Any, recipe: Recipe, context: TrainContext, state: RunState
    ) -> Validator:
        loader = validation_loader(val, model, recipe, context, state)

        def validate(network: nn.Module) -> Score:
            logits, targets = collect_outputs(network, network, loader, context.accelerator, context.shutdown)
            found = mean_share(average_precision(logits, targets))
            return Score(top1=None, loss=binary_cross_entropy(logits, targets), count=len(logits), mean_ap=found)

        return validate

    def measure(
        self,
        model: Any,
        splits: Splits,
        state: RunState,
        progress: Progress,  # noqa: ARG002
        context: TrainContext,
    ) -> Measured:
        parts = {split: part for split, part in (("val", splits.val), ("test", splits.test)) if part is not None}
        if not parts:
            state.messages.append("without images for validation or in test/, the thresholds are a half")
            return {}, None
        fitted_on = next(iter(parts))
        predictor = create_predictor(model)
        outputs = {
            split: measure_outputs(predictor, None, part, split, state, context) for split, part in parts.items()
        }
        targets = {split: _targets(part)[outputs[split].indices] for split, part in parts.items()}
        model.thresholds = tuple(fit_thresholds(outputs[fitted_on].values, targets[fitted_on]).tolist())
        found = {
            split: measure_labels(
                outputs[split].values,
                targets[split],
                np.array(model.thresholds),
                model=model.spec.name,
                engine="torch",
                data=state.data,
                split=split,
                label_names=state.class_names,
                broken=outputs[split].broken,
            )
            for split in parts
        }
        judged = found.get("test", found[fitted_on])
        if judged.split == fitted_on:
            state.messages.append(
                "the thresholds were fitted on the same images that precision and recall are measured on"
            )
        metrics: dict[str, Any] = {
            "labels": {split: one.to_dict() for split, one in found.items()},
            "thresholds_fitted_on": fitted_on,
        }
        if "test" in found:
            metrics |= {"test_mean_ap": judged.mean_ap, "test_loss": judged.loss}

        def write(folder: Path) -> Path:
            save_pretrained(model.cpu(), folder)  # with the thresholds
            return write_label_report(folder / "report.html", judged, Path(state.data).name)

        return metrics, write


def positive_weights(train: ImageDataset) -> Tensor:
    """Return [C], for each label how many times as many images are known to lack it as have it."""
    targets = _targets(train)
    return torch.from_numpy(((targets == 0).sum(axis=0) / np.maximum((targets == 1).sum(axis=0), 1)).astype(np.float32))


def _targets(dataset: ImageDataset) -> np.ndarray[Any, np.dtype[np.float32]]:
    assert dataset.targets is not None, "opened with multilabel"
    return dataset.targets


def write_label_report(path: Path, found: LabelEvaluation, title: str) -> Path:
    """Write a page with the figures of each label; return its path. Raises a ReportError as `write_gallery`."""
    mean = "not measured" if found.mean_ap is None else f"{found.mean_ap:.1f} %"
    lead = f"{found.model}, measured on {found.count:,} images of {found.split}: mean average precision {mean}."
    tables = [Table("Labels", LABEL_COLUMNS, found.rows())]
    write_gallery(path, kind="labels", title=title, lead=lead, sections=(), tables=tables)
    return path
