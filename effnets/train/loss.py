"""What is minimised: cross entropy with the labels, and the distance to a teacher's answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effnets.nn.classifier import Classifier


class Teacher(nn.Module):
    """A network that answers for the pupil to learn from, on the very pictures that the pupil sees.

    Pictures come normalised as the pupil's weights want them, and are brought to what the teacher's want.

    Args:
        network: the teacher; it learns nothing.
        pupil: whose pictures they are.
        outputs: [classes of the pupil]; the teacher's output for each, where it has others or another order.
    """

    def __init__(self, network: Classifier, pupil: Classifier, outputs: Tensor | None = None) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        ours, theirs = pupil.spec.preprocess, network.spec.preprocess
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


class Objective(nn.Module):
    """The loss of a batch: logits [N, C], and labels [N] or shares of the classes [N, C].

    With a teacher, the share (1 - s) of cross entropy and s of τ² · KL(teacher ‖ pupil), both answers softened by the
    temperature τ (arXiv:1503.02531, section 2).

    Args:
        label_smoothing: share of the target spread over all classes.
        class_weights: [C]; of the classes in cross entropy.
        teacher: whom to learn from as well.
        teacher_share: s above. temperature: τ.
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
        wanted = (self.teacher(images).float() / self.temperature).log_softmax(1)
        given = (logits / self.temperature).log_softmax(1)
        distance = F.kl_div(given, wanted, reduction="batchmean", log_target=True) * self.temperature**2
        return (1 - self.teacher_share) * loss + self.teacher_share * distance
