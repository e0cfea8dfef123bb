"""The loss that is minimized: cross entropy with the labels, and the distance to a teacher's outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effnets.data.dataset import ImageDataset
from effnets.data.sampling import class_weights
from effnets.nn.classifier import Classifier
from effnets.train.recipe import Recipe


class Teacher(nn.Module):
    """A frozen network whose logits the student learns from, on the images that the student sees.

    Images are normalized as the student's weights need them; the teacher normalizes them as its own need them.

    Args:
        network: the teacher.
        student: the network that is trained.
        outputs: [classes of the student]; the teacher's output for each, if it has others or in another order.
    """

    def __init__(self, network: Classifier, student: Classifier, outputs: Tensor | None = None) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        ours, theirs = student.spec.preprocess, network.spec.preprocess
        scale = torch.tensor(ours.std) / torch.tensor(theirs.std)
        shift = (torch.tensor(ours.mean) - torch.tensor(theirs.mean)) / torch.tensor(theirs.std)
        self.scale: Tensor
        self.shift: Tensor
        self.outputs: Tensor | None
        self.register_buffer("scale", scale.view(-1, 1, 1))
        self.register_buffer("shift", shift.view(-1, 1, 1))
        self.register_buffer("outputs", outputs)

    def train(self, mode: bool = True) -> Teacher:  # noqa: ARG002
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images * self.scale + self.shift)
        return logits if self.outputs is None else logits[:, self.outputs]


class Loss(nn.Module):
    """The loss of a batch: logits [N, C], and labels [N] or class probabilities [N, C].

    With a teacher, (1 - s) times the cross entropy plus s · τ² · KL(teacher ‖ student), both outputs softened by the
    temperature τ (arXiv:1503.02531, section 2).

    Args:
        label_smoothing: share of the target that is spread over all classes.
        class_weights: [C]; of the classes in the cross entropy.
        teacher: to learn from as well.
        teacher_share: s. temperature: τ.
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        teacher: Teacher | None = None,
        teacher_share: float = 0.5,
        temperature: float = 2.0,
    ) -> None:
        super().__init__()
        self.cross_entropy = nn.CrossEntropyLoss(weight=class_weights, label_smoothing=label_smoothing)
        self.teacher = teacher
        self.teacher_share = teacher_share
        self.temperature = temperature

    def forward(self, logits: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        loss: Tensor = self.cross_entropy(logits, targets)
        if self.teacher is None:
            return loss
        expected = (self.teacher(images).float() / self.temperature).log_softmax(1)
        actual = (logits / self.temperature).log_softmax(1)
        distance = F.kl_div(actual, expected, reduction="batchmean", log_target=True) * self.temperature**2
        return (1 - self.teacher_share) * loss + self.teacher_share * distance


def make_loss(recipe: Recipe, train: ImageDataset, teacher: Teacher | None = None) -> Loss:
    """Return the recipe's loss, with class weights of the training images if the recipe balances by these."""
    weights = None
    if recipe.balance == "weights":
        weights = torch.from_numpy(class_weights(train.labels, len(train.class_names)))
    return Loss(
        label_smoothing=recipe.label_smoothing,
        class_weights=weights,
        teacher=teacher,
        teacher_share=recipe.teacher_share,
        temperature=recipe.temperature,
    )
