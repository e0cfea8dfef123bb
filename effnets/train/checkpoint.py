"""The state of a training on disk: whole or not at all, at whatever moment the process or the machine dies."""

from __future__ import annotations

import io
import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from effnets.errors import EffnetsError, TrainingError
from effnets.nn.classifier import Classifier
from effnets.train.recipe import Recipe, encode_recipe, read_recipe
from effnets.utils.atomic_file import write_whole
from effnets.weights.folder import CONFIG, WEIGHTS
from effnets.weights.pretrained import save_pretrained
from effnets.weights.save import save_weights

STATE_FILE = "state.pt"
_FORMAT = 1


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values into `folder`, in place of what is there.

    Raises:
        TrainingError: the disk refuses; what was there before is still there.
    """
    buffer = io.BytesIO()  # torch's own writer hides the reason of a failure
    torch.save({"format": _FORMAT, **state}, buffer)
    write_in_run(folder / STATE_FILE, buffer.getbuffer())


def load_state(folder: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, on the CPU; None where there is nothing.

    Raises:
        TrainingError: it cannot be read, or another version wrote it.
    """
    path = folder / STATE_FILE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever the unpickler makes of a damaged file
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(f"{path}: cannot be read ({reason}); the run must start anew in another folder") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise TrainingError(f"{path}: another version of effnets wrote it; resume with that, or start anew elsewhere")
    return state


def write_in_run(path: Path, data: bytes | memoryview) -> None:
    """Write a file of a run's folder whole or not at all; the folder is made where it is missing.

    Raises:
        TrainingError: the disk refuses; a file that was there before is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One name: what a killed process left is written over, never heaped up. The folder's lock keeps others out.
        write_whole(path, data, partial=path.with_name(f".{path.name}.partial"))
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror or error}); the last good checkpoint is intact: "
            "make room, or make the folder writable, and resume"
        ) from error


METRICS, RECIPE, STATES = "metrics.json", "recipe.yaml", "last"
# What a resumed training may change: it makes no difference to what is learned.
_FREE = frozenset({"workers", "checkpoint_minutes"})
# Files under other names than their own, as save_pretrained and save_weights write them first.
_LEFT_BEHIND = re.compile(r"\.(\.?[0-9a-f]{32}\..*|.*\.[0-9a-f]{32})")


class RunFolder:
    """A training's folder.

    Args:
        path: of the folder, which need not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.states = self.path / STATES

    def finished(self) -> dict[str, Any] | None:
        """The metrics of a training that is over; None of any other.

        Raises:
            TrainingError: the folder has metrics that cannot be read.
        """
        try:
            metrics = json.loads((self.path / METRICS).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise TrainingError(f"{self.path / METRICS}: cannot be read ({error}); name another folder") from None
        return metrics if isinstance(metrics, dict) and metrics.get("finished") is True else None

    def begun(self) -> bool:
        """Whether a training was begun here."""
        return (self.path / RECIPE).exists() or (self.states / STATE_FILE).exists()

    def check(self, recipe: Recipe, *, resume: bool) -> None:
        """Refuse a folder that cannot be this recipe's; touches nothing.

        Raises:
            TrainingError: it holds another training, or one that is not to be resumed.
        """
        if self.begun():
            if not resume:
                raise TrainingError(
                    f"{self.path}: a training was begun here; go on with it by --resume (resume=True), or name "
                    "another folder"
                )
            self._require_same(recipe)
        elif (self.path / WEIGHTS[0]).exists() or (self.path / CONFIG).exists():
            raise TrainingError(f"{self.path}: holds a network that no training here made; name another folder")
        elif others := [name for name in (METRICS, "report.html", "report") if (self.path / name).exists()]:
            raise TrainingError(
                f"{self.path}: holds {', '.join(others)}, which no training here wrote and this one would replace; "
                "name another folder"
            )

    def check_outside(self, data: str) -> None:
        """Refuse a folder among the pictures: they would be looked through with a run as one of their classes.

        Raises:
            TrainingError: it lies inside of the folder `data`.
        """
        pictures = Path(data)
        if pictures.is_dir() and pictures.resolve() in (self.path.resolve(), *self.path.resolve().parents):
            raise TrainingError(
                f"{self.path}: lies inside of the data, {data}, where it would be taken for a class; name a folder "
                "outside of it"
            )

    def begin(self, recipe: Recipe, *, resume: bool) -> None:
        """Make the folder this recipe's, once it is locked.

        Raises:
            TrainingError: as `check`; or it cannot be written.
        """
        self.check(recipe, resume=resume)
        self._sweep()
        write_in_run(self.path / RECIPE, encode_recipe(recipe).encode())

    def _sweep(self) -> None:
        """Remove what a process that was killed while saving left behind."""
        for path in self.path.glob(".*"):
            if _LEFT_BEHIND.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _require_same(self, recipe: Recipe) -> None:
        if not (self.path / RECIPE).exists():
            raise TrainingError(f"{self.path}: lacks its {RECIPE}; name another folder")
        before = read_recipe(self.path / RECIPE)
        changed = [
            f"{field.name} {getattr(before, field.name)} → {getattr(recipe, field.name)}"
            for field in fields(Recipe)
            if field.name not in _FREE and getattr(before, field.name) != getattr(recipe, field.name)
        ]
        if changed:
            raise TrainingError(
                f"{self.path}: was begun with other settings ({'; '.join(changed)}); "
                "resume it with the same, or name another folder"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training into this folder; the system lets go when this one dies.

        Raises:
            TrainingError: another is at it, or the folder cannot be written.
        """
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
                f"{self.path}: cannot be written ({error.strerror or error}); name a folder that you may write to"
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise TrainingError(
                    f"{self.path}: another process is training into this folder; wait for it, or name another folder"
                ) from None
            yield

    def load_state(self) -> dict[str, Any] | None:
        """The last checkpoint, if there is one."""
        return load_state(self.states)

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the last checkpoint."""
        save_state(self.states, state)

    def save_network(self, network: Classifier) -> None:
        """Replace the best network: at every moment the folder holds one that loads, once it holds any.

        Raises:
            TrainingError: the disk refuses.
        """
        try:
            if (self.path / CONFIG).exists():
                save_weights(network, self.path / WEIGHTS[0])  # all else of the folder stays true
            else:
                save_pretrained(network, self.path)
        except EffnetsError as error:
            raise TrainingError(f"{error}; the last good checkpoint is intact: make room and resume") from error

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json."""
        text = json.dumps(_finite(metrics), indent=1, ensure_ascii=False, allow_nan=False)
        write_in_run(self.path / METRICS, (text + "\n").encode())


class Clock:
    """Says when so many minutes have passed since it was last set."""

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self.set()

    def set(self) -> None:
        """Start anew."""
        self._begin = time.monotonic()

    def due(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() - self._begin >= self.seconds


def _finite(value: Any) -> Any:
    """JSON has no infinity: null stands for it."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
