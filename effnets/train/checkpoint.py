"""The folder of a run on disk: every file is whole or absent, at whatever moment the process or the machine dies."""

from __future__ import annotations

import io
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effnets.errors import EffnetsError, TrainingError
from effnets.train.recipe import Recipe, encode_recipe, read_recipe
from effnets.train.run_state import Progress, RunState
from effnets.utils.atomic_file import write_whole
from effnets.weights.folder import CONFIG, WEIGHTS

METRICS, RECIPE = "metrics.json", "recipe.yaml"
_STATES, _STATE = "last", "state.pt"
RUN_STATE = "account"  # the key of `RunState` in a checkpoint, as version 0.1.0 named it
_FORMAT = 1
# What a resumed run may change: it makes no difference to what is learned.
_FREE = frozenset({"workers", "checkpoint_minutes"})
# Temporary names of save_pretrained and save_weights.
_TEMPORARY = re.compile(r"\.(\.?[0-9a-f]{32}\..*|.*\.[0-9a-f]{32})")


def finished_metrics(folder: Path) -> dict[str, Any] | None:
    """Return the metrics of a finished run; None for any other folder.

    Raises:
        TrainingError: if the folder has metrics that cannot be read.
    """
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder / METRICS}: cannot be read ({error}); name another folder") from None
    return metrics if isinstance(metrics, dict) and metrics.get("finished") is True else None


def load_state(folder: Path) -> dict[str, Any] | None:
    """Load the checkpoint in `folder` to the CPU; None if there is no checkpoint.

    Raises:
        TrainingError: if it cannot be read, or another version wrote it.
    """
    path = folder / _STATE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # the unpickler raises many kinds of errors on a damaged file
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(f"{path}: cannot be read ({reason}); start again in another folder") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise TrainingError(
            f"{path}: another version of effnets wrote it; resume with that version, or start again in another folder"
        )
    return state


def require_outside(folder: Path, data: str | os.PathLike[str]) -> None:
    """Refuse a folder for results inside of the folder `data`; raises TrainingError."""
    images = Path(data)
    if images.is_dir() and images.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise TrainingError(
            f"{folder}: is inside of the data, {data}, where it would be taken for a class; name a folder outside of it"
        )


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Write a file of a run whole or not at all; make its folder if it is missing.

    Raises:
        TrainingError: if the disk refuses; the earlier file, if any, is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A fixed temporary name, so that what a killed process left is overwritten. The lock keeps others out.
        write_whole(path, data, partial=path.with_name(f".{path.name}.partial"))
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror or error}); the last good checkpoint is intact: "
            "make room, or make the folder writable, and resume"
        ) from error


