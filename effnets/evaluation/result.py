"""What an evaluation found. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effnets.evaluation.metrics import Calibration, ClassScores, precision_recall, wilson_interval

if TYPE_CHECKING:
    from effnets.data.dataset import ImageDataset


# Up to so many classes JSON holds the confusion matrix; and so many of the most confused pairs, however many there are.
_WHOLE_MATRIX = 100


@dataclass(frozen=True, slots=True)
class Broken:
    """A picture that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RealScore:
    """Accuracy by reassessed labels (ReaL, Beyer et al. 2020, arXiv:2006.07159): any of a picture's labels is right.

    Attributes:
        right, count: answers among the picture's labels, of the pictures that have any.
        left_out: pictures without a label.
    """

    right: int
    count: int
    left_out: int

    @property
    def top1(self) -> float:
        """In per cent."""
        return 100 * self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Of `top1`, in per cent, with 95 % confidence (Wilson)."""
        return percent_interval(self.right, self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a model answered for pictures with labels. Classes are numbered as the model's outputs.

    Attributes:
        model, engine: the network's name, and what executed it.
        data, split, notes: what was classified, which part of it, and what else there is to say.
        class_names: of the model's outputs.
        classes: the outputs that stand for classes of the data, ``[K]``, in the data's order.
        indices: of the pictures in `source`, ``[N]``; the arrays below go with it.
        labels, answers: true class and likeliest output, ``[N]``.
        confidences: probability of the answer, 0..1, ``[N]``.
        right_in_topk, topk: for how many the true class was among the `topk` likeliest.
        calibration: mean loss, expected calibration error and temperature.
        broken: pictures that could not be read; they count nowhere else.
        real: by reassessed labels, where these were given.
        decoding_speed, network_speed: images/s, on `workers` threads and in batches of `batch_size`.
        logits: ``[N, outputs]`` if they were asked for.
        source: the pictures.
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
        """Pictures that were classified."""
        return len(self.labels)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is the true class, ``[N]``."""
        return self.labels == self.answers

    @property
    def top1(self) -> float:
        """Right answers in per cent."""
        return 100 * float(self.right.mean())

    @property
    def topk_accuracy(self) -> float:
        """Pictures whose true class was among the `topk` likeliest, in per cent."""
        return 100 * self.right_in_topk / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Of `top1`, in per cent, with 95 % confidence (Wilson)."""
        return percent_interval(int(self.right.sum()), self.count)

    @property
    def loss(self) -> float:
        """Mean cross entropy in nats."""
        return self.calibration.loss

    def scores(self) -> ClassScores:
        """Support, precision, recall and F1 of each output."""
        return precision_recall(self.labels, self.answers, len(self.class_names))

    def confusion(self) -> NDArray[np.int64]:
        """How often a picture of class `row` was taken for class `column`, ``[K, K + 1]``, in the order of `classes`.

        The last column counts answers that are no class of the data.
        """
        size = len(self.classes)
        place = np.full(len(self.class_names), size)
        place[self.classes] = np.arange(size)
        cells = place[self.labels] * (size + 1) + place[self.answers]
        return np.bincount(cells, minlength=size * (size + 1)).reshape(size, size + 1)

    def confused_pairs(self, count: int = 10) -> list[tuple[str, str, int]]:
        """The most frequent mistakes: true class, answer, and how often."""
        wrong = ~self.right
        cells, times = np.unique(self.labels[wrong] * len(self.class_names) + self.answers[wrong], return_counts=True)
        order = np.argsort(-times, kind="stable")[:count]
        pairs = (divmod(int(cells[place]), len(self.class_names)) for place in order)
        return [
            (self.class_names[truth], self.class_names[answer], int(times[place]))
            for (truth, answer), place in zip(pairs, order, strict=True)
        ]

    def to_dict(self, *, per_image: bool = False) -> dict[str, Any]:
        """As plain values that JSON can hold; with `per_image` the answer for each picture too."""
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
            "classes": self._class_rows(),
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
            values["answers"] = self._answer_rows()
        return values

    def _class_rows(self) -> list[dict[str, Any]]:
        scores = self.scores()
        return [
            {
                "class": self.class_names[output],
                "images": int(scores.support[output]),
                "precision": _number(scores.precision[output]),
                "recall": _number(scores.recall[output]),
                "f1": _number(scores.f1[output]),
            }
            for output in self.classes
        ]

    def _answer_rows(self) -> list[dict[str, Any]]:
        return [
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


def percent_interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval in per cent."""
    low, high = wilson_interval(right, count)
    return 100 * low, 100 * high


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
