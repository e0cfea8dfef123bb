"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from effnets.evaluation.result import Evaluation

if TYPE_CHECKING:
    from effnets.nn.classifier import Classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRow:
    """One epoch of a training; what was not measured is None.

    Attributes:
        epoch: from 1.
        train_loss, val_loss: mean cross entropy in nats; with mixup or smoothing, of what was minimised.
        val_top1, ema_top1: on validation, in per cent, of the weights and of their moving average.
        learning_rate: at the end of the epoch, of the group that learns fastest.
        seconds: that it took, validation included.
        phase: what was trained, such as "head" and "all layers".
    """

    epoch: int
    train_loss: float | None = None
    val_loss: float | None = None
    val_top1: float | None = None
    ema_top1: float | None = None
    learning_rate: float | None = None
    seconds: float | None = None
    phase: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run, as its report tells it.

    Attributes:
        title: what was learned, such as the name of the data set.
        command: the exact command line, or the lines of Python.
        evaluation: of the weights that were kept, on test pictures or, without any, on validation.
        network: whose answers these are, for parameters and class-activation maps; None for an exported file.
        history: the epochs, none for a mere evaluation.
        selected_top1: on validation, in per cent, of the weights that were kept.
        recipe: every setting; mappings within it are shown as ``optimiser.lr``.
        notes: what to know of the data.
        pictures: how many there are, by split.
        training_seconds, training_speed: in all, and images/s of the training steps.
        seed: of the run.
        machine, versions: None is this machine, and what is installed.
        finished: when; None leaves it out.
    """

    title: str
    command: str
    evaluation: Evaluation
    network: Classifier | None = None
    history: Sequence[EpochRow] = ()
    selected_top1: float | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    pictures: Mapping[str, int] = field(default_factory=dict)
    training_seconds: float | None = None
    training_speed: float | None = None
    seed: int | None = None
    machine: str | None = None
    versions: Mapping[str, str] | None = None
    finished: datetime | None = None