class Checkpointer:
    """Saves a run in its folder: checkpoints, the best model and the metrics.

    Args:
        folder: of the run; it need not exist.
        recipe: of the run, as requested.
    """

    def __init__(self, folder: str | os.PathLike[str], recipe: Recipe) -> None:
        self.folder, self.recipe = Path(folder), recipe
        self.states = self.folder / _STATES
        self._saved = time.monotonic()

    def check(self, data: str, *, resume: bool) -> None:
        """Refuse a folder that cannot be this run's; writes nothing.

        Raises:
            TrainingError: if it is inside of the folder `data`, holds another run, or one that is not to be resumed.
        """
        require_outside(self.folder, data)
        if (self.folder / RECIPE).exists() or (self.states / _STATE).exists():
            if not resume:
                raise TrainingError(
                    f"{self.folder}: holds an unfinished training; continue it with --resume (resume=True), or name "
                    "another folder"
                )
            self.require_same_recipe()
        elif (self.folder / WEIGHTS[0]).exists() or (self.folder / CONFIG).exists():
            raise TrainingError(f"{self.folder}: holds a network that is not of a training here; name another folder")
        elif others := [name for name in (METRICS, "report.html", "report") if (self.folder / name).exists()]:
            raise TrainingError(
                f"{self.folder}: holds {', '.join(others)}, not of a training here, which this one would replace; "
                "name another folder"
            )

    def merge_recipe(self) -> Recipe:
        """Return the recipe, with what is at its default as the run in the folder has it, if there is one.

        So a run goes on after an update of this library has changed a default.
        """
        if (self.folder / RECIPE).exists():
            before, default = read_recipe(self.folder / RECIPE), Recipe(model=self.recipe.model)
            unstated = {
                field.name: getattr(before, field.name)
                for field in fields(Recipe)
                if field.name not in _FREE and getattr(self.recipe, field.name) == getattr(default, field.name)
            }
            self.recipe = replace(self.recipe, **unstated | {"model": self.recipe.model})
        return self.recipe

    def require_same_recipe(self) -> None:
        """Refuse to resume with another recipe.

        Raises:
            TrainingError: if the folder has another recipe, or has none; the message lists the differences.
        """
        if not (self.folder / RECIPE).exists():
            raise TrainingError(f"{self.folder}: lacks its {RECIPE}; name another folder")
        before = read_recipe(self.folder / RECIPE)
        changed = [
            f"{field.name} {getattr(before, field.name)} → {getattr(self.recipe, field.name)}"
            for field in fields(Recipe)
            if field.name not in _FREE and getattr(before, field.name) != getattr(self.recipe, field.name)
        ]
        if changed:
            raise TrainingError(
                f"{self.folder}: was started with other settings ({'; '.join(changed)}); "
                "resume it with the same, or name another folder"
            )

    @contextmanager
    def open(self, data: str, *, resume: bool) -> Iterator[None]:
        """Make the folder this run's, and lock it; the system releases the lock if this process dies.

        Raises:
            TrainingError: if `check` refuses it now, another process has locked it, or it cannot be written.
        """
        with self._lock():
            self.check(data, resume=resume)
            for path in self.folder.glob(".*"):  # left behind by a process that was killed while saving
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            write_file(self.folder / RECIPE, encode_recipe(self.recipe).encode())
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        try:
            self.states.mkdir(parents=True, exist_ok=True)
            file = (self.states / ".lock").open("w")
        except OSError as error:
            raise TrainingError(
                f"{self.folder}: cannot be written ({error.strerror or error}); name a folder that you may write to"
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise TrainingError(
                    f"{self.folder}: another process is training into this folder; wait for it, or name another folder"
                ) from None
            yield

    def attach(
        self, run_state: RunState, assemble: Callable[[dict[str, Tensor]], Any], save: Callable[[Any, Path], None]
    ) -> None:
        """Set what is saved beside the trainer's state, how its weights become a model, and how that is saved."""
        self.run_state, self.assemble, self._save_model = run_state, assemble, save

    def load(self) -> dict[str, Any] | None:
        """Load the last checkpoint, if there is one."""
        return load_state(self.states)

    def due(self) -> bool:
        """Return whether it is time for a checkpoint in the middle of an epoch."""
        return time.monotonic() - self._saved >= 60 * self.recipe.checkpoint_minutes

    def save(self, trainer_state: dict[str, Any]) -> None:
        """Replace the last checkpoint, and write the metrics so far.

        Raises:
            TrainingError: if the disk refuses; the earlier checkpoint is still there.
        """
        state = {"format": _FORMAT, **trainer_state, RUN_STATE: self.run_state.state_dict()}
        buffer = io.BytesIO()  # torch's own writer hides the reason of a failure
        torch.save(state, buffer)
        write_file(self.states / _STATE, buffer.getbuffer())
        self.save_metrics(self.run_state.metrics(Progress.from_dict(trainer_state["progress"])))
        self._saved = time.monotonic()

    def save_best(self, weights: dict[str, Tensor]) -> None:
        """Replace the best model: once the folder holds one, it holds one that loads at every moment.

        Raises:
            TrainingError: if the disk refuses.
        """
        model = self.assemble(weights)
        try:
            self._save_model(model, self.folder)
        except EffnetsError as error:
            raise TrainingError(f"{error}; the last good checkpoint is intact: make room and resume") from error

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json."""
        text = json.dumps(_without_infinity(metrics), indent=1, ensure_ascii=False, allow_nan=False)
        write_file(self.folder / METRICS, (text + "\n").encode())


def _without_infinity(value: Any) -> Any:
    """JSON has neither infinity nor NaN: null stands for them."""
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
