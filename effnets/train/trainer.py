"""Which of a training's weights are kept: they and their average are judged after each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effnets.data.loader import Batch
from effnets.errors import TrainingError, TrainingInterruptedError
from effnets.report.summary import EpochRow
from effnets.train.loss import Objective
from effnets.train.optim import RateSchedule, learning_rate, make_optimizer, warmup_epochs
from effnets.train.progress import Best, Progress
from effnets.train.recipe import Recipe
from effnets.train.surroundings import Batches, Surroundings
from effnets.train.validate import Score, score


class Selection:
    """Measures a network and the moving average of its weights, and keeps the best.

    Args:
        network: that is trained. average: of its weights; None for none.
        judged_by: this process's share of the validation pictures; None where there are none, and the last is best.
        around: devices, listener, folder.

    Attributes:
        weights: what is kept, on the CPU; None before the first judgement.
    """

    def __init__(
        self,
        network: nn.Module,
        average: nn.Module | None,
        judged_by: Iterable[tuple[Tensor, Tensor]] | None,
        around: Surroundings,
    ) -> None:
        self.network, self.average, self.judged_by, self.around = network, average, judged_by, around
        self.weights: dict[str, Tensor] | None = None

    def judge(self, row: EpochRow, progress: Progress) -> None:
        """Measure the weights and their average, and keep what is as good as the best so far, to within the noise.

        Of equals the later is kept, and the average: with rates that fall they are the better ones, and which of them
        is ahead by a picture or two is chance. A hundred pictures tell apart what differs by some per cent.

        Raises:
            TrainingInterruptedError: a signal asked to end; nothing has changed.
        """
        begin = time.perf_counter()
        self._agree()
        candidates: list[tuple[nn.Module, bool]] = [(self.network, False)]
        if self.average is not None and row.epoch > 0:
            candidates.append((self.average, True))
        scores: list[Score | None] = [None] * len(candidates)
        if self.judged_by is not None:
            accelerator, stop = self.around.accelerator, self.around.stop
            scores = [score(network, self.judged_by, accelerator, stop) for network, _ in candidates]
        before, found = progress.peak, False
        for result in scores:
            if result is not None and result.better_than(progress.peak):
                progress.peak = result
        peak = progress.peak
        for (network, average), result in zip(candidates, scores, strict=True):
            good = result is None or peak is None or result.as_good_as(peak)
            if good and all_finite(network.state_dict()):
                progress.best = Best(score=result, epoch=row.epoch, phase=row.phase, average=average)
                self.weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
                found = True
        # Where nothing is judged, nothing can be stale.
        progress.stale = 0 if peak is None or peak != before else progress.stale + 1
        row = _with_scores(row, scores, time.perf_counter() - begin)
        progress.rows.append(row)
        self.around.listener.row(row)
        keeper = self.around.keeper
        if found and keeper is not None and self.around.accelerator.is_main_process:
            assert self.weights is not None, "found just now"
            keeper.keep(self.weights)

    def _agree(self) -> None:
        """Have all processes judge what the main one keeps: statistics follow the batches that each has seen."""
        if self.around.accelerator.num_processes == 1:
            return
        from accelerate.utils import broadcast

        for network in filter(None, (self.network, self.average)):
            for buffer in network.buffers():
                buffer.copy_(broadcast(buffer.contiguous(), from_process=0))


def all_finite(state: Any) -> bool:
    """Whether all tensors in `state` are numbers: weights, statistics, moments."""
    if isinstance(state, Tensor):
        return bool(state.isfinite().all())
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return all(map(all_finite, values))


def _with_scores(row: EpochRow, scores: list[Score | None], seconds: float) -> EpochRow:
    row = replace(row, val_seconds=seconds)
    if scores[0] is not None:
        row = replace(row, val_top1=scores[0].top1, val_loss=scores[0].loss)
    if len(scores) > 1 and scores[1] is not None:
        row = replace(row, average_top1=scores[1].top1, average_loss=scores[1].loss)
    return row


# On an accelerator the processor runs ahead of the steps; it waits for their results, and answers signals, so often.
_STEPS_AHEAD = 20
_STEP_STREAM = 7


class Trainer:
    """Trains a network, and keeps the best of what validation sees.

    Args:
        network: to train; already on the device.
        objective: its loss.
        batches: the training pictures.
        judged_by: this process's share of the validation pictures; None where there are none, and the last is best.
        recipe: how. epochs: how long.
        phase: what the rows are called.
        dtype: of autocast; None for none.
        around: devices, signals, folder.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        objective: Objective,
        batches: Batches,
        judged_by: Iterable[tuple[Tensor, Tensor]] | None,
        recipe: Recipe,
        epochs: int,
        phase: str,
        dtype: torch.dtype | None,
        around: Surroundings,
    ) -> None:
        from timm.utils import ModelEmaV3

        self.network, self.objective, self.batches = network, objective, batches
        self.recipe, self.epochs, self.phase, self.dtype, self.around = recipe, epochs, phase, dtype, around
        self.accelerator = around.accelerator
        self.processes = self.accelerator.num_processes
        self.steps_per_epoch = len(batches) // recipe.accumulate
        self.optimizer = make_optimizer(network, recipe)
        self.rates = RateSchedule(self.optimizer, recipe, self.steps_per_epoch, epochs)
        self.average = ModelEmaV3(network, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        average = None if self.average is None else self.average.module
        self.selection = Selection(network, average, judged_by, around)
        # Only now: the copy must not be wrapped.
        self.model: nn.Module = self.accelerator.prepare_model(network)
        self.progress = Progress()
        self.stopping = False

    def run(self) -> dict[str, Tensor]:
        """Train to the end.

        Returns:
            The weights that are kept.

        Raises:
            TrainingError: the loss is no number any more, a process was lost, or the disk refuses.
            TrainingInterruptedError: a signal asked to end, and the state is saved.
        """
        if self.progress.step == 0 and self.progress.best is None:
            self._judge(EpochRow(phase=self.phase, epoch=0))
            self._save()
        while not self.progress.done:
            self._train_epoch()
            self._finish_epoch()
            self._save()
            self._heed()
        assert self.selection.weights is not None, "the last weights are kept where none are judged"
        return self.selection.weights

    def state(self) -> dict[str, Any]:
        """Everything that `restore` wants."""
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self.progress.to_dict(),
            "best": self.selection.weights,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, perhaps with another number of processes."""
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress.from_dict(state["progress"])
        self.selection.weights = state["best"]

    def _train_epoch(self) -> None:
        progress, accumulate = self.progress, self.recipe.accumulate
        self.network.train()
        batches = self.batches.batches(progress.epoch, start=progress.batch)
        losses: list[Tensor] = []
        for number in range(progress.batch // accumulate, self.steps_per_epoch):
            begin = time.perf_counter()
            losses.append(self._step(batches))
            progress.batch += accumulate
            progress.step += 1
            last = number == self.steps_per_epoch - 1
            if last or self.accelerator.device.type == "cpu" or progress.step % _STEPS_AHEAD == 0:
                due = self._settle(losses)
                losses = []
            else:
                due = False
            progress.seconds += time.perf_counter() - begin
            if not last and (self.stopping or due):
                self._save()
                self._heed()

    def _step(self, batches: Iterator[Batch]) -> Tensor:
        """One step of the optimiser; returns the sum of the losses of this process's batches."""
        share = self.recipe.accumulate // self.processes
        self.rates.set(self.progress.step)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64 if self.accelerator.device.type == "cpu" else torch.float32)
        total = total.to(self.accelerator.device)
        for turn in range(share):
            batch = next(batches)
            with self._synchronised(turn == share - 1):
                loss = self._loss(batch)
                self.accelerator.backward(loss / share)
            total += loss.detach()
        if self.recipe.clip_grad:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network, step=self.progress.step + 1)
        return total

    def _loss(self, batch: Batch) -> Tensor:
        key = (self.recipe.seed, _STEP_STREAM, self.progress.epoch, batch.number)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
        targets = batch.labels if batch.targets is None else batch.targets
        with torch.autocast(self.accelerator.device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.model(batch.images).float()
            loss: Tensor = self.objective(logits, targets, batch.images)
        return loss

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are averaged over the processes once in a step, with its last batch."""
        return nullcontext() if last or self.processes == 1 else self.accelerator.no_sync(self.model)

    def _settle(self, losses: list[Tensor]) -> bool:
        """Wait for the last steps, and have all processes agree whether to end, and whether a checkpoint is due.

        Returns:
            Whether one is due.

        Raises:
            TrainingError: the loss is no number.
        """
        keeper, stop = self.around.keeper, self.around.stop
        due = keeper is not None and self.accelerator.is_main_process and keeper.due()
        sums = torch.stack([torch.stack(losses).sum().cpu().double(), *map(_flag, (stop.received is not None, due))])
        if self.processes > 1:
            sums = self.accelerator.reduce(sums.to(self.accelerator.device), reduction="sum").cpu()
        loss, stopped, saved = sums.tolist()
        self.stopping = stopped > 0
        if not math.isfinite(loss):
            raise TrainingError(self._divergence())
        self.progress.loss_sum += loss
        share = self.progress.step / (self.steps_per_epoch * self.epochs)
        mean = loss / (len(losses) * self.recipe.accumulate)
        self.around.listener.step(f"epoch {self.progress.epoch + 1}/{self.epochs}, loss {mean:.3f}", share)
        return saved > 0

    def _divergence(self) -> str:
        where = f"epoch {self.progress.epoch + 1}, step {self.progress.batch // self.recipe.accumulate}"
        return (
            f"the loss is no number any more at {where}; the last good checkpoint is intact. Lower learning_rate "
            f"(now {learning_rate(self.recipe, self.network):g}), set clip_grad to 1, or lengthen warmup_epochs (now "
            f"{warmup_epochs(self.recipe, self.epochs):g}), in a new folder"
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
            images=batches * self.batches.batch_size,
        )
        self._judge(row)
        progress.epoch, progress.batch, progress.loss_sum, progress.seconds = progress.epoch + 1, 0, 0.0, 0.0
        patience = self.recipe.patience
        progress.done = progress.epoch >= self.epochs or (0 < patience <= progress.stale)

    def _judge(self, row: EpochRow) -> None:
        try:
            self.selection.judge(row, self.progress)
        except TrainingInterruptedError:
            self._save()  # at the end of the epoch's batches, from where this comes again
            raise

    def _save(self) -> None:
        """Write a checkpoint of this moment.

        Raises:
            TrainingError: something in it is no number, or the disk refuses.
        """
        if self.around.keeper is None:
            return
        state = self.state()
        if not all_finite(state):
            raise TrainingError(self._divergence())
        if self.accelerator.is_main_process:
            self.around.keeper.save(state)
        self.accelerator.wait_for_everyone()

    def _heed(self) -> None:
        """End if this or another process was asked to, as all agreed."""
        if self.stopping and not self.progress.done:
            saved = "is saved" if self.around.keeper is not None else "had hardly begun"  # the head start, of seconds
            raise self.around.stop.interruption(f"training was asked to end and {saved}; it goes on with --resume")


def _flag(value: bool) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)
