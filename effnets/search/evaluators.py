"""What a search evaluates candidates by: short trainings of each, or the weights of a supernet."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from effnets.search.candidates import Candidate
from effnets.search.space import SearchSpace
from effnets.search.trainings import train_candidate
from effnets.spec.scaling import ScaleLimits
from effnets.train.callbacks import Callback
from effnets.train.recipe import Recipe

if TYPE_CHECKING:
    from effnets.report.write import EpochRow

Progress = Callable[[str, float], object]


class TrialEvaluator:
    """Trains each candidate from scratch in a folder of its own, which is removed afterwards.

    Args:
        data, recipe, seed: as of `train_candidate`. folder: of these folders.
        total: how many there will be, for `progress`. prune: report the accuracy after each epoch but the last.
    """

    def __init__(
        self,
        data: str | os.PathLike[str],
        recipe: Recipe,
        folder: Path,
        seed: int,
        progress: Progress,
        total: int,
        *,
        prune: bool = False,
    ) -> None:
        self._data, self._recipe, self._folder, self._seed = data, recipe, folder, seed
        self._progress, self._total, self._prune = progress, total, prune
        self.done = 0

    def __call__(self, candidate: Candidate, report: Callable[[int, float], None]) -> float:
        """Return top-1 on validation in per cent; raises as `train_candidate`."""
        # Named by the candidate, so that an interrupted training is found again; its picks may be too long for a name.
        folder = self._folder / hashlib.sha256(repr(candidate.picks).encode()).hexdigest()[:16]
        folder.parent.mkdir(exist_ok=True)
        callbacks = [_Reporter(report, self._recipe.epochs)] if self._prune else []
        number = min(self.done + 1, self._total)

        def progress(what: str, share: float) -> None:
            self._progress(f"candidate {number} of {self._total}: {what}", (number - 1 + share) / self._total)

        result = train_candidate(
            candidate.spec,
            self._data,
            self._recipe,
            folder,
            seed=self._seed,
            progress=progress,
            callbacks=callbacks,
        )
        self.done += 1
        shutil.rmtree(folder, ignore_errors=True)
        return result.val_top1


class _Reporter(Callback):
    """Reports top-1 after each epoch but the first state and the last, at which there is nothing left to save."""

    def __init__(self, report: Callable[[int, float], None], epochs: int) -> None:
        self._report, self._epochs = report, epochs

    def on_epoch_end(self, row: EpochRow) -> None:
        if row.phase == "all" and 0 < row.epoch < self._epochs and row.val_top1 is not None:
            self._report(row.epoch, row.val_top1)


class OneShotEvaluator:
    """Trains a supernet before the first evaluation, or loads it, and measures candidates with its weights."""

    def __init__(
        self,
        space: SearchSpace,
        data: str | os.PathLike[str],
        recipe: Recipe,
        folder: Path,
        seed: int,
        limits: ScaleLimits,
        progress: Progress,
    ) -> None:
        from effnets.search.supernet import train_supernet

        self._supernet = train_supernet(space, data, recipe, folder, seed=seed, limits=limits, progress=progress)

    def __call__(self, candidate: Candidate, report: Callable[[int, float], None]) -> float:  # noqa: ARG002
        """Return top-1 on validation in per cent."""
        return self._supernet.evaluate(candidate.picks)
