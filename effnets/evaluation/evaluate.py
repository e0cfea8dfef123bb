"""`evaluate`: measure a model on labeled images. Free of torch, unless the model is a torch module."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.data.eval_loader import EvalLoader
from effnets.data.open import DataConfig, open_evaluation_data
from effnets.engines.base import Engine
from effnets.errors import ArgumentError, DataError, ImageError, WeightsError
from effnets.evaluation.labels import RealLabels, match_classes
from effnets.evaluation.metrics import CalibrationAccumulator
from effnets.evaluation.result import Broken, Evaluation
from effnets.inference.predictor import create_predictor
from effnets.utils.arguments import check_integer
from effnets.utils.machine import cpu_count

if TYPE_CHECKING:
    from torch import nn

_MAX_WORKERS = 16


def evaluate(
    model: nn.Module | Engine,
    data: ImageDataset | str | os.PathLike[str],
    *,
    batch_size: int = 32,
    topk: int = 5,
    image_size: int | tuple[int, int] | None = None,
    real_labels: str | os.PathLike[str] | None = None,
    strict: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
    workers: int | None = None,
    keep_logits: bool = False,
    temperature: float | None = None,
    progress: Callable[[float], object] | None = None,
) -> Evaluation:
    """Measure a model on labeled images, with the preprocessing that belongs to its weights.

    Args:
        model: a classifier, also inside of torch.compile or DataParallel, which runs in evaluation mode on its device,
            each of its modules left in the mode it was in; or an engine from `effnets.load_engine`, without torch.
        data: images, or what `open_evaluation_data` takes, of which test/ is used, else val/, else all.
            Classes are matched with the model's by name; ImageNet's folders (``n01440764``) are known.
        batch_size: images in a batch.
        topk: an answer counts for the second accuracy if the true class is among this many likeliest.
        image_size: side of the input in pixels, or (height, width); None takes the model's own.
        real_labels: a file of ReaL labels, for ImageNet's validation images.
        strict: raise an error for an image that cannot be read; otherwise it is left out and named in `broken`.
        image_column: as in `effnets.finetune`, for data given by a path or an address.
        label_column: likewise.
        class_names: likewise.
        workers: threads that decode; None takes one per core, up to 16.
        keep_logits: return all logits, which takes 4 bytes for each image and output.
        temperature: fitted on other images, to measure calibration with; None fits one on these images.
        progress: called with the share done, 0 to 1: first of reading shards on a server, then of the evaluation.

    Raises:
        MissingFileError, DataError: if the data does not exist, or has no readable image.
        ImageError: if an image cannot be read, with `strict`; the message names it.
        ArgumentError: if the classes are not the model's, or a number is out of range.
        WeightsError: if logits are NaN or infinite.
    """
    check_integer("batch_size", batch_size, 1, "it must be at least 1")
    check_integer("topk", topk, 1, "ask for at least 1")
    if temperature is not None and not 0.01 <= temperature <= 100:
        raise ArgumentError(f"temperature is {temperature!r}; give a number from 0.01 to 100")
    workers = check_integer("workers", workers or min(cpu_count(), _MAX_WORKERS), 1, "it must be at least 1")
    split, notes, origin = "given", tuple[str, ...](), "images in memory"
    if isinstance(data, ImageDataset):
        dataset = data
    else:
        # Every image is read below anyway, and corrupt ones are reported then.
        opened = open_evaluation_data(
            DataConfig(
                data, check="none", image_column=image_column, label_column=label_column, class_names=class_names
            ),
            progress=None if progress is None else lambda _what, share: progress(share),
        )
        split, dataset, notes, origin = opened.split, opened.source, opened.notes, os.fspath(data)
    if len(dataset) == 0:
        raise DataError(f"{origin}: there is no image to evaluate on")
    predictor = create_predictor(model, image_size, "image_size")
    outputs, note = match_classes(dataset.class_names, predictor.class_names, named=predictor.named)
    real = RealLabels(real_labels) if real_labels is not None else None
    if real:
        real.check(dataset, predictor.class_names)
    accumulator = Accumulator(topk, keep_logits=keep_logits, temperature=temperature)
    broken: list[Broken] = []
    decoding, network = _Throughput(), _Throughput()
    # Decoding and network take turns, so that each is timed alone.
    begin, done = time.perf_counter(), 0
    for batch in EvalLoader(dataset, predictor.prepare, batch_size, workers=workers, prefetch=False):
        decoded = time.perf_counter()
        broken += _broken(dataset, batch.corrupt, strict=strict)
        if batch.inputs:
            logits = predictor.logits(batch.inputs)
            decoding.add(decoded - begin, len(batch.inputs))
            network.add(time.perf_counter() - decoded, len(batch.inputs))
            accumulator.add(batch.indices, outputs[dataset.labels[batch.indices]], logits)
        done += len(batch.inputs) + len(batch.corrupt)
        if progress is not None:
            progress(done / len(dataset))
        begin = time.perf_counter()
    broken.sort(key=lambda one: one.name)
    if not accumulator.count:
        raise DataError(f"{origin}: all {len(dataset)} images are unreadable, the first because: {broken[0].reason}")
    indices, answers = accumulator.indices(), accumulator.answers()
    return Evaluation(
        model=predictor.model,
        engine=predictor.engine,
        data=origin,
        split=split,
        notes=notes + ((note,) if note else ()),
        class_names=predictor.class_names,
        classes=outputs,
        indices=indices,
        labels=accumulator.labels(),
        answers=answers,
        confidences=accumulator.confidences(),
        right_in_topk=accumulator.right_in_topk,
        topk=topk,
        calibration=accumulator.calibration.finish(),
        broken=tuple(broken),
        real=real.score(dataset, predictor.class_names, indices, answers) if real else None,
        decoding_speed=decoding.speed,
        network_speed=network.speed,
        workers=workers,
        batch_size=batch_size,
        logits=accumulator.logits(),
        source=dataset,
    )


class Accumulator:
    """Collects a few numbers for each image, batch after batch; the logits only on request.

    Args:
        topk: an answer counts in `right_in_topk` if the true class is among this many likeliest.
        keep_logits: whether to keep them.
        temperature: fitted on other images, to measure calibration with; None fits one on these.
    """

    def __init__(self, topk: int, *, keep_logits: bool = False, temperature: float | None = None) -> None:
        self._topk = topk
        self.right_in_topk = 0
        self.calibration = CalibrationAccumulator(temperature)
        self._indices: list[NDArray[np.int64]] = []
        self._labels: list[NDArray[np.int64]] = []
        self._answers: list[NDArray[np.int64]] = []
        self._confidences: list[NDArray[np.float32]] = []
        self._logits: list[NDArray[np.float32]] | None = [] if keep_logits else None

    def add(self, indices: NDArray[np.int64], labels: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Add the logits ``[N, C]`` of images whose true outputs are `labels`.

        Raises:
            WeightsError: if the logits are not all finite.
        """
        if not np.isfinite(logits).all():
            raise WeightsError(
                "the logits are not finite: the weights hold NaN or infinity, or the precision overflows"
            )
        rows = np.arange(len(labels))
        truth = logits[rows, labels][:, None]
        # Of equal logits the first output comes first, as in effnets.predict.
        earlier = np.arange(logits.shape[1]) < labels[:, None]
        rank = ((logits > truth) | ((logits == truth) & earlier)).sum(axis=1)
        self.right_in_topk += int((rank < self._topk).sum())
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        self._indices.append(indices)
        self._labels.append(labels)
        self._answers.append(logits.argmax(axis=1))
        self._confidences.append((1 / weights.sum(axis=1, dtype=np.float64)).astype(np.float32))
        self.calibration.add(logits, labels)
        if self._logits is not None:
            self._logits.append(logits)

    @property
    def count(self) -> int:
        """Images added so far."""
        return sum(len(labels) for labels in self._labels)

    def indices(self) -> NDArray[np.int64]:
        """Return the indices of the images, ``[N]``."""
        return np.concatenate(self._indices)

    def labels(self) -> NDArray[np.int64]:
        """Return the true outputs, ``[N]``."""
        return np.concatenate(self._labels)

    def answers(self) -> NDArray[np.int64]:
        """Return the likeliest outputs, ``[N]``."""
        return np.concatenate(self._answers)

    def confidences(self) -> NDArray[np.float32]:
        """Return the probabilities of the answers, ``[N]``."""
        return np.concatenate(self._confidences)

    def logits(self) -> NDArray[np.float32] | None:
        """Return ``[N, C]`` if they are kept."""
        return None if self._logits is None else np.concatenate(self._logits)


@dataclass(slots=True)
class _Throughput:
    """Images/s over batches. The first allocates memory and compiles kernels, and counts only if it is the only one."""

    first: float = 0.0
    seconds: float = 0.0
    images: int = 0

    def add(self, seconds: float, images: int) -> None:
        if not self.first:
            self.first = images / max(seconds, 1e-9)
        else:
            self.seconds += seconds
            self.images += images

    @property
    def speed(self) -> float:
        return self.images / self.seconds if self.images else self.first


def _broken(dataset: ImageDataset, messages: dict[int, str], *, strict: bool) -> list[Broken]:
    """Return the images of a batch that could not be read, with reasons that name them.

    Raises:
        ImageError: with `strict`, for the first of them.
    """
    found = []
    for index, message in messages.items():
        name = dataset.name(index)
        reason = message if name in message else f"{name}: {message}"
        if strict:
            raise ImageError(f"{reason} (strict is on: fix or remove the image, or leave strict out)")
        found.append(Broken(name, reason))
    return found
