"""The state of a run beside the network: its progress, and what it records of itself in ``metrics.json``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from effnets._version import __version__
from effnets.errors import TrainingError
from effnets.evaluation import Evaluation
from effnets.evaluation.validate import Score
from effnets.nn.classifier import Classifier
from effnets.report.write import EpochRow, RunSummary
from effnets.train.recipe import Recipe
from effnets.utils.machine import describe_machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The weights that are kept: their score on validation, if any, and where they come from."""

    score: Score | None
    epoch: int
    phase: str
    average: bool

    @property
    def is_finite(self) -> bool:
        """Whether the loss on validation is, if any was measured."""
        return self.score is None or math.isfinite(self.score.loss)

    def clearly_better_than(self, other: Best) -> bool:
        """Return whether validation tells the two apart, as of `Score.clearly_better_than`.

        By three standard errors: of a dozen epochs some seem better by two, and of 25 images that is soon said.
        """
        return self.score is not None and other.score is not None and self.score.clearly_better_than(other.score, 3)

    def __str__(self) -> str:
        where = f"of epoch {self.epoch}" if self.epoch else "before training"
        score = self.score
        share = None if score is None else score.top1 if score.mean_ap is None else score.mean_ap
        figures = "" if score is None else f" ({share or 0:.1f} %, loss {score.loss:.3f})"
        return f"{'the moving average' if self.average else 'the weights'} {where}{figures}"


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far training is, and its results so far.

    Attributes:
        epoch: finished epochs. batch: finished global micro-batches of the current epoch. step: of the optimizer.
        loss_sum: of the losses of this epoch's micro-batches. seconds: of this epoch so far.
        rows: a row for each epoch. peak: the best score so far; stale: epochs since. best: the weights that are kept.
        decisions: of the last validation, what was kept rather than what, and why.
        done: whether training is over.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    rows: list[EpochRow] = field(default_factory=list)
    peak: Score | None = None
    best: Best | None = None
    stale: int = 0
    decisions: list[str] = field(default_factory=list)
    done: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """Return the inverse of `dataclasses.asdict`."""
        rows = [EpochRow(**row) for row in values["rows"]]
        best, peak = values["best"], values["peak"]
        if best is not None:
            best = Best(**{**best, "score": _score(best["score"])})
        return cls(**{**values, "rows": rows, "best": best, "peak": _score(peak)})


def _score(values: dict[str, Any] | None) -> Score | None:
    return None if values is None else Score(**values)


