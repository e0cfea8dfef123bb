"""The result of an evaluation, and the comparison of two. Free of torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effnets.errors import ArgumentError
from effnets.evaluation.metrics import Calibration, ClassScores, mcnemar, precision_recall, wilson_interval

if TYPE_CHECKING:
    from effnets.data.dataset import ImageDataset


# JSON holds the confusion matrix of at most this many classes, and at most this many confused pairs.
_WHOLE_MATRIX = 100


@dataclass(frozen=True, slots=True)
class Broken:
    """An image that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RealScore:
    """Accuracy by reassessed labels (ReaL, Beyer et al. 2020, arXiv:2006.07159): any of an image's labels is right.

    Attributes:
        right: answers that are among the image's labels. count: images that have labels.
        left_out: images without a label.
    """

    right: int
    count: int
    left_out: int

    @property
    def top1(self) -> float:
        """Accuracy in per cent."""
        return 100 * self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of `top1`, in per cent (Wilson)."""
        return percent_interval(self.right, self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Result of a model on labeled images. Classes are numbered as the model's outputs.

    Attributes:
        model: its name. engine: what executed it.
        data: path or address of the images. split: which part of it. notes: remarks for the user.
        class_names: of the model's outputs.
        classes: the outputs that stand for classes of the data, ``[K]``, in the data's order.
        indices: of the images in `source`, ``[N]``; the arrays below follow the same order.
        labels, answers: true class and likeliest output, ``[N]``.
        confidences: probability of the answer, 0..1, ``[N]``.
        right_in_topk: number of images whose true class was among the `topk` likeliest.
        calibration: mean loss, expected calibration error and temperature.
        broken: images that could not be read; nothing else counts them.
        real: accuracy by ReaL labels, if these were given.
        decoding_speed, network_speed: images/s, with `workers` threads and batches of `batch_size`.
        logits: ``[N, outputs]`` if requested.
        source: the images.
    """

    model: str
    engine: str
    data: str
    split: str
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = field(repr=False)
    classes: NDArray[np.int64] = field(repr=False)
    indices: NDArray[np.int64] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    answers: NDArray[np.int64] = field(repr=False)
    confidences: NDArray[np.float32] = field(repr=False)
    right_in_topk: int
    topk: int
    calibration: Calibration = field(repr=False)
    broken: tuple[Broken, ...] = ()
    real: RealScore | None = None
    decoding_speed: float
    network_speed: float
    workers: int
    batch_size: int
    logits: NDArray[np.float32] | None = field(default=None, repr=False)
    source: ImageDataset = field(repr=False)

    @property
    def count(self) -> int:
        """Number of images that were classified."""
        return len(self.labels)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is the true class, ``[N]``."""
        return self.labels == self.answers

    @property
    def top1(self) -> float:
        """Share of right answers, in per cent."""
        return 100 * float(self.right.mean())

    @property
    def topk_accuracy(self) -> float:
        """Share of images whose true class was among the `topk` likeliest, in per cent."""
        return 100 * self.right_in_topk / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of `top1`, in per cent (Wilson)."""
        return percent_interval(int(self.right.sum()), self.count)

    @property
    def loss(self) -> float:
        """Mean cross entropy in nats."""
        return self.calibration.loss

    def scores(self) -> ClassScores:
        """Return support, precision, recall and F1 of each output."""
        return precision_recall(self.labels, self.answers, len(self.class_names))

    def confusion(self) -> NDArray[np.int64]:
        """Return the confusion matrix ``[K, K + 1]`` in the order of `classes`: rows are true classes, columns answers.

        The last column counts answers that are not a class of the data.
        """
        size = len(self.classes)
        place = np.full(len(self.class_names), size)
        place[self.classes] = np.arange(size)
        cells = place[self.labels] * (size + 1) + place[self.answers]
        return np.bincount(cells, minlength=size * (size + 1)).reshape(size, size + 1)

    def confused_pairs(self, count: int = 10) -> list[tuple[str, str, int]]:
        """Return the `count` most frequent mistakes: true class, answer, and number of images."""
        wrong = ~self.right
        cells, times = np.unique(self.labels[wrong] * len(self.class_names) + self.answers[wrong], return_counts=True)
        order = np.argsort(-times, kind="stable")[:count]
        pairs = (divmod(int(cells[place]), len(self.class_names)) for place in order)
        return [
            (self.class_names[truth], self.class_names[answer], int(times[place]))
            for (truth, answer), place in zip(pairs, order, strict=True)
        ]

    def to_dict(self, *, per_image: bool = False) -> dict[str, Any]:
        """Return plain values for JSON, with the answer for each image if `per_image`."""
        calibration = self.calibration
        values: dict[str, Any] = {
            "model": self.model,
            "engine": self.engine,
            "data": self.data,
            "split": self.split,
            "images": self.count,
            "top1": self.top1,
            "top1_interval": list(self.interval),
            f"top{self.topk}": self.topk_accuracy,
            "loss": calibration.loss,
            "ece": calibration.error,
            "temperature": calibration.temperature,
            "temperature_fitted_on_these_pictures": calibration.fitted_here,
            "scaled_ece": calibration.scaled_error,
            "images_per_second": {"decoding": self.decoding_speed, "network": self.network_speed},
            "workers": self.workers,
            "batch_size": self.batch_size,
            "notes": list(self.notes),
            "broken": [{"name": broken.name, "reason": broken.reason} for broken in self.broken],
            "classes": class_rows(self),
            "confused": [
                {"class": truth, "answer": answer, "times": times}
                for truth, answer, times in self.confused_pairs(_WHOLE_MATRIX)
            ],
        }
        if self.real:
            values["real"] = {
                "top1": self.real.top1,
                "top1_interval": list(self.real.interval),
                "images": self.real.count,
                "left_out": self.real.left_out,
            }
        if len(self.classes) <= _WHOLE_MATRIX:
            values["confusion"] = self.confusion().tolist()
        if per_image:
            values["answers"] = [
                {
                    "name": self.source.name(int(index)),
                    "label": self.class_names[label],
                    "answer": self.class_names[answer],
                    "probability": round(float(confidence), 6),
                }
                for index, label, answer, confidence in zip(
                    self.indices, self.labels, self.answers, self.confidences, strict=True
                )
            ]
        return values


