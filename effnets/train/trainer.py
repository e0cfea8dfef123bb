"""The training loop, and the selection of the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from effnets.errors import TrainingError, TrainingInterruptedError
from effnets.evaluation.validate import Score
from effnets.report.write import EpochRow
from effnets.train.callbacks import Callback
from effnets.train.checkpoint import Checkpointer
from effnets.train.loss import Loss
from effnets.train.optim import RateSchedule, ema_decay, learning_rate, warmup_epochs
from effnets.train.recipe import Recipe
from effnets.train.run_state import Best, Progress
from effnets.train.teacher import ProjectedStudent
from effnets.utils.shutdown import GracefulShutdown

if TYPE_CHECKING:
    from accelerate import Accelerator

    from effnets.data.loader import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainContext:
    """What all parts of a run share.

    Attributes:
        accelerator: devices and processes.
        shutdown: requests to stop.
        callback: invoked during training.
        strict: whether an image that cannot be read is an error.
    """

    accelerator: Accelerator
    shutdown: GracefulShutdown
    callback: Callback = field(default_factory=Callback)
    strict: bool = False

    def progress(self, doing: str) -> Callable[[str, float], None]:
        """Return a progress function that raises on a signal; `doing` says what was interrupted."""

        def progress(what: str, fraction: float) -> None:
            self.callback.on_progress(what, fraction)
            self.shutdown.check(doing)

        return progress


class TrainLoader(Protocol):
    """Training batches, as `effnets.data.loader.EpochLoader` yields them."""

    @property
    def batch_size(self) -> int:
        """Images in a micro-batch; fewer than the recipe's where the data has fewer."""

    def __len__(self) -> int: ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield this process's batches of an epoch, from a global position on."""

    def close(self) -> None:
        """Release what prepares the batches; there are no more after this."""


Validator = Callable[[nn.Module], Score]


class BestModelTracker:
    """Validates a network and the moving average of its weights, and keeps the best.

    Args:
        network: that is trained. average: of its weights, or None.
        validator: measures the network, together with all processes; None without images: the last weights are kept.
        context: processes and signals.

    Attributes:
        weights: of the best model so far, on the CPU; None before the first `update`.
    """

    def __init__(
        self, network: nn.Module, average: nn.Module | None, validator: Validator | None, context: TrainContext
    ) -> None:
        self.network, self.average, self.validator, self.context = network, average, validator, context
        self.weights: dict[str, Tensor] | None = None

    def update(self, row: EpochRow, progress: Progress) -> bool:
        """Validate, and keep the better of this epoch's weights and their average, unless earlier ones were better.

        They are compared as of `Score.better_than`. Of the two of one epoch the lower loss decides between equals.
        Earlier ones stay only if they are better beyond chance: with falling rates later ones are better, and on a
        hundred images a lower loss says little. Without validation the last are kept.

        Returns:
            Whether there is a new best model.

        Raises:
            TrainingInterruptedError: if a signal was received; nothing has changed.
        """
        begin = time.perf_counter()
        self._share_statistics()
        candidates: list[tuple[nn.Module, bool]] = [(self.network, False)]
        if self.average is not None and row.epoch > 0:
            candidates.append((self.average, True))
        scores: list[Score | None] = [None] * len(candidates)
        if self.validator is not None:
            scores = [self.validator(network) for network, _ in candidates]
        earlier_peak, progress.decisions = progress.peak, []
        chosen: Best | None = None
        for (network, average), score in zip(candidates, scores, strict=True):
            if score is not None and score.better_than(progress.peak)[0]:
                progress.peak = score
            candidate = Best(score=score, epoch=row.epoch, phase=row.phase, average=average)
            if not candidate.is_finite or not all_finite(network.state_dict()):
                continue
            if chosen is None or chosen.score is None or score is None:
                chosen, source = candidate, network
                continue
            better, why = score.better_than(chosen.score)
            other = chosen if better else candidate
            chosen, source = (candidate, network) if better else (chosen, source)
            progress.decisions.append(f"{chosen} rather than {other}: {why}")
        # Without validation nothing can be stale.
        progress.stale = 0 if progress.peak is None or progress.peak != earlier_peak else progress.stale + 1
        found = chosen is not None and (progress.best is None or not progress.best.clearly_better_than(chosen))
        if found:
            progress.best = chosen
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in source.state_dict().items()}
        elif chosen is not None:
            progress.decisions = [f"{progress.best} rather than {chosen}: it is better beyond chance"]
        row = _with_scores(row, scores, time.perf_counter() - begin)
        progress.rows.append(row)
        self.context.callback.on_epoch_end(row)
        return found

    def _share_statistics(self) -> None:
        """Give all processes the main one's batch statistics, which follow the batches that a process has seen."""
        if self.context.accelerator.num_processes == 1:
            return
        from accelerate.utils import broadcast

        for network in filter(None, (self.network, self.average)):
            for buffer in network.buffers():
                buffer.copy_(broadcast(buffer.contiguous(), from_process=0))


