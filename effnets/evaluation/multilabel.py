"""Measure models that give images any number of labels: average precision, thresholds, precision and recall.

Free of torch, but for average precision, which torchmetrics computes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.data.open import DataConfig, open_evaluation_data
from effnets.engines.base import Engine
from effnets.errors import ArgumentError, EffnetsError
from effnets.evaluation.outputs import compute_outputs
from effnets.evaluation.result import Broken
from effnets.inference.labels import HALF, probabilities
from effnets.inference.pipeline import Pipeline
from effnets.inference.predictor import Decode, create_predictor

if TYPE_CHECKING:
    from torch import nn


LABEL_COLUMNS = ("label", "images", "threshold", "AP in %", "precision in %", "recall in %", "F1 in %")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelEvaluation:
    """Result of a model of labels. Arrays are ``[C]``, shares 0..1, NaN where nothing can be said.

    Attributes:
        model: its name. engine: what executed it.
        data: path of the images. split: which part of it. notes: remarks for the user.
        label_names: of the model's outputs.
        count: images. loss: mean binary cross entropy of what is known.
        known: images of which it is known whether they have the label. positives: those that have it.
        average_precision: area below precision over recall, as a sum over the probabilities that occur.
        thresholds: at which precision, recall and f1, their harmonic mean, are measured.
        broken: images that could not be read.
    """

    model: str
    engine: str
    data: str
    split: str
    notes: tuple[str, ...] = ()
    label_names: tuple[str, ...]
    count: int
    loss: float
    known: NDArray[np.int64]
    positives: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    broken: tuple[Broken, ...] = ()

    @property
    def mean_ap(self) -> float | None:
        """Mean average precision in per cent, of the labels that some image has; None without any."""
        return mean_share(self.average_precision)

    @property
    def mean_f1(self) -> float | None:
        """Mean F1 in per cent, likewise."""
        return mean_share(self.f1)

    def rows(self) -> list[list[str]]:
        """Return a row of figures for each label, as `LABEL_COLUMNS` names them, the worst average precision first."""
        shares = (self.average_precision, self.precision, self.recall, self.f1)
        rows = []
        for label in np.argsort(np.nan_to_num(self.average_precision, nan=2.0), kind="stable").tolist():
            texts = ["–" if np.isnan(share[label]) else f"{100 * share[label]:.1f}" for share in shares]
            counts = f"{self.positives[label]:,} of {self.known[label]:,}"
            rows.append([self.label_names[label], counts, f"{self.thresholds[label]:.2f}", *texts])
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, shares of 0..1; None for NaN."""
        columns = ("known", "positives", "average_precision", "threshold", "precision", "recall", "f1")
        arrays = [getattr(self, {"threshold": "thresholds"}.get(name, name)).tolist() for name in columns]
        rows = [
            {"label": label}
            | {name: None if value != value else value for name, value in zip(columns, row, strict=True)}
            for label, *row in zip(self.label_names, *arrays, strict=True)
        ]
        return {
            "model": self.model,
            "engine": self.engine,
            "data": self.data,
            "split": self.split,
            "images": self.count,
            "mean_ap": self.mean_ap,
            "mean_f1": self.mean_f1,
            "loss": self.loss,
            "labels": rows,
            "broken": [{"name": one.name, "reason": one.reason} for one in self.broken],
            "notes": list(self.notes),
        }


def evaluate_labels(
    model: nn.Module | Engine,
    data: ImageDataset | str | os.PathLike[str],
    *,
    batch_size: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    thresholds: Sequence[float] | None = None,
    strict: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    workers: int | None = None,
    decode: Decode = "exact",
    progress: Callable[[float], object] | None = None,
) -> LabelEvaluation:
    """Measure a model that gives images any number of labels (`finetune` with ``task: multilabel``).

    Args:
        model: a network with ``classifier_activation`` sigmoid, or an engine of such an exported file.
        data: images with `targets`, or a table of such (`effnets.data.DataConfig`, ``multilabel``), of which test/ is
            used, else val/, else all. Labels are matched with the model's by name, and it must know all of them.
        thresholds: of the model's labels; None takes those that it was saved with.
        batch_size, image_size, strict, image_column, label_column, workers, decode, progress: as of `effnets.evaluate`.

    Raises:
        ArgumentError: if the model has classes or makes embeddings, or lacks a label of the data.
        MissingFileError, DataError, ImageError, WeightsError: as `effnets.evaluate`.
    """
    predictor = create_predictor(model, image_size, "image_size", decode)
    if predictor.activation != "sigmoid":
        raise ArgumentError(f"{predictor.model} gives an image one class; measure it with effnets.evaluate")
    split, notes, origin, dataset = "given", tuple[str, ...](), "images in memory", data
    if not isinstance(dataset, ImageDataset):
        origin = os.fspath(dataset)
        config = DataConfig(
            dataset, check="none", strict=strict, image_column=image_column, label_column=label_column, multilabel=True
        )
        opened = open_evaluation_data(config)
        split, dataset, notes = opened.split, opened.source, opened.notes
    if dataset.targets is None:
        raise ArgumentError(f"{origin}: has one class for each image; open it with multilabel=True")
    targets = _match(dataset, predictor.class_names, origin)
    pipeline = Pipeline(predictor, batch_size=batch_size, workers=workers)
    outputs = compute_outputs(pipeline, dataset, origin=origin, strict=strict, progress=progress)
    chosen = predictor.thresholds if thresholds is None else thresholds
    if len(chosen) not in (0, len(predictor.class_names)):
        raise ArgumentError(f"thresholds has {len(chosen)} numbers for {len(predictor.class_names)} labels")
    return measure_labels(
        outputs.values,
        targets[outputs.indices],
        np.asarray(chosen if len(chosen) else [HALF] * len(predictor.class_names), np.float64),
        model=predictor.model,
        engine=predictor.engine,
        data=origin,
        split=split,
        notes=notes,
        label_names=predictor.class_names,
        broken=outputs.broken,
    )


