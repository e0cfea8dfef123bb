"""The end of a training: the kept network measured once, and the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from effnets.data.corrupt import allowed_corrupt, reasons
from effnets.data.dataset import ImageDataset
from effnets.data.splits import Splits
from effnets.errors import DataError
from effnets.evaluation import Evaluation, evaluate
from effnets.nn.classifier import Classifier
from effnets.report import RunSummary, write_report
from effnets.train.account import Account
from effnets.train.progress import Progress

__all__ = ["measure", "report"]


def measure(
    network: Classifier, splits: Splits, account: Account, progress: Callable[[str, float], object], *, strict: bool
) -> Evaluation | None:
    """The kept network on the pictures of test/, or, where there are none, on those of validation.

    Test pictures judge the temperature that suits those of validation; where only one of both is there, the temperature
    is fitted on the pictures that judge it, and the evaluation says so.

    Args:
        network: on the device that is to compute.
        splits: the pictures.
        account: which is told of the calibration, and of pictures that could not be read.
        progress: called with what is being done and the share that is, 0 to 1.
        strict: let a picture that cannot be read be an error.

    Raises:
        DataError: with `strict`, a picture cannot be read; without, more than 5 % and more than 3.
    """

    def judged(source: ImageDataset, split: str, temperature: float | None = None) -> Evaluation:
        evaluation = evaluate(
            network,
            source,
            batch_size=account.recipe.batch_size,
            temperature=temperature,
            strict=strict,
            progress=lambda share: progress(f"measuring on {split}", share),
        )
        if evaluation.broken:
            count, allowed = len(evaluation.broken), allowed_corrupt(len(source))
            if count > allowed:
                raise DataError(
                    f"{account.data}: {count} of the {len(source)} pictures of {split} cannot be read, and {allowed} "
                    "may be left out; mend or remove them, and resume: the training itself is over"
                    + reasons(broken.reason for broken in evaluation.broken)
                )
            account.notes.append(
                f"left out of {split}: {count} that cannot be read, first {evaluation.broken[0].reason}"
            )
        return replace(evaluation, data=account.data, split=split)

    validated = None if splits.val is None else judged(splits.val, "val")
    tested = None
    if splits.test is not None:
        tested = judged(splits.test, "test", None if validated is None else validated.calibration.temperature)
    evaluation = tested or validated
    if evaluation is not None:
        calibration = evaluation.calibration
        account.calibration = {
            "temperature": calibration.temperature,
            "temperature_fitted_on": evaluation.split if calibration.fitted_here else "val",
            "judged_on": evaluation.split,
            "ece": calibration.error,
            "scaled_ece": calibration.scaled_error,
        }
    return evaluation


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
        history=[row for row in progress.rows if row.epoch > 0],
        selected_top1=best.score.top1 if best is not None and best.score is not None else None,
        recipe=asdict(account.recipe),
        notes=account.told,
        pictures={name: count for name, count in account.images.items() if count},
        training_seconds=account.seconds,
        training_speed=metrics["images_per_second"],
        seed=account.recipe.seed,
        machine=metrics["machine"],
        versions=metrics["versions"],
        finished=datetime.now(UTC),
    )
    write_report(folder, run)
