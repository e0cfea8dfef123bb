"""From photographs to a network that knows them: the front door to training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from effnets.errors import TrainingError
from effnets.train.checkpoint import RunFolder
from effnets.train.progress import SILENT, Listener
from effnets.train.recipe import Recipe, find_recipe, read_recipe
from effnets.train.shutdown import StopSignals

if TYPE_CHECKING:
    from effnets.data.checks import Check
    from effnets.nn.classifier import Classifier

__all__ = ["TrainedModel", "finetune"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """What a training left in its folder.

    Attributes:
        folder: with ``model.safetensors`` and all that `effnets.create_model` needs, ``metrics.json``, the recipe.
        metrics: the content of ``metrics.json``.
    """

    folder: Path
    metrics: dict[str, Any]

    @property
    def best_top1(self) -> float | None:
        """Per cent of the validation pictures, of the weights that were kept; None without such pictures."""
        value: float | None = self.metrics["best_top1"]
        return value

    @property
    def test_top1(self) -> float | None:
        """Per cent of the pictures in test/, measured once at the end; None without such pictures."""
        value: float | None = self.metrics["test_top1"]
        return value

    def load(self) -> Classifier:
        """The network, in evaluation mode."""
        from effnets.factory import create_model

        return create_model(self.folder, pretrained=True).eval()


def finetune(
    recipe: Recipe | str | os.PathLike[str],
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    strict: bool = False,
    check: Check = "quick",
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
    listener: Listener = SILENT,
    command: str | None = None,
) -> TrainedModel:
    """Train a network on photographs, and leave the best of it in a folder.

    The weights that validation judges best are kept, be they the last step's or their moving average; test/ is
    measured once, with these, and selects nothing. Run by ``torchrun`` or ``accelerate launch``, all processes train
    together. Torch's generators are left as they were.

    On a CPU with glibc, a step that frees and takes the same large tensors is about a tenth faster with the environment
    variables ``MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_THRESHOLD_=1073741824``.

    Args:
        recipe: every setting; or the name or file of a recipe.
        data: what `effnets.data.open_data` takes: a folder by class, a manifest, an archive, …
        output: the training's folder, made if it is not there.
        resume: go on from the last checkpoint in `output`, to the very tensors that an undisturbed training ends with
            on this machine. Starts where there is none; does nothing where training is over.
        strict: let a picture that cannot be read be an error; otherwise some are left out, and named.
        check: how pictures are looked at beforehand: "quick" (their headers), "full" (decoded) or "none".
        image_column, label_column: of tables, where they do not have their usual names.
        class_names: of the classes 0, 1, …, where labels are mere numbers; or instead of the data's own.
        listener: who is told how far it is.
        command: to be recorded.

    Raises:
        ReportError: the report cannot be written. The network is; `resume` measures it and writes the report again.
        TrainingError: the folder is another training's, the loss is no number any more, a process was lost, or the
            disk refuses. Checkpoints that were written are intact.
        TrainingInterruptedError: SIGTERM or SIGINT asked to end; everything is saved.
        DataError, MissingFileError, ConfigError, WeightsError, …: as `open_data`, `read_recipe`, `create_model`.
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(find_recipe(recipe))
    folder = RunFolder(output)
    metrics = folder.finished()
    if metrics is not None:
        if not resume:
            raise TrainingError(f"{folder.path}: holds a training that is over; name another folder")
        folder.check(recipe, resume=True)
        listener.note(f"{folder.path}: this training is over; nothing to do (its data: {metrics.get('data')})")
        return TrainedModel(folder=folder.path, metrics=metrics)

    from accelerate import Accelerator

    from effnets.data.open import DataConfig, open_data
    from effnets.train.session import Session

    config = DataConfig(
        data,
        image_column=image_column,
        label_column=label_column,
        class_names=class_names,
        val_share=recipe.val_share,
        check=check,
        strict=strict,
    )
    accelerator = Accelerator()
    _check_processes(recipe, accelerator.num_processes)
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), StopSignals() as stop:
        session = Session(
            recipe=recipe,
            data=os.fspath(data),
            folder=folder,
            resume=resume,
            strict=strict,
            open_splits=lambda progress: open_data(config, seed=recipe.seed, progress=progress),
            accelerator=accelerator,
            stop=stop,
            listener=listener,
            command=command,
        )
        try:
            metrics = session.run()
        except RuntimeError as error:
            if accelerator.num_processes == 1 or isinstance(error, TrainingError):
                raise
            raise TrainingError(_lost(error)) from error
    return TrainedModel(folder=folder.path, metrics=metrics)


def _check_processes(recipe: Recipe, processes: int) -> None:
    if recipe.accumulate % processes:
        raise TrainingError(
            f"accumulate is {recipe.accumulate} and there are {processes} processes, which share the "
            f"batches of a step: set accumulate to a multiple of {processes} (a step then sees "
            f"batch_size × accumulate pictures, {recipe.batch_size} × {processes} at least)"
        )


def _lost(error: RuntimeError) -> str:
    reason = " ".join(str(error).split())[:200]
    return (
        f"the processes of this training lost each other, so one of them has ended ({reason}); the last checkpoint is "
        "intact: see what that process says, and start all of them again with --resume"
    )
