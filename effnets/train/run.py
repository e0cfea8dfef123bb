"""A training run: `finetune`, and its steps `setup`, `fit` and `finish`."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from effnets.data.checks import Check
from effnets.data.dataset import CachedDataset
from effnets.data.open import DataConfig
from effnets.errors import TrainingError
from effnets.train.bn_calibration import adapts_backbone
from effnets.train.callbacks import Callback, CallbackList, ExperimentLogger, check_loggers
from effnets.train.checkpoint import RUN_STATE, Checkpointer, finished_metrics
from effnets.train.loss import Loss
from effnets.train.model import choose_precision, to_device
from effnets.train.optim import epoch_repeats, learning_rate, make_optimizer
from effnets.train.recipe import Recipe, find_recipe, read_recipe
from effnets.train.run_state import RunState
from effnets.train.task import Task, task_of, validation_loader
from effnets.train.teacher import load_teacher
from effnets.train.trainer import TrainContext, Trainer
from effnets.utils.shutdown import GracefulShutdown

if TYPE_CHECKING:
    from effnets.data.dataset import ImageDataset
    from effnets.data.splits import Splits
    from effnets.nn.classifier import Classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """The result of a training.

    Attributes:
        folder: with ``model.safetensors`` and all that `effnets.create_model` needs, ``metrics.json``, the recipe.
        metrics: the content of ``metrics.json``.
    """

    folder: Path
    metrics: dict[str, Any]

    @property
    def best_top1(self) -> float | None:
        """Top-1 on validation of the best weights, in per cent; None without validation images."""
        return self.metrics["best_top1"]

    @property
    def test_top1(self) -> float | None:
        """Top-1 on test/, in per cent, measured once at the end; None without test images."""
        return self.metrics["test_top1"]

    def load(self) -> Any:
        """Load the best model, in evaluation mode."""
        return task_of(self.metrics["recipe"].get("task", "classify")).load(self.folder).eval()


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
    callbacks: Sequence[Callback] = (),
    log_with: str | Sequence[str] = (),
    command: str | None = None,
) -> TrainedModel:
    """Train a network on labeled images, and keep the best of it in a folder.

    The weights that are best on validation are kept, either those of a step or their moving average; test/ is measured
    once, with these, and selects nothing. Under ``torchrun`` or ``accelerate launch``, all processes train together.
    Torch's generators are left as they were.

    On a CPU with glibc, the environment variables ``MALLOC_TRIM_THRESHOLD_=1000000000`` and
    ``MALLOC_MMAP_THRESHOLD_=1000000000`` keep freed memory in the process, which saves up to a third of a step's time.
    The commands do so by themselves; this function leaves its caller's process as it is.

    Args:
        recipe: every setting; or the name or file of a recipe.
        data: what `effnets.data.open_data` takes: a folder by class, a CSV file, an archive, …
        output: the folder of the run; made if missing.
        resume: continue from the last checkpoint in `output`, to the tensors that an undisturbed training ends with on
            this machine; what `recipe` leaves at its default is as it was there. Starts if there is no checkpoint; does
            nothing if the training is finished.
        strict: raise if an image cannot be read, instead of leaving some out with a message.
        check: of the images before training: "quick" (headers), "full" (decoded) or "none".
        image_column: of tables that do not have the usual names.
        label_column: likewise.
        class_names: of the classes 0, 1, …, if labels are numbers; or instead of the data's own.
        callbacks: invoked during training.
        log_with: "tensorboard", "wandb" or both: log every epoch into the folder of the run.
        command: recorded in the metrics and the report.

    Raises:
        ReportError: if the report cannot be written. The model and its metrics are saved; `resume` writes the report.
        TrainingError: if the folder holds another training, the loss becomes NaN or infinite, a process is lost, or the
            disk refuses. Earlier checkpoints are intact.
        TrainingInterruptedError: if SIGTERM or SIGINT was received; everything is saved.
        DataError, MissingFileError, ConfigError, WeightsError, …: as `open_data`, `read_recipe`, `create_model`.
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(find_recipe(recipe))
    loggers = check_loggers(log_with)
    checkpointer = Checkpointer(output, recipe)
    if resume:
        recipe = checkpointer.merge_recipe()
    config = DataConfig(
        data,
        image_column=image_column,
        label_column=label_column,
        class_names=class_names,
        val_share=recipe.val_share,
        check=check,
        strict=strict,
    )
    callback = CallbackList(callbacks)
    metrics = finished_metrics(checkpointer.folder)
    if metrics is not None:
        if not resume:
            raise TrainingError(f"{checkpointer.folder}: holds a finished training; name another folder")
        checkpointer.check(os.fspath(data), resume=True)
    if metrics is not None and metrics.get("report") != _PENDING:
        callback.on_message(
            f"{checkpointer.folder}: this training is finished; nothing to do (its data: {metrics.get('data')})"
        )
        return TrainedModel(folder=checkpointer.folder, metrics=metrics)

    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    project = ProjectConfiguration(logging_dir=str(checkpointer.folder / "logs"))
    accelerator = Accelerator(log_with=loggers or None, project_config=project)
    if recipe.accumulate % accelerator.num_processes:
        raise TrainingError(
            f"accumulate is {recipe.accumulate} and there are {accelerator.num_processes} processes, which share the "
            f"batches of a step: set accumulate to a multiple of {accelerator.num_processes} (a step then sees "
            f"batch_size × accumulate images, {recipe.batch_size} × {accelerator.num_processes} at least)"
        )
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), GracefulShutdown() as shutdown:
        context = TrainContext(accelerator=accelerator, shutdown=shutdown, callback=callback, strict=strict)
        try:
            run = Run.setup(recipe, config, checkpointer, context, resume=resume, command=command)
            opened = checkpointer.open(run.state.data, resume=resume)
            with opened if accelerator.is_main_process else nullcontext():
                accelerator.wait_for_everyone()
                if loggers:
                    callback.callbacks.append(ExperimentLogger(accelerator, run.recipe, checkpointer.folder))
                metrics = run.finish(run.fit())
        except RuntimeError as error:
            if accelerator.num_processes == 1 or isinstance(error, TrainingError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"a process of this training exited ({reason}); the last checkpoint is intact: see the output of that "
                "process, and start all of them again with --resume"
            ) from error
    callback.on_end(metrics)
    return TrainedModel(folder=checkpointer.folder, metrics=metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run. `setup` makes it, `fit` trains it, and `finish` measures the best model.

    Attributes:
        recipe: with a learning rate that suits the model, if none was stated. task: of the recipe.
        splits: the data. train: of these the training images.
        model: with its initial weights, frozen as far as it will be.
        has_class_head: whether these weights have a classifier for the classes of the data.
        optimizer: of the model, and of what the loss learns. loss: of a batch.
        state: what is recorded of the run.
        checkpointer: of the run's folder.
        context: devices, signals, callbacks.
    """

    recipe: Recipe
    task: Task
    splits: Splits
    train: ImageDataset
    model: Classifier
    has_class_head: bool
    optimizer: Optimizer
    loss: Loss
    state: RunState
    checkpointer: Checkpointer
    context: TrainContext

    @classmethod
    def setup(
        cls,
        recipe: Recipe,
        config: DataConfig,
        checkpointer: Checkpointer,
        context: TrainContext,
        *,
        resume: bool = False,
        command: str | None = None,
        task: Task | None = None,
    ) -> Run:
        """Open the data and build the model: everything that can fail early; writes nothing. `task`: not the recipe's.

        Raises:
            TrainingError: if the folder is refused, there are too few training images, the model cannot train on one
                image at a time, or the teacher or what is to be frozen does not fit.
            ArgumentError: if there is no such optimizer, or it does not take its settings.
            as `open_data`, `effnets.create_model`.
        """
        data = os.fspath(config.path)
        checkpointer.check(data, resume=resume)
        context.accelerator.wait_for_everyone()  # or the main process might write before another one checks
        task = task_of(recipe.task) if task is None else task
        splits = task.open_data(config, recipe, context.progress("the data were opened"))
        context.shutdown.check("the data were opened")
        train = splits.train
        if train is None:
            raise TrainingError(f"{data}: has no training images; put them into train/")
        if len(train) < recipe.accumulate:
            raise TrainingError(
                f"accumulate is {recipe.accumulate}, and {data} has {len(train)} training images, of which every "
                f"forward pass of a step takes at least one; lower accumulate to {len(train)} or less"
            )
        torch.manual_seed(recipe.seed)
        model, has_class_head = task.build_model(recipe, train.class_names)
        splits, train = splits.with_channels(model.in_chans), train.with_channels(model.in_chans)
        notes = [*splits.notes, *recipe.augmentation.notes(model.in_chans)]
        notes += task.check(model, recipe, train)
        if unused := recipe.changed(task.unused):
            notes.append(f"without effect with task: {recipe.task}: {', '.join(unused)}")
        loss = task.make_loss(model, recipe, train, load_teacher(recipe, model))
        optimizer = make_optimizer(model, recipe, loss.learned.values())
        recipe = replace(recipe, learning_rate=learning_rate(recipe, model))
        parts = {"train": train, "val": splits.val, "test": splits.test}
        state = RunState(
            recipe=recipe,
            data=data,
            command=command,
            class_names=train.class_names,
            images={split: 0 if part is None else len(part) for split, part in parts.items()},
            digests={split: part.digest() for split, part in parts.items() if part is not None},
            revision=splits.revision,
            processes=context.accelerator.num_processes,
            epoch_repeats=epoch_repeats(recipe, train),
            messages=notes,
        )
        return cls(
            recipe=recipe,
            task=task,
            splits=splits,
            train=train,
            model=model,
            has_class_head=has_class_head,
            optimizer=optimizer,
            loss=loss,
            state=state,
            checkpointer=checkpointer,
            context=context,
        )

    def fit(self) -> Trainer:
        """Train to the end, from the last checkpoint if there is one.

        Raises:
            TrainingError: if the data are not those of the checkpoint; or as `Trainer.fit`.
            TrainingInterruptedError: if a signal was received; the state is saved.
        """
        to_device(self.model, self.context.accelerator.device)
        saved = self.checkpointer.load()
        if saved is None:
            self._prepare()
        else:
            self.state.load_state_dict(saved[RUN_STATE])
        for message in self.state.messages:
            self.context.callback.on_message(message)
        train = self.task.cache(self.train, self.model, self.recipe, None if saved is None else self.state.cached)
        self.state.cached = isinstance(train, CachedDataset)
        trainer = self._trainer(train)
        if saved is not None:
            trainer.load_state_dict(saved)
        with closing(trainer.train_loader):
            trainer.fit()
        return trainer

    def finish(self, trainer: Trainer) -> dict[str, Any]:
        """Measure the best model, mark the run as finished, and write the report, in this order; return the metrics."""
        accelerator = self.context.accelerator
        metrics = self._finish(trainer) if accelerator.is_main_process else {}
        if accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            metrics = broadcast_object_list([metrics], from_process=0)[0]
        return metrics

    def _prepare(self) -> None:
        """Do what comes before the first checkpoint: statistics, precision, and the classifier's head start."""
        recipe, model, state, context = self.recipe, self.model, self.state, self.context
        probe = recipe.freeze == "backbone"
        if probe:  # normalizes by no batch, and computes its features in float32
            from effnets.train.linear_probe import unused_by_probes

            if adapts_backbone(model, recipe):
                state.messages.append(_ADAPTED)
            if unused := unused_by_probes(recipe):
                state.messages.append(f"without effect with freeze: backbone: {', '.join(unused)}")
        else:
            if message := self.task.restore_statistics(model, recipe, self.train, context):
                state.messages.append(message)
            auto = recipe.precision == "auto"
            state.precision = choose_precision(context.accelerator.device) if auto else recipe.precision
        self._share_start()
        starts_blank = self.task.learns_classes and not self.has_class_head
        if not probe and recipe.head_epochs and recipe.weights != "random" and starts_blank:
            from effnets.train.linear_probe import train_head

            context.callback.on_progress("computing features for the classifier's head start", 0.0)
            state.head_rows = train_head(model, self.train, recipe, context)

    def _share_start(self) -> None:
        """Give all processes the main one's model and precision: machines may round differently."""
        if self.context.accelerator.num_processes == 1:
            return
        from accelerate.utils import broadcast, broadcast_object_list

        self.state.precision = broadcast_object_list([self.state.precision], from_process=0)[0]
        with torch.no_grad():
            for tensor in self.model.state_dict().values():
                tensor.copy_(broadcast(tensor.contiguous(), from_process=0))

    def _trainer(self, train: ImageDataset) -> Trainer:
        recipe, model, state, context = self.recipe, self.model, self.state, self.context
        loss, val = self.loss, self.splits.val
        if recipe.freeze == "backbone":
            from effnets.train.linear_probe import fold_probe, probe_features, probe_trainer

            context.callback.on_progress("computing features", 0.0)
            features = probe_features(model, train, recipe, context, self.checkpointer.states)
            state.track_corrupt("train", features.corrupt)
            val_loader = None if val is None else validation_loader(val, model, recipe, context, state)
            trainer = probe_trainer(model, features, val_loader, loss, recipe, context, self.checkpointer)
        else:
            train_loader = self.task.make_train_loader(train, model, recipe, context, state)
            validator = None if val is None else self.task.make_validator(val, model, recipe, context, state)
            trainer = Trainer(
                network=model,
                loss=loss.to(context.accelerator.device),
                optimizer=self.optimizer,
                train_loader=train_loader,
                validator=validator,
                recipe=recipe,
                phase="all",
                context=context,
                precision=state.precision,
                checkpointer=self.checkpointer,
            )
        best = copy.deepcopy(model).cpu().eval()

        def assemble(weights: dict[str, Tensor]) -> Any:
            if recipe.freeze == "backbone":
                fold_probe(weights, best)
            else:
                best.load_state_dict(weights)
            return best

        self.checkpointer.attach(state, assemble, self.task.save)
        return trainer

    def _finish(self, trainer: Trainer) -> dict[str, Any]:
        state, callback = self.state, self.context.callback
        assert trainer.best.weights is not None, "training is over"
        model = self.checkpointer.assemble(trainer.best.weights)
        to_device(model, self.context.accelerator.device)
        known = len(state.messages)
        state.messages += [f"kept {decision}" for decision in trainer.progress.decisions]
        # The model is saved; after an interruption this is done again.
        found, write = self.task.measure(model, self.splits, state, trainer.progress, self.context)
        for message in state.messages[known:]:
            callback.on_message(message)
        metrics = state.metrics(trainer.progress, finished=True) | found | {"report": None}
        if write is not None:
            self.checkpointer.save_metrics(metrics | {"report": _PENDING})  # whatever happens to the report
            callback.on_progress("writing the report", 1.0)
            metrics["report"] = write(self.checkpointer.folder).name
        self.checkpointer.save_metrics(metrics)
        return metrics


_PENDING = "pending"  # in metrics.json: the report failed, and is written when the run is resumed
_ADAPTED = (
    "the backbone's batch statistics were moved towards those of the training images; set bn to eval to keep the "
    "weights' own"
)
