"""Which of a training's weights are kept: they and their average are judged after each epoch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from effnets.train.progress import Best, EpochRow, Progress
from effnets.train.surroundings import Surroundings
from effnets.train.validate import Score, score

__all__ = ["Selection", "all_finite"]


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