@dataclass(slots=True, kw_only=True)
class RunState:
    """What is known of a run beside its progress.

    Attributes:
        recipe, data, command: what was requested.
        class_names: of the data. images: their number by split. digests: of their names and labels, by split.
        revision: of data that may change at their source.
        messages: for the user. corrupt: by split, the messages of images that were left out on the way, by index.
        precision: that was chosen. processes: that train together. cached: whether images are decoded once.
        epoch_repeats: passes over the images in an epoch.
        head_rows: of the classifier's head start.
        calibration: of the best model, once it is measured: temperature, and the splits it was fitted and measured on.
        earlier_seconds: before this process started. started: when it did, by `time.monotonic`.
    """

    recipe: Recipe
    data: str
    command: str | None
    class_names: tuple[str, ...]
    images: dict[str, int]
    digests: dict[str, str] = field(default_factory=dict)
    revision: str | None = None
    processes: int = 1
    messages: list[str] = field(default_factory=list)
    corrupt: dict[str, dict[int, str]] = field(default_factory=dict)
    precision: str = "float32"
    cached: bool = False
    epoch_repeats: int = 1
    head_rows: list[EpochRow] = field(default_factory=list)
    calibration: dict[str, Any] | None = None
    earlier_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds of all processes one after another that worked on this run."""
        return self.earlier_seconds + time.monotonic() - self.started

    @property
    def notes(self) -> list[str]:
        """The messages, and what was left out on the way."""
        left_out = [
            f"left out of {split} on the way: {len(corrupt)} that cannot be read, first {next(iter(corrupt.values()))}"
            for split, corrupt in self.corrupt.items()
            if corrupt
        ]
        return [*self.messages, *left_out]

    def note_broken(self, split: str, reasons: Sequence[str]) -> None:
        """Add a message about the images of a split that could not be measured, if there are any."""
        if reasons:
            self.messages.append(f"left out of {split}: {len(reasons)} that cannot be read, first {reasons[0]}")

    def track_corrupt(self, split: str, corrupt: dict[int, str]) -> None:
        """Record a loader's corrupt images of a split, now and later, beside those that an earlier process found."""
        corrupt |= self.corrupt.get(split, {})
        self.corrupt[split] = corrupt

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run continues with; the keys are those of version 0.1.0."""
        return {
            "precision": self.precision,
            "cached": self.cached,
            "epoch_repeats": self.epoch_repeats,
            "notes": self.messages,
            "broken": self.corrupt,
            "head_rows": [asdict(row) for row in self.head_rows],
            "spent": self.seconds,
            "class_names": list(self.class_names),
            "images": self.images,
            "pictures": self.digests,
            "revision": self.revision,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the `state_dict` of an earlier process.

        Raises:
            TrainingError: if the data are not the same; the message says what differs.
        """
        self._require_same_data(state)
        self.precision, self.earlier_seconds = state["precision"], state["spent"]
        self.cached = state.get("cached", False)  # runs of earlier versions decoded in every epoch
        self.epoch_repeats = state.get("epoch_repeats", 1)  # likewise, and went once through the images
        self.messages = list(dict.fromkeys([*state["notes"], *self.messages]))
        self.corrupt = state.get("broken", {})
        self.head_rows = [EpochRow(**row) for row in state["head_rows"]]

    def _require_same_data(self, before: dict[str, Any]) -> None:
        revision = before.get("revision")  # runs of earlier versions have none
        if self.revision != revision:
            raise TrainingError(
                f"{self.data}: is at {self.revision} now, and was at {revision} when this training was started; "
                f"continue with {self.data.partition('@')[0]}@{revision}"
            )
        fix = "restore the data, or start in another folder"
        now = self.state_dict()
        for what in ("class_names", "images"):
            if now[what] != before[what]:
                raise TrainingError(
                    f"{self.data}: is not the data this training was started with: {what.replace('_', ' ')} were "
                    f"{_short(before[what])} and are {_short(now[what])}; {fix}"
                )
        for split, digest in before.get("pictures", {}).items():
            if self.digests[split] != digest:
                raise TrainingError(
                    f"{self.data}: is not the data this training was started with: {split} has as many images as "
                    f"then, but their names or labels differ; {fix}"
                )

    def metrics(self, progress: Progress, *, finished: bool = False) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        best = progress.best
        score = None if best is None else best.score
        rows = [*self.head_rows, *progress.rows]
        trained = [row for row in progress.rows if row.seconds]
        speed = sum(row.images for row in trained) / sum(row.seconds for row in trained) if trained else None
        machine = describe_machine()
        data_path = Path(self.data)
        return {
            "finished": finished,
            "best_top1": None if score is None else score.top1,
            "best_loss": None if score is None else score.loss,
            "best_epoch": None if best is None else best.epoch,
            "best_is_average": None if best is None else best.average,
            "best_mean_ap": None if score is None else score.mean_ap,
            "test_top1": None,
            "test_loss": None,
            "test_mean_ap": None,
            "calibration": self.calibration,
            "model": self.recipe.model,
            "data": self.data,
            "data_path": str(data_path.resolve()) if data_path.exists() else None,
            "data_revision": self.revision,
            "classes": list(self.class_names),
            "images": self.images,
            "notes": self.notes,
            "epochs": [asdict(row) for row in rows],
            "seconds": self.seconds,
            "images_per_second": speed,
            "precision": self.precision,
            "cached": self.cached,
            "epoch_repeats": self.epoch_repeats,
            "processes": self.processes,
            "seed": self.recipe.seed,
            "command": self.command,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"effnets": __version__, **machine.versions},
            "machine": str(machine),
            "recipe": self.recipe.to_dict(),
        }

    def record_calibration(self, evaluation: Evaluation) -> None:
        """Record the calibration of the best model."""
        calibration = evaluation.calibration
        self.calibration = {
            "temperature": calibration.temperature,
            "temperature_fitted_on": evaluation.split if calibration.fitted_here else "val",
            "judged_on": evaluation.split,
            "ece": calibration.error,
            "scaled_ece": calibration.scaled_error,
        }

    def summary(self, model: Classifier, evaluation: Evaluation, progress: Progress) -> RunSummary:
        """Return what the report shows."""
        best = progress.best
        return RunSummary(
            **self.told(progress),
            evaluation=evaluation,
            network=model,
            history=[row for row in progress.rows if row.epoch > 0],
            selected_top1=best.score.top1 if best is not None and best.score is not None else None,
        )

    def told(self, progress: Progress) -> dict[str, Any]:
        """Return what the report of any task tells, the arguments of `effnets.report.write.Summary`."""
        metrics = self.metrics(progress)
        return {
            "title": Path(self.data).name or self.data,
            "command": self.command or "effnets.finetune(…)",
            "recipe": self.recipe.to_dict(),
            "notes": self.notes,
            "images": {name: count for name, count in self.images.items() if count},
            "training_seconds": self.seconds,
            "training_speed": metrics["images_per_second"],
            "seed": self.recipe.seed,
            "machine": metrics["machine"],
            "versions": metrics["versions"],
            "finished": datetime.now(UTC),
        }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}…"