def all_finite(state: Any) -> bool:
    """Return whether all tensors in `state`, such as weights, statistics and moments, are finite."""
    if isinstance(state, Tensor):
        return bool(state.isfinite().all())
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return all(map(all_finite, values))


def _with_scores(row: EpochRow, scores: list[Score | None], seconds: float) -> EpochRow:
    row = replace(row, val_seconds=seconds)
    if (first := scores[0]) is not None:
        row = replace(row, val_top1=first.top1, val_loss=first.loss, val_mean_ap=first.mean_ap)
    if len(scores) > 1 and (second := scores[1]) is not None:
        row = replace(row, average_top1=second.top1, average_loss=second.loss, average_mean_ap=second.mean_ap)
    return row


# On a GPU, the CPU runs ahead by this many steps before it waits for their results and answers signals.
_STEPS_AHEAD = 20
_STEP_STREAM = 7


class Trainer:
    """Trains a network, and keeps the best weights by validation.

    Args:
        network: to train; already on the device.
        loss: of a batch. optimizer: of the network's parameters; its rates now are the highest.
        train_loader: the training batches.
        validator: measures the network, together with all processes; None without images: the last weights are kept.
        recipe: settings of the training.
        phase: of the rows.
        context: devices, signals, callbacks.
        precision: ``bfloat16`` for autocast.
        checkpointer: saves states and the best weights; None saves nothing.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        loss: Loss,
        optimizer: Optimizer,
        train_loader: TrainLoader,
        validator: Validator | None,
        recipe: Recipe,
        phase: str,
        context: TrainContext,
        precision: str = "float32",
        checkpointer: Checkpointer | None = None,
    ) -> None:
        from timm.utils import ModelEmaV3

        self.network, self.loss, self.optimizer, self.train_loader = network, loss, optimizer, train_loader
        self.recipe, self.phase, self.context, self.checkpointer = recipe, phase, context, checkpointer
        self.dtype = torch.bfloat16 if precision == "bfloat16" else None
        self.accelerator = context.accelerator
        self.processes = self.accelerator.num_processes
        self.steps_per_epoch = len(train_loader) // recipe.accumulate
        self.rates = RateSchedule(optimizer, recipe, self.steps_per_epoch, recipe.epochs)
        decay = ema_decay(recipe, self.steps_per_epoch * recipe.epochs)
        self.average = ModelEmaV3(network, decay=decay, use_warmup=True) if recipe.ema_decay else None
        average = None if self.average is None else self.average.module
        self.best = BestModelTracker(network, average, validator, context)
        self.learned, trained = loss.learned, network
        if loss.teacher is not None and "projection" in self.learned:
            trained = ProjectedStudent(network, loss.teacher)
        # Only now: the copy must not be wrapped.
        self.model: nn.Module = self.accelerator.prepare_model(trained)
        self.progress = Progress()
        self.stopping = False

    def fit(self) -> dict[str, Tensor]:
        """Train to the end.

        Returns:
            The best weights.

        Raises:
            TrainingError: if the loss becomes NaN or infinite, a process is lost, or the disk refuses.
            TrainingInterruptedError: if a signal was received; the state is saved.
        """
        if self.progress.step == 0 and self.progress.best is None:
            self._validate(EpochRow(phase=self.phase, epoch=0))
            self._save()
        while not self.progress.done:
            self._train_epoch()
            self._finish_epoch()
            self._save()
            self._stop_if_requested()
        assert self.best.weights is not None, "without validation the last weights are kept"
        return self.best.weights

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `load_state_dict` needs."""
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "ema_decay": None if self.average is None else self.average.decay,
            **{name: part.state_dict() for name, part in self.learned.items()},
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "best": self.best.weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from an earlier `state_dict`, perhaps with another number of processes."""
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
            self.average.decay = state.get("ema_decay", self.recipe.ema_decay)  # runs of earlier versions have no limit
        for name, part in self.learned.items():
            part.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress.from_dict(state["progress"])
        self.best.weights = state["best"]

    def _train_epoch(self) -> None:
        progress, accumulate = self.progress, self.recipe.accumulate
        self.network.train()
        batches = self.train_loader.batches(progress.epoch, start=progress.batch)
        losses: list[Tensor] = []
        for number in range(progress.batch // accumulate, self.steps_per_epoch):
            begin = time.perf_counter()
            losses.append(self._step(batches))
            progress.batch += accumulate
            progress.step += 1
            last = number == self.steps_per_epoch - 1
            if last or self.accelerator.device.type == "cpu" or progress.step % _STEPS_AHEAD == 0:
                due = self._synchronize(losses)
                losses = []
            else:
                due = False
            progress.seconds += time.perf_counter() - begin
            if not last and (self.stopping or due):
                self._save()
                self._stop_if_requested()

    def _step(self, batches: Iterator[Batch]) -> Tensor:
        """Take one step of the optimizer; return the sum of the losses of this process's batches."""
        share = self.recipe.accumulate // self.processes
        self.rates.set(self.progress.step)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64 if self.accelerator.device.type == "cpu" else torch.float32)
        total = total.to(self.accelerator.device)
        for turn in range(share):
            batch = next(batches)
            with self._gradient_sync(turn == share - 1):
                loss = self._loss(batch)
                self.accelerator.backward(loss / share)
            total += loss.detach()
        criterion = self.learned["criterion"].parameters() if "criterion" in self.learned else ()
        beside = [parameter for parameter in criterion if parameter.grad is not None]  # of the wrapped model
        if self.processes > 1:
            for parameter in beside:
                parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        if self.recipe.clip_grad:
            self.accelerator.clip_grad_norm_([*self.model.parameters(), *beside], self.recipe.clip_grad)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network, step=self.progress.step + 1)
        return total

    def _loss(self, batch: Batch) -> Tensor:
        key = (self.recipe.seed, _STEP_STREAM, self.progress.epoch, batch.number)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
        with torch.autocast(self.accelerator.device.type, self.dtype, enabled=self.dtype is not None):
            return self.loss.compute(self.model, batch)

    def _gradient_sync(self, last: bool) -> AbstractContextManager[Any]:
        """Average gradients over the processes once in a step, with its last batch."""
        return nullcontext() if last or self.processes == 1 else self.accelerator.no_sync(self.model)

    def _synchronize(self, losses: list[Tensor]) -> bool:
        """Wait for the last steps; let all processes agree whether to stop, and whether a checkpoint is due.

        Returns:
            Whether a checkpoint is due.

        Raises:
            TrainingError: if the loss is NaN or infinite.
        """
        due = self.checkpointer is not None and self.accelerator.is_main_process and self.checkpointer.due()
        flags = torch.tensor([self.context.shutdown.received is not None, due], dtype=torch.float64)
        sums = torch.cat([torch.stack(losses).sum().cpu().double().view(1), flags])
        if self.processes > 1:
            sums = self.accelerator.reduce(sums.to(self.accelerator.device), reduction="sum").cpu()
        loss, stop, save = sums.tolist()
        self.stopping = stop > 0
        if not math.isfinite(loss):
            raise TrainingError(self._divergence())
        self.progress.loss_sum += loss
        epochs = self.recipe.epochs
        mean = loss / (len(losses) * self.recipe.accumulate)
        self.context.callback.on_progress(
            f"epoch {self.progress.epoch + 1}/{epochs}, loss {mean:.3f}",
            self.progress.step / (self.steps_per_epoch * epochs),
        )
        return save > 0

    def _divergence(self) -> str:
        where = f"epoch {self.progress.epoch + 1}, step {self.progress.batch // self.recipe.accumulate}"
        return (
            f"the loss became NaN or infinite at {where}; the last good checkpoint is intact. Lower learning_rate (now "
            f"{learning_rate(self.recipe, self.network):g}), set clip_grad to 1, or lengthen warmup_epochs (now "
            f"{warmup_epochs(self.recipe, self.recipe.epochs):g}), in a new folder"
        )

    def _finish_epoch(self) -> None:
        progress = self.progress
        batches = self.steps_per_epoch * self.recipe.accumulate
        row = EpochRow(
            phase=self.phase,
            epoch=progress.epoch + 1,
            learning_rate=max(group["lr"] for group in self.optimizer.param_groups),
            train_loss=progress.loss_sum / batches,
            seconds=progress.seconds,
            images=batches * self.train_loader.batch_size,
        )
        self._validate(row)
        progress.epoch, progress.batch, progress.loss_sum, progress.seconds = progress.epoch + 1, 0, 0.0, 0.0
        patience = self.recipe.patience
        progress.done = progress.epoch >= self.recipe.epochs or (0 < patience <= progress.stale)

    def _validate(self, row: EpochRow) -> None:
        try:
            found = self.best.update(row, self.progress)
        except TrainingInterruptedError:
            self._save()  # at the end of the epoch's batches, so that a resumed run validates first
            raise
        if found and self.checkpointer is not None and self.accelerator.is_main_process:
            assert self.best.weights is not None, "found just now"
            self.checkpointer.save_best(self.best.weights)

    def _save(self) -> None:
        """Write a checkpoint.

        Raises:
            TrainingError: if something in it is NaN or infinite, or the disk refuses.
        """
        if self.checkpointer is None:
            return
        state = self.state_dict()
        if not all_finite(state):
            raise TrainingError(self._divergence())
        if self.accelerator.is_main_process:
            self.checkpointer.save(state)
        self.accelerator.wait_for_everyone()

    def _stop_if_requested(self) -> None:
        """Raise if this or another process received a signal, as all processes agreed."""
        if self.stopping and not self.progress.done:
            # The head start, of seconds, saves nothing.
            saved = "and its state is saved" if self.checkpointer is not None else "in the head start of its classifier"
            raise self.context.shutdown.interruption(f"training was interrupted, {saved}")
