"""The end of a training: the kept network measured once, and the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from effnets.nn.classifier import Classifier
from effnets.train.account import Account
from effnets.train.data.source import ImageSource
from effnets.train.evaluation import Evaluation, evaluate
from effnets.train.progress import EpochRow, Progress
from effnets.train.report import EpochRow as ReportRow
from effnets.train.report import RunSummary, write_report
from effnets.train.validate import Score

__all__ = ["measure", "report"]

_PHASES = {"head": "classifier alone", "all": "all layers"}


def measure(
    network: Classifier, source: ImageSource, split: str, account: Account, progress: Callable[[float], object]
) -> tuple[Evaluation, Score]:
    """The kept network on the pictures of test/, or, where there are none, on those of validation."""
    evaluation = evaluate(network, source, batch_size=account.recipe.batch_size, progress=progress)
    evaluation = replace(evaluation, data=account.data, split=split)
    return evaluation, Score(top1=evaluation.top1, loss=evaluation.loss, count=evaluation.count)


def report(folder: Path, network: Classifier, evaluation: Evaluation, account: Account, progress: Progress) -> None:
    """Write ``report.html`` and its pictures.

    Raises:
        ReportError: the folder cannot be written.
    """
    best = progress.best
    metrics = account.metrics(progress)
    run = RunSummary(
        title=Path(account.data).name or account.data,
        command=account.command or "effnets.finetune(…)",
        evaluation=evaluation,
        network=network,
        history=[_row(row) for row in progress.rows if row.epoch > 0],
        selected_top1=best.score.top1 if best is not None and best.score is not None else None,
        recipe=asdict(account.recipe),
        notes=account.notes,
        pictures={name: count for name, count in account.images.items() if count},
        training_seconds=account.seconds,
        training_speed=metrics["images_per_second"],
        seed=account.recipe.seed,
        machine=metrics["machine"],
        versions=metrics["versions"],
        finished=datetime.now(UTC),
    )
    write_report(folder, run)


def _row(row: EpochRow) -> ReportRow:
    values: dict[str, Any] = {
        "epoch": row.epoch,
        "train_loss": row.train_loss,
        "val_loss": row.val_loss,
        "val_top1": row.val_top1,
        "ema_top1": row.average_top1,
        "learning_rate": row.learning_rate,
        "seconds": row.seconds + row.val_seconds,
        "phase": _PHASES[row.phase],
    }
    return ReportRow(**values)
