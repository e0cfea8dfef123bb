"""Validation during training: batches of images, and top-1 and loss, by which epochs are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from effnets.data.checks import CorruptImages, allowed_corrupt
from effnets.data.dataset import ImageDataset
from effnets.data.eval_loader import EvalLoader
from effnets.nn.utils import evaluating
from effnets.utils.shutdown import GracefulShutdown

if TYPE_CHECKING:
    from accelerate import Accelerator

ValidationBatches = Iterable[tuple[Tensor, Tensor]]

# Decoded images that are kept from one pass to the next, up to so many bytes.
_KEPT_BYTES = 512 << 20


class ValidationLoader:
    """Batches of images [N, C, H, W] and labels [N], the same in every pass; a small dataset stays in memory.

    Images that turn out corrupt are left out of their batches, with a warning.

    Args:
        dataset: of the images.
        transform: from an image to the network's input.
        batch_size: images in a batch.
        indices: which images, in this order; None for all.
        strict: leave out none.

    Attributes:
        corrupt: the images that were left out.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        transform: Callable[[Image.Image], Tensor],
        batch_size: int,
        indices: Sequence[int] | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self.dataset, self.transform = dataset, transform
        self._loader = EvalLoader(dataset, transform, batch_size, indices)
        self.indices = self._loader.indices
        self.corrupt = CorruptImages(len(self.indices), 0 if strict else allowed_corrupt(len(self.indices)))
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches.

        Raises:
            DataError: if more than 5 % and more than 3 images are corrupt, or all are; the message names them.
        """
        if self._kept:
            yield from self._kept
            return
        kept: list[tuple[Tensor, Tensor]] = []
        room = _KEPT_BYTES
        for batch in self._loader:
            self.corrupt.note(batch.corrupt)
            if batch.inputs:
                images = torch.stack(batch.inputs)
                labels = torch.from_numpy(self.dataset.labels[batch.indices]).long()
                room -= images.nbytes
                if room >= 0:
                    kept.append((images, labels))
                yield images, labels
        if room >= 0:
            self._kept = kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The result of a network on a split.

    Attributes:
        top1: in per cent.
        loss: mean cross entropy, without smoothing or class weights.
        count: images.
    """

    top1: float
    loss: float
    count: int

    def better_than(self, other: Score | None) -> bool:
        """Compare top-1, and of equal ones the loss, which is finer."""
        if other is None:
            return math.isfinite(self.loss)
        return (self.top1, -self.loss) > (other.top1, -other.loss)

    def as_good_as(self, other: Score) -> bool:
        """Return whether top-1 is at most a standard error below the other's, for its number of images.

        The standard error is that of Agresti and Coull (1998), which does not vanish at 100 %.
        """
        count = other.count + 4
        share = (other.top1 / 100 * other.count + 2) / count
        error = 100 * math.sqrt(share * (1 - share) / count)
        return math.isfinite(self.loss) and self.top1 >= other.top1 - error


@torch.no_grad()
def validate(
    network: nn.Module, batches: ValidationBatches, accelerator: Accelerator, shutdown: GracefulShutdown
) -> Score:
    """Measure `network` on this process's `batches`, together with all other processes.

    In float32, whatever the precision of training, as the saved file computes. The network's mode is restored.

    Raises:
        TrainingInterruptedError: if this or another process received a signal; all of them raise.
    """
    device, sums = accelerator.device, torch.zeros(3, dtype=torch.float64)
    with evaluating(network):
        for images, labels in shutdown.take_until_stop(batches):
            placed = images.to(device, memory_format=torch.channels_last) if images.ndim == 4 else images.to(device)
            logits = network(placed).float()
            targets = labels.to(device)
            correct = (logits.argmax(1) == targets).sum()
            loss = F.cross_entropy(logits, targets, reduction="sum")
            # Summed on the CPU, since not every device has double precision.
            sums += torch.stack([correct.to(loss.dtype), loss, torch.full_like(loss, len(labels))]).cpu()
    # Together with the sums, so that no process waits for one that has stopped.
    stopping = torch.tensor([shutdown.received is not None], dtype=torch.float64)
    sums = torch.cat([sums, stopping])
    if accelerator.num_processes > 1:
        reduce: Callable[..., Tensor] = accelerator.reduce
        sums = reduce(sums.to(device), reduction="sum")
    hits, losses, count, interrupted = (float(value) for value in sums.tolist())
    if interrupted:
        raise shutdown.interruption("training was interrupted during validation")
    return Score(top1=100.0 * hits / max(count, 1), loss=losses / max(count, 1), count=round(count))