def _match(dataset: ImageDataset, names: Sequence[str], origin: str) -> NDArray[np.float32]:
    """Return targets [len, outputs] in the order of the model's outputs; NaN for labels that the data lacks."""
    assert dataset.targets is not None, "the caller checks this"
    if missing := [name for name in dataset.class_names if name not in names]:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise ArgumentError(
            f"{origin}: has {len(missing)} labels that the model lacks ({shown}); rename or remove them"
        )
    targets = np.full((len(dataset), len(names)), np.nan, np.float32)
    targets[:, [names.index(name) for name in dataset.class_names]] = dataset.targets
    return targets


def measure_labels(
    logits: NDArray[np.float32], targets: NDArray[np.float32], thresholds: NDArray[np.float64], **described: Any
) -> LabelEvaluation:
    """Return the result of logits ``[N, C]`` with targets ``[N, C]`` (NaN: unknown); `described` are its other fields.

    Raises:
        WeightsError: if the logits are not all finite.
    """
    likely, known, has = probabilities(logits, "sigmoid"), ~np.isnan(targets), targets == 1
    chosen = (likely >= thresholds) & known
    right = (chosen & has).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = right / chosen.sum(axis=0), right / has.sum(axis=0)
        f1 = np.where(has.any(axis=0), 2 * right / (chosen.sum(axis=0) + has.sum(axis=0)), np.nan)
    return LabelEvaluation(
        count=len(logits),
        loss=binary_cross_entropy(logits, targets),
        known=known.sum(axis=0),
        positives=has.sum(axis=0),
        average_precision=average_precision(logits, targets),
        thresholds=thresholds,
        precision=precision,
        recall=recall,
        f1=f1,
        **described,
    )


def average_precision(logits: NDArray[np.float32], targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the average precision of each label, ``[C]``, of logits and targets ``[N, C]``; NaN if no image has it.

    Raises:
        EffnetsError: if torchmetrics is not installed.
    """
    try:
        from torchmetrics.functional.classification import binary_average_precision
    except ImportError:
        raise EffnetsError("average precision needs torchmetrics; pip install 'effnets[multilabel]'") from None
    import torch

    likely, found = probabilities(logits, "sigmoid"), np.full(targets.shape[1], np.nan)
    for label in np.flatnonzero((targets == 1).any(axis=0)):
        known = ~np.isnan(targets[:, label])
        truth = torch.from_numpy(targets[known, label]).long()
        found[label] = binary_average_precision(torch.from_numpy(likely[known, label]), truth).item()
    return found


def binary_cross_entropy(logits: NDArray[np.float32], targets: NDArray[np.float32]) -> float:
    """Return the mean binary cross entropy in nats of what is known; 0 if nothing is."""
    wide, known = logits.astype(np.float64), ~np.isnan(targets)
    losses = np.logaddexp(0, wide) - wide * np.nan_to_num(targets)
    return float(losses[known].mean()) if known.any() else 0.0


def fit_thresholds(logits: NDArray[np.float32], targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return for each label the threshold of its probability with the best F1 on these images, ``[C]``.

    It is in the middle between the least probability that counts and the next lower one; a half where no image has
    the label, or is known not to have it.
    """
    likely = probabilities(logits, "sigmoid")
    return np.array([_fit(likely[:, label], targets[:, label]) for label in range(targets.shape[1])], np.float64)


def _fit(likely: NDArray[np.float64], truth: NDArray[np.float32]) -> float:
    known = ~np.isnan(truth)
    likely, has = likely[known], truth[known] == 1
    if not has.any() or has.all():
        return HALF
    order = np.argsort(-likely, kind="stable")
    likely, right = likely[order], np.cumsum(has[order])
    f1 = 2 * right / (np.arange(1, len(likely) + 1) + has.sum())
    f1[:-1][likely[:-1] == likely[1:]] = -1.0  # equal probabilities are accepted together
    best = int(f1.argmax())
    lower = likely[best + 1] if best + 1 < len(likely) else 0.0
    return float((likely[best] + lower) / 2)


def mean_share(shares: NDArray[np.float64]) -> float | None:
    """Return the mean of the shares that are known, in per cent; None without any."""
    known = shares[~np.isnan(shares)]
    return 100 * float(known.mean()) if len(known) else None