def percent_interval(right: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval in per cent."""
    low, high = wilson_interval(right, count)
    return 100 * low, 100 * high


def class_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the scores of each class of the data: class, images, precision, recall and f1, None for a 0 / 0."""
    scores = evaluation.scores()
    return [
        {
            "class": evaluation.class_names[output],
            "images": int(scores.support[output]),
            **{
                name: None if math.isnan(value := getattr(scores, name)[output]) else float(value)
                for name in ("precision", "recall", "f1")
            },
        }
        for output in evaluation.classes
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Difference between the answers of two models for the same images.

    Attributes:
        images: number that both classified.
        changed: number of answers that differ.
        gained: of these, wrong with the first model and right with the second. lost: the other way round.
        p_value: of McNemar's test of gained against lost, with the null hypothesis that neither model is better.
        confidence_change: largest difference of the answer's probability, 0..1, among equal answers.
    """

    images: int
    changed: int
    gained: int
    lost: int
    p_value: float
    confidence_change: float

    @property
    def agreement(self) -> float:
        """Share of equal answers, in per cent."""
        return 100 * (self.images - self.changed) / self.images

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "agreement": self.agreement}


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare the answers of two evaluations of the same images.

    Raises:
        ArgumentError: if they are not of the same images and classes.
    """
    same = (
        np.array_equal(first.indices, second.indices)
        and first.source.class_names == second.source.class_names
        and np.array_equal(_in_data_order(first, first.labels), _in_data_order(second, second.labels))
    )
    if not same:
        raise ArgumentError(
            f"{first.model} was evaluated on {first.count} images, {second.model} on {second.count}, and they are "
            "not the same images of the same classes; evaluate both on the same data"
        )
    answers = _in_data_order(first, first.answers), _in_data_order(second, second.answers)
    changed = (answers[0] != answers[1]) | ((answers[0] < 0) & ~_same_names(first, second))
    gained, lost = int((~first.right & second.right).sum()), int((first.right & ~second.right).sum())
    change = np.abs(first.confidences - second.confidences)[~changed]
    return Comparison(
        images=first.count,
        changed=int(changed.sum()),
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
        confidence_change=float(change.max(initial=0.0)),
    )


def _in_data_order(evaluation: Evaluation, outputs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return outputs as classes of the data, which models may number differently; -1 for an output of another class."""
    places = np.full(len(evaluation.class_names), -1)
    places[evaluation.classes] = np.arange(len(evaluation.classes))
    return places[outputs]


def _same_names(first: Evaluation, second: Evaluation) -> Any:
    names = np.array(first.class_names, object)[first.answers], np.array(second.class_names, object)[second.answers]
    return names[0] == names[1]
