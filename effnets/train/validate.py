"""How good a network is, in the middle of training: loss and top-1, by which epochs are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator
from effnets.nn.utils import evaluating
from effnets.train.shutdown import GracefulShutdown

__all__ = ["Score", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A network's result on a split.

    Attributes:
        top1: per cent of the pictures whose class is the first answer.
        loss: mean cross entropy, without smoothing or weights.
        count: pictures.
    """

    top1: float
    loss: float
    count: int

    def better_than(self, other: Score | None) -> bool:
        """By top-1, and where that is equal by the loss, which tells finer."""
        if other is None:
            return math.isfinite(self.loss)
        return (self.top1, -self.loss) > (other.top1, -other.loss)

    def as_good_as(self, other: Score) -> bool:
        """Whether top-1 is as high as the other's, as far as so many pictures can tell: to within a standard error.

        That of Agresti and Coull (1998), which does not vanish where all pictures are right.
        """
        count = other.count + 4
        share = (other.top1 / 100 * other.count + 2) / count
        error = 100 * math.sqrt(share * (1 - share) / count)
        return math.isfinite(self.loss) and self.top1 >= other.top1 - error


@torch.no_grad()
def score(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], accelerator: Accelerator, stop: GracefulShutdown
) -> Score:
    """Judge `network` by this process's `batches`, together with all other processes'.

    In float32, whatever the precision of training: what is reported is what the saved file gives. The network's mode
    is restored.

    Raises:
        TrainingInterruptedError: a signal asked this or another process to end; all of them raise.
    """
    device, sums = accelerator.device, torch.zeros(3, dtype=torch.float64)
    with evaluating(network):
        for images, labels in stop.take_until_stop(batches):
            logits = network(_place(images, device)).float()
            targets = labels.to(device)
            right = (logits.argmax(1) == targets).sum()
            loss = F.cross_entropy(logits, targets, reduction="sum")
            # Added up on the CPU, since not every device has double precision.
            sums += torch.stack([right.to(loss.dtype), loss, torch.full_like(loss, len(labels))]).cpu()
    # Together with the sums, so that no process waits for one that has ended.
    asked = torch.tensor([float(stop.received is not None)], dtype=torch.float64)
    hits, losses, count, interrupted = _total(torch.cat([sums, asked]), accelerator)
    if interrupted:
        raise stop.interruption("training was interrupted during validation")
    return Score(top1=100.0 * hits / max(count, 1), loss=losses / max(count, 1), count=round(count))


def _place(images: Tensor, device: torch.device) -> Tensor:
    if images.ndim == 4:
        return images.to(device, memory_format=torch.channels_last)
    return images.to(device)


def _total(sums: Tensor, accelerator: Accelerator) -> list[float]:
    if accelerator.num_processes > 1:
        reduce: Callable[..., Tensor] = accelerator.reduce
        sums = reduce(sums.to(accelerator.device), reduction="sum")
    return [float(value) for value in sums.tolist()]
