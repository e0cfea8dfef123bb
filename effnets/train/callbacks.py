"""Callbacks that are invoked during training, and the logger among them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnets.errors import ArgumentError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from effnets.report.write import EpochRow
    from effnets.train.recipe import Recipe

LOGGERS = ("tensorboard", "wandb")


class Callback:
    """Base class of callbacks; its methods do nothing. An exception that a callback raises ends the training."""

    def on_message(self, text: str) -> None:
        """Receive a message for the user, such as which images were left out."""

    def on_progress(self, what: str, fraction: float) -> None:
        """Receive what is being done, and the fraction of it that is done, 0 to 1."""

    def on_epoch_end(self, row: EpochRow) -> None:
        """Receive the figures of an epoch; epoch 0 is the state before training."""

    def on_end(self, metrics: dict[str, Any]) -> None:
        """Receive the content of ``metrics.json`` when the run has finished."""


class ProgressCallback(Callback):
    """Give a function what is being done, and the fraction of it that is done, 0 to 1."""

    def __init__(self, progress: Callable[[str, float], object]) -> None:
        self._progress = progress

    def on_progress(self, what: str, fraction: float) -> None:
        self._progress(what, fraction)


class CallbackList(Callback):
    """Several callbacks as one."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self.callbacks = list(callbacks)

    def on_message(self, text: str) -> None:
        for callback in self.callbacks:
            callback.on_message(text)

    def on_progress(self, what: str, fraction: float) -> None:
        for callback in self.callbacks:
            callback.on_progress(what, fraction)

    def on_epoch_end(self, row: EpochRow) -> None:
        for callback in self.callbacks:
            callback.on_epoch_end(row)

    def on_end(self, metrics: dict[str, Any]) -> None:
        for callback in self.callbacks:
            callback.on_end(metrics)


def check_loggers(log_with: str | Sequence[str]) -> list[str]:
    """Return the loggers as a list.

    Raises:
        ArgumentError: if a logger is unknown, or its package is not installed.
    """
    names = [log_with] if isinstance(log_with, str) else list(log_with)
    for name in names:
        if name not in LOGGERS:
            raise ArgumentError(f"log_with is {name!r}; choose from {', '.join(LOGGERS)}")
        try:
            version(name)
        except PackageNotFoundError:
            raise ArgumentError(f"log_with is {name!r}, which is not installed; pip install {name}") from None
    return names


class ExperimentLogger(Callback):
    """Log every epoch to TensorBoard or Weights & Biases, through the trackers of Accelerate.

    TensorBoard writes into ``logs/`` of the run folder. Weights & Biases works offline and writes into ``wandb/``
    there, for ``wandb sync`` to upload, unless the environment variable ``WANDB_MODE`` says otherwise. The epochs of
    the classifier's head start are left out.

    Args:
        accelerator: made with ``log_with``.
        recipe: logged as the configuration.
        folder: of the run.
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe, folder: Path) -> None:
        self.accelerator = accelerator
        self.phase = "head" if recipe.freeze == "backbone" else "all"
        settings = recipe.to_dict()
        settings |= {f"augmentation.{name}": value for name, value in settings.pop("augmentation").items()}
        plain = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings.items()}
        wandb = {"dir": str(folder), "mode": os.environ.get("WANDB_MODE", "offline")}
        accelerator.init_trackers("effnets", plain, init_kwargs={"wandb": wandb})

    def on_epoch_end(self, row: EpochRow) -> None:
        if row.phase != self.phase:
            return
        values = {
            "train/loss": row.train_loss,
            "train/learning_rate": row.learning_rate if row.seconds else None,
            "train/images_per_second": row.images / row.seconds if row.seconds else None,
            "val/top1": row.val_top1,
            "val/loss": row.val_loss,
            "val/average_top1": row.average_top1,
            "val/average_loss": row.average_loss,
            "val/mean_ap": row.val_mean_ap,
            "val/average_mean_ap": row.average_mean_ap,
        }
        self.accelerator.log({name: value for name, value in values.items() if value is not None}, step=row.epoch)

    def on_end(self, metrics: dict[str, Any]) -> None:
        values = {f"test/{name}": metrics[f"test_{name}"] for name in ("top1", "loss", "mean_ap")}
        step = max(row["epoch"] for row in metrics["epochs"])
        self.accelerator.log({name: value for name, value in values.items() if value is not None}, step=step)
        for tracker in self.accelerator.trackers:
            tracker.finish()
