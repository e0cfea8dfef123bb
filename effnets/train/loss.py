"""The loss that is minimized: cross entropy with the labels, and the distance to a teacher's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effnets.data.dataset import ImageDataset
from effnets.data.sampling import class_weights
from effnets.train.recipe import Recipe
from effnets.train.teacher import Teacher

if TYPE_CHECKING:
    from effnets.data.loader import Batch


class Loss(nn.Module):
    """The loss of a batch: logits [N, C], and labels [N] or class probabilities [N, C], or as of the criterion.

    With a teacher, (1 - s) times the criterion plus s times the distance to its answer: τ² · KL(teacher ‖ student),
    both outputs softened by the temperature τ (arXiv:1503.02531, section 2); or of embeddings [N, D] (arXiv:1704.04861,
    section 4.7) and feature maps [N, D, H, W] (arXiv:1412.6550, section 2.2) the mean squared difference.

    Args:
        criterion: of the network's output and the targets; None is the cross entropy.
        teacher: to learn from as well.
        teacher_share: s, up to 1, when the criterion is left out. temperature: τ.
        normalize: embeddings, and the vectors of every place of maps, to length 1; then it is the squared distance.
    """

    def __init__(
        self,
        criterion: nn.Module | None = None,
        *,
        teacher: Teacher | None = None,
        teacher_share: float = 0.5,
        temperature: float = 2.0,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss() if criterion is None else criterion
        self.teacher = teacher
        self.teacher_share = teacher_share
        self.temperature = temperature
        self.normalize = normalize

    @classmethod
    def of_recipe(cls, recipe: Recipe, criterion: nn.Module, teacher: Teacher | None) -> Self:
        """Return the loss with a recipe's settings."""
        return cls(
            criterion,
            teacher=teacher,
            teacher_share=recipe.teacher_share,
            temperature=recipe.temperature,
            normalize=recipe.distillation_normalize,
        )

    @property
    def learned(self) -> dict[str, nn.Module]:
        """Modules that learn with the network, and are no part of it: a teacher's projection, a criterion's weights."""
        parts = {"projection": None if self.teacher is None else self.teacher.projection, "criterion": self.criterion}
        return {
            name: part for name, part in parts.items() if part is not None and (name != "criterion" or _learns(part))
        }

    def compute(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run the model on a batch, and return the loss."""
        output = model(batch.images)
        logits, features = output if isinstance(output, tuple) else (output, None)
        loss: Tensor = self(logits.float(), self.targets(batch), batch.images, features)
        return loss

    def targets(self, batch: Batch) -> Tensor:
        """Return what the network should put out."""
        return batch.labels if batch.targets is None else batch.targets

    def forward(self, logits: Tensor, targets: Tensor, images: Tensor, features: Tensor | None = None) -> Tensor:
        loss: Tensor = self.criterion(logits, targets)
        if self.teacher is None:
            return loss
        answer = self.teacher(images).float()
        distance = self._distance(logits, answer) if features is None else self._difference(features.float(), answer)
        return (1 - self.teacher_share) * loss + self.teacher_share * distance

    def _distance(self, logits: Tensor, answer: Tensor) -> Tensor:
        expected = (answer / self.temperature).log_softmax(1)
        actual = (logits / self.temperature).log_softmax(1)
        return F.kl_div(actual, expected, reduction="batchmean", log_target=True) * self.temperature**2

    def _difference(self, features: Tensor, answer: Tensor) -> Tensor:
        if features.shape[2:] != answer.shape[2:]:
            features = F.interpolate(features, answer.shape[2:], mode="bilinear")
        if self.normalize:
            return (F.normalize(features) - F.normalize(answer)).square().sum(1).mean()
        return F.mse_loss(features, answer)


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def make_loss(recipe: Recipe, train: ImageDataset, teacher: Teacher | None = None) -> Loss:
    """Return the recipe's loss, with class weights of the training images if the recipe balances by these."""
    weights = None
    if recipe.balance == "weights":
        weights = torch.from_numpy(class_weights(train.labels, len(train.class_names)))
    return Loss.of_recipe(recipe, nn.CrossEntropyLoss(weights, label_smoothing=recipe.label_smoothing), teacher)
