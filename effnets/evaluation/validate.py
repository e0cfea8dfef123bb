"""Validation during training: batches of images, and top-1 and loss, by which epochs are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from effnets.data.checks import CorruptImages, allowed_corrupt
from effnets.data.dataset import ImageDataset
from effnets.data.eval_loader import EvalLoader
from effnets.inference.arrays import Pixels
from effnets.nn.utils import evaluating
from effnets.utils.shutdown import GracefulShutdown

if TYPE_CHECKING:
    from accelerate import Accelerator

ValidationBatches = Iterable[tuple[Tensor, Tensor]]

# Decoded images that are kept from one pass to the next, up to so many bytes.
_KEPT_BYTES = 512 << 20


class ValidationLoader:
    """Batches of images [N, C, H, W] and labels [N], the same in every pass; a small dataset stays in memory.

    Where an image has any number of labels, its targets [N, labels] are yielded instead.

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
        transform: Callable[[Pixels], Tensor],
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
                targets = self.dataset.targets
                labels = torch.from_numpy((self.dataset.labels if targets is None else targets)[batch.indices])
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
        top1: in per cent; None where images have no single class.
        loss: mean cross entropy, without smoothing or class weights; of other tasks what the lower, the better.
        count: images.
        correct: one bit for each image, in the order of validation, as a hexadecimal number; empty where unknown, as in
            checkpoints of earlier versions.
        mean_ap: mean average precision in per cent, of tasks that are measured by it.
    """

    top1: float | None
    loss: float
    count: int
    correct: str = ""
    mean_ap: float | None = None

    def better_than(self, other: Score | None) -> tuple[bool, str]:
        """Return whether this score is better than another one on the same images, and why, in words.

        Where top-1 does not tell them apart, as of `clearly_better_than`, the loss decides, which is finer.
        """
        if other is None:
            return math.isfinite(self.loss), "there is no other"
        if not math.isfinite(self.loss):
            return False, "the loss is not finite"
        if self.mean_ap is not None and other.mean_ap is not None:
            high, low = max(self.mean_ap, other.mean_ap), min(self.mean_ap, other.mean_ap)
            if high > low:
                return self.mean_ap > other.mean_ap, f"mean average precision {high:.2f} against {low:.2f} %"
            losses = f"loss {min(self.loss, other.loss):.3f} against {max(self.loss, other.loss):.3f}"
            return self.loss < other.loss, f"{losses}; mean average precision is equal"
        gained, lost = self._differences(other)
        counts = f"{max(gained, lost)} images that only it has right, against {min(gained, lost)}"
        if self.clearly_better_than(other) or other.clearly_better_than(self):
            return gained > lost, counts
        losses = f"loss {min(self.loss, other.loss):.3f} against {max(self.loss, other.loss):.3f}"
        return self.loss < other.loss, f"{losses}; top-1 is equal to within chance (they differ on {gained + lost})"

    def clearly_better_than(self, other: Score, errors: float = 2) -> bool:
        """Return whether top-1 is better by more than so many standard errors of the images on which the two differ.

        Only images that one of the two has right and the other wrong tell them apart (McNemar 1947,
        doi:10.1007/BF02295996). Of mean average precisions, which have no such test, the higher is taken.
        """
        if self.mean_ap is not None and other.mean_ap is not None:
            return self.mean_ap > other.mean_ap
        gained, lost = self._differences(other)
        return gained > lost and (gained - lost) ** 2 > errors**2 * (gained + lost)

    def _differences(self, other: Score) -> tuple[int, int]:
        """Return how many images only this score has right, and how many only the other."""
        if self.correct and other.correct:
            ours, theirs = int(self.correct, 16), int(other.correct, 16)
            return (ours & ~theirs).bit_count(), (theirs & ~ours).bit_count()
        difference = round(((self.top1 or 0) - (other.top1 or 0)) * self.count / 100)
        return max(difference, 0), max(-difference, 0)


@torch.no_grad()
def validate(
    network: nn.Module, batches: ValidationBatches, accelerator: Accelerator, shutdown: GracefulShutdown
) -> Score:
    """Measure `network` on this process's `batches`, together with all other processes.

    In float32, whatever the precision of training, as the saved file computes. The network's mode is restored.

    Raises:
        TrainingInterruptedError: if this or another process received a signal; all of them raise.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    right = [torch.empty(0, dtype=torch.bool)]
    with evaluating(network):
        for images, labels in shutdown.take_until_stop(batches):
            logits = network(_placed(images, accelerator.device)).float()
            targets = labels.to(accelerator.device)
            correct = logits.argmax(1) == targets
            right.append(correct.cpu())
            loss = F.cross_entropy(logits, targets, reduction="sum")
            # Summed on the CPU, since not every device has double precision.
            sums += torch.stack([correct.sum().to(loss.dtype), loss, torch.full_like(loss, len(labels))]).cpu()
    hits, losses, count = _add_up(sums, accelerator, shutdown)
    bits = _in_order(torch.cat(right).to(torch.uint8), accelerator).bool()
    return Score(
        top1=100.0 * hits / max(count, 1),
        loss=losses / max(count, 1),
        count=round(count),
        correct=pack_bits(bits.numpy()),
    )


