"""Write the HTML report of a run or an evaluation."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnets.errors import ReportError
from effnets.evaluation.result import Evaluation

if TYPE_CHECKING:
    from effnets.nn.classifier import Classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRow:
    """The figures of one epoch of training; None for what was not measured.

    Attributes:
        epoch: from 1; 0 for the state before training.
        phase: ``head`` (the classifier alone, on cached features) or ``all``.
        learning_rate: of the last layer, at the end of the epoch.
        train_loss: mean of the minimized loss over the epoch's batches.
        val_top1, val_loss: of the weights on validation: top-1 in per cent, and mean cross entropy.
        average_top1, average_loss: the same of the moving average of the weights.
        val_mean_ap, average_mean_ap: mean average precision in per cent, of tasks that are measured by it.
        seconds: of training. val_seconds: of validation. images: trained on.
    """

    epoch: int
    phase: str = "all"
    learning_rate: float = 0.0
    train_loss: float | None = None
    val_top1: float | None = None
    val_loss: float | None = None
    average_top1: float | None = None
    average_loss: float | None = None
    val_mean_ap: float | None = None
    average_mean_ap: float | None = None
    seconds: float = 0.0
    val_seconds: float = 0.0
    images: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What every report tells of a run.

    Attributes:
        title: what was learned, such as the name of the data set.
        command: the exact command line, or the lines of Python.
        recipe: every setting; mappings within it are shown as ``optimizer.lr``.
        notes: what to know of the data.
        images: how many there are, by split.
        training_seconds, training_speed: in all, and images/s of the training steps.
        seed: of the run.
        machine, versions: None is this machine, and what is installed.
        finished: when; None leaves it out.
    """

    title: str
    command: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    training_seconds: float | None = None
    training_speed: float | None = None
    seed: int | None = None
    machine: str | None = None
    versions: Mapping[str, str] | None = None
    finished: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary(Summary):
    """A run of a classifier, as its report tells it.

    Attributes:
        evaluation: of the weights that were kept, on test images or, without any, on validation.
        network: whose answers these are, for parameters and class-activation maps; None for an exported file.
        history: the epochs, none for a mere evaluation.
        selected_top1: on validation, in per cent, of the weights that were kept.
    """

    evaluation: Evaluation
    network: Classifier | None = None
    history: Sequence[EpochRow] = ()
    selected_top1: float | None = None


_PAGE, _IMAGES = "report.html", "report"


def write_report(folder: str | os.PathLike[str], run: RunSummary) -> Path:
    """Write ``report.html`` into `folder`, which is made if need be, and its images as PNG into ``report/``.

    The page holds everything: it needs no network and no script, and is read by day and by night, on a desk and on a
    telephone.

    Returns:
        The page.

    Raises:
        ReportError: the folder cannot be written, and what was there before is still there; matplotlib is missing; or
            composing the page fails. An image or chart that cannot be drawn is left out, with a warning.
    """

    def compose() -> tuple[bytes, Mapping[str, bytes]]:
        from effnets.report.page import compose_report

        return compose_report(run)

    return write_page(Path(folder), compose)


def write_page(folder: Path, compose: Callable[[], tuple[bytes, Mapping[str, bytes]]]) -> Path:
    """Write what `compose` returns: a page, and PNG files by name. Returns and raises as `write_report`."""
    if not find_spec("matplotlib"):
        raise ReportError(
            "matplotlib is not installed, which draws the report; install it: pip install 'effnets[train]'"
        )
    try:
        page, images = compose()
    except Exception as error:
        raise ReportError(f"{folder}: the report cannot be composed ({type(error).__name__}: {error})") from error
    # The page last: who sees it sees the images of the same run.
    _write(folder, {**{f"{_IMAGES}/{name}": content for name, content in images.items()}, _PAGE: page})
    return folder / _PAGE


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """All under other names first, then quickly to their own."""
    mark = uuid.uuid4().hex
    written = {folder / name: folder / Path(name).parent / f".{mark}.{Path(name).name}" for name in files}
    try:
        (folder / _IMAGES).mkdir(parents=True, exist_ok=True)
        for (path, temporary), content in zip(written.items(), files.values(), strict=True):
            if path.is_dir():
                raise ReportError(f"{path}: is a folder, where the report wants to write a file; move it away")
            temporary.write_bytes(content)
        for path, temporary in written.items():
            temporary.replace(path)
    except OSError as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(
            f"{folder}: the report cannot be written ({error.strerror or error}); "
            "name a folder that may be written, with room left"
        ) from None
    finally:
        with suppress(OSError):
            for temporary in written.values():
                temporary.unlink(missing_ok=True)
