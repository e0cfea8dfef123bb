"""Measure a detector on images with labeled boxes. Knows torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from effnets.data.checks import CorruptImages, allowed_corrupt
from effnets.data.eval_loader import EvalLoader
from effnets.detection.dataset import BoxDataset
from effnets.detection.mean_ap import MeanAP, MeanAPResult
from effnets.detection.predict import Box, Detections, DetectorInput
from effnets.errors import ArgumentError, DataError
from effnets.nn.utils import evaluating
from effnets.utils.arguments import check_integer

_MATCH = 0.5  # IoU from which a box counts as found, where single images are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionEvaluation:
    """Result of a detector on images with labeled boxes.

    Attributes:
        result: average precision and recall.
        source: the images. indices: of those that were read, [N]; `detections` follows the same order.
        class_names: of the data, without the background; labels of detections are of these, from 1.
        network_speed: images/s of the detector alone.
        broken: what was wrong with each image that could not be read; nothing else counts them.
    """

    result: MeanAPResult
    source: BoxDataset = field(repr=False)
    indices: NDArray[np.int64] = field(repr=False)
    detections: tuple[Detections, ...] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    network_speed: float
    broken: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of images that were looked at."""
        return len(self.indices)

    def truth(self, place: int) -> list[Box]:
        """Return the labeled boxes of the image at a place in `indices`."""
        index = int(self.indices[place])
        boxes, labels = self.source.boxes(index), self.source.box_labels(index)
        return Detections(boxes, labels, np.ones(len(labels), np.float32)).named(self.class_names)

    def mistakes(self, place: int, score_threshold: float = 0.5) -> tuple[int, int]:
        """Return how many objects of an image are missed, and how many detections are none of its objects.

        An object is found by the best free detection of its class with an IoU of 0.5 or more; those that do not count
        are neither missed nor, where they are detected, a mistake.
        """
        index = int(self.indices[place])
        found = self.detections[place].above(score_threshold)
        ignored = self.source.crowd(index) | self.source.difficult(index)
        overlaps = _iou(found.boxes, self.source.boxes(index))
        overlaps *= found.labels[:, None] == self.source.box_labels(index)[None]
        free = np.ones(len(ignored), np.bool_)
        wrong = 0
        for row in overlaps:
            candidates = np.where(free & (row >= _MATCH), row, 0.0)
            if candidates.size and candidates.max() > 0:
                free[candidates.argmax()] = False
            else:
                wrong += not (ignored & (row >= _MATCH)).any()
        return int((free & ~ignored).sum()), wrong

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "images": self.count,
            **self.result.to_dict(),
            "images_per_second": {"network": self.network_speed},
            "broken": list(self.broken),
        }


def evaluate_detector(
    model: nn.Module,
    dataset: BoxDataset,
    *,
    batch_size: int = 8,
    score_threshold: float = 0.0,
    strict: bool = False,
    progress: Callable[[float], object] | None = None,
) -> DetectionEvaluation:
    """Measure a detector's average precision on images with labeled boxes.

    Args:
        model: of torchvision's interface: from a list of images [3, H, W] in 0..1 to ``boxes``, ``labels`` from 1 and
            ``scores`` of each. With the attribute ``class_names`` classes go by their names, else by their numbers. It
            is run in evaluation mode, and each of its modules left in the mode it was in.
        dataset: the images.
        batch_size: images at a time.
        score_threshold: detections of lower scores are left out; above 0 it lowers the average precision.
        strict: leave out no image that cannot be read.
        progress: called with the share done, 0 to 1.

    Raises:
        ArgumentError: if the model lacks a class of the data, or a number is out of range.
        DataError: if there is no image, or more than 5 % and 3 cannot be read, or one, with `strict`.
    """
    check_integer("batch_size", batch_size, 1, "give the images at a time, from 1")
    if not 0 <= score_threshold <= 1:
        raise ArgumentError(f"score_threshold is {score_threshold!r}; give a number from 0 to 1")
    if not len(dataset):
        raise DataError("there is no image to evaluate on")
    outputs = match_boxes(dataset.class_names, getattr(model, "class_names", None))
    reader, metric = DetectorInput(model), MeanAP(dataset.class_names)
    corrupt = CorruptImages(len(dataset), 0 if strict else allowed_corrupt(len(dataset)))
    indices: list[int] = []
    detections: list[Detections] = []
    seconds = 0.0
    with evaluating(model):
        for number, batch in enumerate(EvalLoader(dataset, reader.prepare, batch_size)):
            corrupt.note(batch.corrupt)
            chosen = batch.indices.tolist()
            begin = time.perf_counter()
            sizes = [(int(width), int(height)) for width, height in dataset.image_sizes[chosen]]
            answers = reader.infer(batch.inputs, sizes) if chosen else []
            seconds += time.perf_counter() - begin
            found = [_renumbered(answer.above(score_threshold), outputs) for answer in answers]
            metric.update([_tensors(one) for one in found], [_target(dataset, index) for index in chosen])
            indices += chosen
            detections += found
            if progress is not None:
                progress(min(1.0, (number + 1) * batch_size / len(dataset)))
    return DetectionEvaluation(
        result=metric.compute(),
        source=dataset,
        indices=np.array(indices, np.int64),
        detections=tuple(detections),
        class_names=dataset.class_names,
        network_speed=len(indices) / max(seconds, 1e-9),
        broken=tuple(corrupt.messages.values()),
    )


def match_boxes(class_names: Sequence[str], outputs: Sequence[str] | None) -> NDArray[np.int64]:
    """Return the data's label of each of a detector's, from 0, the background; 0 for classes that the data lacks.

    Args:
        class_names: of the data.
        outputs: of the detector; None takes those of the data.

    Raises:
        ArgumentError: if the detector does not know a class.
    """
    outputs = class_names if outputs is None else outputs
    unknown = [name for name in class_names if name not in outputs]
    if unknown:
        raise ArgumentError(
            f"the data has the class {unknown[0]}, and the detector knows {', '.join(outputs[:5])}"
            f"{', …' if len(outputs) > 5 else ''}; rename the data's classes as these"
        )
    places = {name: label for label, name in enumerate(class_names, 1)}
    return np.array([0, *(places.get(name, 0) for name in outputs)], np.int64)


def _renumbered(found: Detections, outputs: NDArray[np.int64]) -> Detections:
    labels = outputs[np.clip(found.labels, 0, len(outputs) - 1)]
    known = labels > 0
    return Detections(found.boxes[known], labels[known], found.scores[known])


def _tensors(found: Detections) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(getattr(found, name)) for name in ("boxes", "labels", "scores")}


def _target(dataset: BoxDataset, index: int) -> dict[str, torch.Tensor]:
    values = {
        "boxes": dataset.boxes(index),
        "labels": dataset.box_labels(index),
        "ignored": dataset.crowd(index) | dataset.difficult(index),
    }
    return {name: torch.from_numpy(np.array(value)) for name, value in values.items()}


def _iou(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the intersection over union of every two boxes, [n, m]."""
    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    common = sides.prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    return common / np.maximum(areas - common, 1e-9)
