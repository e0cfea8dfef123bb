"""Metric learning: embeddings that are near each other for images of one class, also of classes never seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effnets.data.open import DataConfig, open_data
from effnets.data.splits import named
from effnets.embeddings.report import write_embedding_report
from effnets.embeddings.retrieval import Retrieval, Verification, retrieve, verify_pairs
from effnets.errors import ArgumentError, DataError, TrainingError
from effnets.evaluation.validate import Score, collect_outputs, pack_bits
from effnets.inference.predictor import create_predictor
from effnets.train.loss import Loss
from effnets.train.model import build_model
from effnets.train.task import Measured, Task, measure_outputs, validation_loader
from effnets.train.task_settings import EmbeddingSettings
from effnets.train.trainer import TrainContext, Validator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effnets.data.dataset import ImageDataset
    from effnets.data.loader import Batch, BatchSettings
    from effnets.data.splits import Splits
    from effnets.train.recipe import Recipe
    from effnets.train.run_state import Progress, RunState
    from effnets.train.teacher import Teacher

_TRIPLET_MARGIN, _ARCFACE_MARGIN = 0.2, 0.5  # as in FaceNet, section 3.1, and ArcFace, section 3.1


class _Mined(nn.Module):
    """A loss of the pairs or triplets of a batch that a miner chooses."""

    def __init__(self, loss: nn.Module, miner: nn.Module) -> None:
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.loss(embeddings, labels, self.miner(embeddings, labels))
        return loss


def make_criterion(settings: EmbeddingSettings, size: int, classes: int) -> nn.Module:
    """Return the loss of embeddings ``[N, size]`` of length 1 and of labels ``[N]``, from pytorch-metric-learning.

    ArcFace's has a weight for each of the `classes`, drawn from torch's global generator, that learns as well.

    Raises:
        ArgumentError: if pytorch-metric-learning is not installed.
    """
    try:
        from pytorch_metric_learning import distances, losses, miners
    except ImportError:
        raise ArgumentError(
            "task: embed needs pytorch-metric-learning, which is not installed; pip install 'effnets[embedding]'"
        ) from None
    if settings.loss == "arcface":
        margin = _ARCFACE_MARGIN if settings.margin is None else settings.margin
        return losses.ArcFaceLoss(classes, size, margin=math.degrees(margin), scale=settings.scale)
    if settings.loss == "multi_similarity":
        return _Mined(losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner())
    margin = _TRIPLET_MARGIN if settings.margin is None else settings.margin
    squared = distances.LpDistance(p=2, power=2)
    return _Mined(
        losses.TripletMarginLoss(margin=margin, distance=squared),
        miners.TripletMarginMiner(margin=margin, type_of_triplets="semihard", distance=squared),
    )


class MetricLoss(Loss):
    """The loss of embeddings, divided by their length; with a teacher also their squared distance to its embeddings.

    That of MobileNet to FaceNet is the second alone (arXiv:1704.04861, section 4.7), with `teacher_share` 1.
    """

    def compute(self, model: nn.Module, batch: Batch) -> Tensor:
        outputs = model(batch.images)
        with torch.autocast(batch.images.device.type, enabled=False):
            embeddings = F.normalize(outputs.float())
            share = 0.0 if self.teacher is None else self.teacher_share
            loss: Tensor = torch.zeros((), device=embeddings.device)
            if share < 1:
                loss = (1 - share) * self.criterion(embeddings, batch.labels)
        if self.teacher is not None:
            answer = F.normalize(self.teacher(batch.images).float())
            loss = loss + share * (embeddings - answer).square().sum(1).mean()
        return loss


class MetricLearning(Task):
    """Embeddings that are near each other for images of one class. Images to validate and test may be of others."""

    learns_classes: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = ("head_epochs", "label_smoothing")

    def open_data(
        self, config: DataConfig, recipe: Recipe, progress: Callable[[str, float], object] | None = None
    ) -> Splits:
        """Open the data; raises as `open_data`, and DataError if images to measure have no others of their class."""
        splits = open_data(replace(config, unseen_classes=True), seed=recipe.seed, progress=progress)
        for split, part in (("val", splits.val), ("test", splits.test)):
            if part is not None and np.bincount(part.labels).max() < 2:
                raise DataError(
                    f"{config.path}: no class of {split} has two images, so that none has another to be found by; add "
                    f"images, or remove {split}"
                )
        return splits

    def build_model(self, recipe: Recipe, class_names: Sequence[str]) -> tuple[nn.Module, bool]:  # noqa: ARG002
        size = recipe.embedding.size or 0
        if not size and recipe.drop_rate is None:
            recipe = replace(recipe, drop_rate=0.0)  # or the embedding itself would be dropped
        return build_model(recipe, None, num_outputs=size, activation="l2")

    def check(self, model: Any, recipe: Recipe, train: ImageDataset) -> Sequence[str]:
        if _only_distills(recipe):
            return super().check(model, recipe, train)
        counts = np.bincount(train.labels, minlength=len(train.class_names))
        if single := [train.class_names[label] for label in np.flatnonzero(counts == 1)]:
            raise TrainingError(
                f"{named('class', single)} with a single image to train on, which has no other to be near to; add "
                "images, or remove it"
            )
        classes = int((counts > 0).sum())
        wanted, images = self.batches(recipe, train)["batch_size"], recipe.embedding.images_per_class
        if wanted < recipe.batch_size:
            return [f"batches have {wanted} images, {images} of each of the {classes} classes"]
        return ()

    def batches(self, recipe: Recipe, train: ImageDataset) -> BatchSettings:
        if _only_distills(recipe):
            return super().batches(recipe, train)
        images = recipe.embedding.images_per_class
        classes = min(recipe.batch_size // images, len(np.unique(train.labels)))
        return {"batch_size": classes * images, "order": "by_class", "images_per_class": images}

    def make_loss(self, model: Any, recipe: Recipe, train: ImageDataset, teacher: Teacher | None) -> Loss:
        if _only_distills(recipe):
            return MetricLoss.of_recipe(recipe, nn.Identity(), teacher)
        criterion = make_criterion(recipe.embedding, model.num_outputs, int(train.labels.max()) + 1)
        return MetricLoss.of_recipe(recipe, criterion, teacher)

    def make_validator(
        self, val: ImageDataset, model: Any, recipe: Recipe, context: TrainContext, state: RunState
    ) -> Validator:
        loader = validation_loader(val, model, recipe, context, state)

        def validate(network: Any) -> Score:
            vectors, labels = collect_outputs(
                network, network.forward_embedding, loader, context.accelerator, context.shutdown
            )
            finite = bool(np.isfinite(vectors).all())
            found = retrieve(np.nan_to_num(vectors), labels)
            return Score(
                top1=100 * found.recall[1],
                loss=1 - found.map_at_r if finite else math.nan,
                count=found.images,
                correct=pack_bits(found.right),
            )

        return validate

    def measure(
        self,
        model: Any,
        splits: Splits,
        state: RunState,
        progress: Progress,  # noqa: ARG002
        context: TrainContext,
    ) -> Measured:
        predictor = create_predictor(model, classify=False)
        results: dict[str, tuple[Retrieval, Verification | None]] = {}
        shown: tuple[ImageDataset, NDArray[np.float32]] | None = None
        fitted: tuple[str, float] | None = None  # the split, and its threshold
        for split, part in (("val", splits.val), ("test", splits.test)):
            if part is None:
                continue
            outputs = measure_outputs(predictor, predictor.embed, part, split, state, context)
            source = part.subset(outputs.indices)
            verified = verify_pairs(outputs.values, source.labels, None if fitted is None else fitted[1])
            if fitted is None and verified is not None:
                fitted = split, verified.threshold
            results[split] = retrieve(outputs.values, source.labels), verified
            shown = source, outputs.values
        if shown is None:
            state.messages.append(
                "without images for validation or in test/, nothing was measured, and there is no report"
            )
            return {}, None
        metrics: dict[str, Any] = {
            "retrieval": {split: found.to_dict() for split, (found, _) in results.items()},
            "verification": {
                split: verified.to_dict() | {"threshold_fitted_on": fitted[0]}
                for split, (_, verified) in results.items()
                if verified is not None and fitted is not None
            },
        }
        if "test" in results:
            found = results["test"][0]
            metrics |= {"test_top1": 100 * found.recall[1], "test_loss": 1 - found.map_at_r}
        source, vectors = shown
        title, network = Path(state.data).name, model.spec.name

        def write(folder: Path) -> Path:
            page = folder / "report.html"
            return write_embedding_report(page, results, source, vectors, title=title, model=network)

        return metrics, write


def _only_distills(recipe: Recipe) -> bool:
    """Return whether the classes of images have no say: the teacher's embedding alone is learned."""
    return recipe.teacher is not None and recipe.teacher_share == 1
