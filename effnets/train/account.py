"""What a training tells of itself: ``metrics.json``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from effnets._version import __version__
from effnets.errors import TrainingError
from effnets.nn.classifier import Classifier
from effnets.report.summary import EpochRow
from effnets.train.checkpoint import Clock, RunFolder
from effnets.train.progress import Progress
from effnets.train.recipe import Recipe
from effnets.train.validate import Score
from effnets.utils.machine import describe_machine

__all__ = ["Account", "FolderKeeper"]


@dataclass(slots=True, kw_only=True)
class Account:
    """What is known of a training beside its progress.

    Attributes:
        recipe, data, command: what was asked for.
        class_names, images, pictures: what the data are: how many pictures each split has, and a digest of which.
        revision: of data that may change where they lie.
        notes: what the user was told. broken: what was wrong with pictures that were left out on the way, by index in
            their split.
        precision: what was chosen. processes: that trained together. cached: whether pictures are decoded once.
        head_rows: of the classifier's head start.
        calibration: of the kept network once it is measured: temperature, and which pictures it was fitted and judged
            on.
        spent: seconds before this process began. begun: when it did, by `time.monotonic`.
    """

    recipe: Recipe
    data: str
    command: str | None
    class_names: tuple[str, ...]
    images: dict[str, int]
    pictures: dict[str, str] = field(default_factory=dict)
    revision: str | None = None
    processes: int = 1
    notes: list[str] = field(default_factory=list)
    broken: dict[str, dict[int, str]] = field(default_factory=dict)
    precision: str = "float32"
    cached: bool = False
    head_rows: list[EpochRow] = field(default_factory=list)
    calibration: dict[str, Any] | None = None
    spent: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    def state(self) -> dict[str, Any]:
        """What a resumed training takes over."""
        return {
            "precision": self.precision,
            "cached": self.cached,
            "notes": self.notes,
            "broken": self.broken,
            "head_rows": [asdict(row) for row in self.head_rows],
            "spent": self.seconds,
            "class_names": list(self.class_names),
            "images": self.images,
            "pictures": self.pictures,
            "revision": self.revision,
        }

    def require_same_data(self, before: dict[str, Any]) -> None:
        """Refuse to go on with other data than those of the `state` before.

        Raises:
            TrainingError: they are others; the message says which.
        """
        begun_at = before.get("revision")  # trainings of earlier versions had no data of which it is known
        if self.revision != begun_at:
            raise TrainingError(
                f"{self.data}: is at {self.revision} by now, and was at {begun_at} when this training was begun; go "
                f"on with {self.data.partition('@')[0]}@{begun_at}"
            )
        now = self.state()
        for what in ("class_names", "images"):
            if now[what] != before[what]:
                raise TrainingError(
                    f"{self.data}: is not what this training was begun with: {what.replace('_', ' ')} were "
                    f"{_short(before[what])} and are {_short(now[what])}; restore the data, or start in another folder"
                )
        for split, digest in before.get("pictures", {}).items():
            if self.pictures[split] != digest:
                raise TrainingError(
                    f"{self.data}: is not what this training was begun with: as many pictures as then are in {split}, "
                    "but not the same, by their names; restore the data, or start in another folder"
                )

    def take_over(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.precision, self.spent = state["precision"], state["spent"]
        self.cached = state.get("cached", False)  # trainings of earlier versions decoded every epoch
        self.notes = list(dict.fromkeys([*state["notes"], *self.notes]))
        self.broken = state.get("broken", {})
        self.head_rows = [EpochRow(**row) for row in state["head_rows"]]

    def keep_broken(self, split: str, broken: dict[int, str]) -> None:
        """Keep what is wrong with pictures of a split, now and later, beside what an earlier process found."""
        broken |= self.broken.get(split, {})
        self.broken[split] = broken

    @property
    def told(self) -> list[str]:
        """The notes, and what was left out on the way."""
        left_out = [
            f"left out of {split} on the way: {len(broken)} that cannot be read, first {next(iter(broken.values()))}"
            for split, broken in self.broken.items()
            if broken
        ]
        return [*self.notes, *left_out]

    @property
    def seconds(self) -> float:
        """Of all processes one after another that worked at this training."""
        return self.spent + time.monotonic() - self.begun

    def metrics(self, progress: Progress, *, finished: bool = False, test: Score | None = None) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        best = progress.best
        judged = None if best is None else best.score
        rows = [*self.head_rows, *progress.rows]
        trained = [row for row in progress.rows if row.seconds]
        speed = sum(row.images for row in trained) / sum(row.seconds for row in trained) if trained else None
        machine = describe_machine()
        return {
            "finished": finished,
            "best_top1": None if judged is None else judged.top1,
            "best_loss": None if judged is None else judged.loss,
            "best_epoch": None if best is None else best.epoch,
            "best_is_average": None if best is None else best.average,
            "test_top1": None if test is None else test.top1,
            "test_loss": None if test is None else test.loss,
            "calibration": self.calibration,
            "model": self.recipe.model,
            "data": self.data,
            "data_path": _path_of(self.data),
            "data_revision": self.revision,
            "classes": list(self.class_names),
            "images": self.images,
            "notes": self.told,
            "epochs": [asdict(row) for row in rows],
            "seconds": self.seconds,
            "images_per_second": speed,
            "precision": self.precision,
            "cached": self.cached,
            "processes": self.processes,
            "seed": self.recipe.seed,
            "command": self.command,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"effnets": __version__, **machine.versions},
            "machine": str(machine),
            "recipe": asdict(self.recipe),
        }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}…"


def _path_of(data: str) -> str | None:
    """Where data on this machine lie, from wherever it is asked; None of others."""
    path = Path(data)
    return str(path.resolve()) if path.exists() else None


class FolderKeeper:
    """Keeps a training in its folder: see `effnets.train.surroundings.Keeper`.

    Args:
        folder: of the training.
        account: whose story is told beside.
        assemble: from kept weights to the network that is handed over.
    """

    def __init__(
        self, folder: RunFolder, account: Account, assemble: Callable[[dict[str, Tensor]], Classifier]
    ) -> None:
        self.folder, self.account, self.assemble = folder, account, assemble
        self.clock = Clock(account.recipe.checkpoint_minutes)

    def save(self, state: dict[str, Any]) -> None:
        self.folder.save_state({**state, "account": self.account.state()})
        self.folder.save_metrics(self.account.metrics(Progress.from_dict(state["progress"])))
        self.clock.set()

    def keep(self, weights: dict[str, Tensor]) -> None:
        self.folder.save_network(self.assemble(weights))

    def due(self) -> bool:
        return self.clock.due()