@torch.no_grad()
def collect_outputs(
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    batches: ValidationBatches,
    accelerator: Accelerator,
    shutdown: GracefulShutdown,
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return the outputs [images, D] of all processes together, and the labels or targets of the same images.

    Args:
        network: put into evaluation mode meanwhile. forward: from images to outputs.
        batches: of this process.
        accelerator, shutdown: as of `validate`, which see for precision and errors.
    """
    outputs, truths = list[Tensor](), list[Tensor]()
    with evaluating(network):
        for images, truth in shutdown.take_until_stop(batches):
            outputs.append(forward(_placed(images, accelerator.device)).float().cpu())
            truths.append(truth)
    _add_up(torch.zeros(1, dtype=torch.float64), accelerator, shutdown)
    found = [_in_order(_joined(own, accelerator), accelerator).numpy() for own in (outputs, truths)]
    return found[0], found[1]


def _joined(parts: Sequence[Tensor], accelerator: Accelerator) -> Tensor:
    """Return the rows of a process's batches together; of one without images, no rows of the others' form."""
    if accelerator.num_processes == 1:
        return torch.cat(list(parts))
    from accelerate.utils import gather_object

    forms: list[Tensor] = [form for form in gather_object([parts[0][:0] if parts else None]) if form is not None]
    return torch.cat([forms[0], *parts])


def pack_bits(right: NDArray[np.bool_]) -> str:
    """Return booleans, one for each image, as `Score.correct` has them."""
    return np.packbits(right).tobytes().hex()


def _placed(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device, memory_format=torch.channels_last) if images.ndim == 4 else images.to(device)


def _add_up(sums: Tensor, accelerator: Accelerator, shutdown: GracefulShutdown) -> list[float]:
    """Return the sums over all processes; raises a TrainingInterruptedError if one of them received a signal."""
    # Together with the sums, so that no process waits for one that has stopped.
    stopping = torch.tensor([shutdown.received is not None], dtype=torch.float64)
    sums = torch.cat([sums, stopping])
    if accelerator.num_processes > 1:
        reduce: Callable[..., Tensor] = accelerator.reduce
        sums = reduce(sums.to(accelerator.device), reduction="sum")
    *totals, interrupted = (float(value) for value in sums.tolist())
    if interrupted:
        raise shutdown.interruption("training was interrupted during validation")
    return totals


def _in_order(own: Tensor, accelerator: Accelerator) -> Tensor:
    """Return rows [images, …] of all processes, each of which has every n-th image."""
    processes = accelerator.num_processes
    if processes == 1:
        return own
    own = own.to(accelerator.device)
    gather: Callable[[Tensor], Tensor] = accelerator.gather
    counts = gather(torch.tensor([len(own)], device=own.device))
    rows = gather(accelerator.pad_across_processes(own)).view(processes, int(counts.max()), *own.shape[1:])
    present = torch.arange(rows.shape[1], device=own.device)[:, None] < counts
    return rows.transpose(0, 1)[present].cpu()
