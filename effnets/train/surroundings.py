"""What a training loop needs of others: batches, a place for its states, devices, and somebody to tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from effnets.data.loader import Batch
from effnets.train.progress import SILENT, Listener
from effnets.train.shutdown import StopSignals

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Batches", "Keeper", "Surroundings"]


class Batches(Protocol):
    """Training batches, as `effnets.data.loader.EpochLoader` gives them."""

    @property
    def batch_size(self) -> int:
        """Pictures in a micro-batch, fewer than the recipe's where there are not as many."""

    def __len__(self) -> int: ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This process's batches of an epoch, from a global position on."""

    def close(self) -> None:
        """Release what prepares them; there are none after this."""


class Keeper(Protocol):
    """Where states, kept weights and the course of training go. Called in the main process alone."""

    def save(self, state: dict[str, Any]) -> None: ...

    def keep(self, weights: dict[str, Tensor]) -> None: ...

    def due(self) -> bool:
        """Whether it is time for a checkpoint in the middle of an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a training happens in.

    Attributes:
        accelerator: devices and processes.
        stop: requests to end.
        keeper: where states go; None keeps nothing, and ends with the last weights.
        listener: who is told how far it is.
    """

    accelerator: Accelerator
    stop: StopSignals
    keeper: Keeper | None = None
    listener: Listener = SILENT
