"""The state of a training on disk: whole or not at all, at whatever moment the process or the machine dies."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from effnets.errors import TrainingError
from effnets.utils.atomic_file import write_whole

__all__ = ["STATE_FILE", "load_state", "save_state", "write_in_run"]

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
