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
    """The figures of one epoch of training; None for what was not measured.

    Attributes:
        epoch: from 1; 0 for the state before training.
        phase: ``head`` (the classifier alone, on cached features) or ``all``.
        learning_rate: of the last layer, at the end of the epoch.
        train_loss: mean of the minimized loss over the epoch's batches.
        val_top1, val_loss: of the weights on validation: top-1 in per cent, and mean cross entropy.
        average_top1, average_loss: the same of the moving average of the weights.
        seconds: of training. val_seconds: of validation. images: trained on.
    """

    epoch: int
    phase: str = "all"
    learning_rate: float = 0.0
    train_loss: float | None = None
    val_top1: float | None = None
    val_loss: float | None = None
    average_top1: float | None = None
    average_loss: float | None = None
    seconds: float = 0.0
    val_seconds: float = 0.0
    images: int = 0


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
