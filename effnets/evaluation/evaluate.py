"""Answers as they pass by, batch after batch: a few numbers for each picture, and no logits unless asked."""

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
from effnets.evaluation.metrics import CalibrationTally
from effnets.evaluation.result import Broken, Evaluation
from effnets.inference.predictor import create_predictor
from effnets.utils.arguments import check_integer
from effnets.utils.machine import cpu_count

if TYPE_CHECKING:
    from torch import nn


class Accumulator:
    """Collects what an `Evaluation` consists of.

    Args:
        topk: among how many of the likeliest outputs the true class is looked for.
        keep_logits: whether they are kept.
        temperature: fitted on other pictures, to judge calibration by; None fits one on these.
    """

    def __init__(self, topk: int, *, keep_logits: bool = False, temperature: float | None = None) -> None:
        self._topk = topk
        self.right_in_topk = 0
        self.calibration = CalibrationTally(temperature)
        self._indices: list[NDArray[np.int64]] = []
        self._labels: list[NDArray[np.int64]] = []
        self._answers: list[NDArray[np.int64]] = []
        self._confidences: list[NDArray[np.float32]] = []
        self._logits: list[NDArray[np.float32]] | None = [] if keep_logits else None

    def add(self, indices: NDArray[np.int64], labels: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Count the logits ``[N, C]`` for pictures of which `labels` are the true outputs.

        Raises:
            WeightsError: the logits are not all finite.
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
        """Pictures counted so far."""
        return sum(len(labels) for labels in self._labels)

    def indices(self) -> NDArray[np.int64]:
        """Of the pictures, ``[N]``."""
        return np.concatenate(self._indices)

    def labels(self) -> NDArray[np.int64]:
        """True outputs, ``[N]``."""
        return np.concatenate(self._labels)

    def answers(self) -> NDArray[np.int64]:
        """Likeliest outputs, ``[N]``."""
        return np.concatenate(self._answers)

    def confidences(self) -> NDArray[np.float32]:
        """Probabilities of the answers, ``[N]``."""
        return np.concatenate(self._confidences)

    def logits(self) -> NDArray[np.float32] | None:
        """``[N, C]`` if they were to be kept."""
        return None if self._logits is None else np.concatenate(self._logits)


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
    """Measure a model on pictures with labels, prepared as its weights want them.

    Args:
        model: a classifier, also inside of torch.compile or DataParallel, run in evaluation mode where it is, its
            modules left in the mode they were in; or an engine of `effnets.load_engine`, which needs no torch.
        data: pictures; or what `open_evaluation_data` takes, of which test/ is used, else val/, else all.
            Classes are matched with the model's by name; ImageNet's folders (``n01440764``) are known.
        batch_size: pictures at a time.
        topk: among how many answers the right one counts for the second figure.
        image_size: side of the input in pixels, or (height, width); None takes the model's own.
        real_labels: a file of ReaL labels, for ImageNet's validation pictures.
        strict: let a picture that cannot be read be an error; otherwise it is left out and named in `broken`.
        image_column, label_column, class_names: as of `effnets.finetune`, for data that are opened here.
        workers: threads that decode; None takes one for each core, up to 16.
        keep_logits: keep them all, which takes 4 bytes for each picture and output.
        temperature: fitted on other pictures, to judge calibration by; None fits one on the pictures themselves.
        progress: called with the share that is done, 0 to 1; of looking into shards on a server, which comes first,
            then of measuring.

    Raises:
        MissingFileError, DataError: no such data, or no readable picture in them.
        ImageError: with `strict`, a picture cannot be read; names it.
        ArgumentError: classes that are not the model's, or a number out of range. WeightsError: logits that are NaN.
    """
    check_integer("batch_size", batch_size, 1, "it must be at least 1")
    check_integer("topk", topk, 1, "ask for at least 1")
    if temperature is not None and not 0.01 <= temperature <= 100:
        raise ArgumentError(f"temperature is {temperature!r}; give a number from 0.01 to 100")
    workers = check_integer("workers", workers or min(cpu_count(), _MAX_WORKERS), 1, "it must be at least 1")
    split, notes, origin = "given", tuple[str, ...](), "pictures in memory"
    if isinstance(data, ImageDataset):
        source = data
    else:
        # Every picture is read below anyway, and a broken one told of then.
        opened = open_evaluation_data(
            DataConfig(
                data, check="none", image_column=image_column, label_column=label_column, class_names=class_names
            ),
            progress=None if progress is None else lambda _what, share: progress(share),
        )
        split, source, notes, origin = opened.split, opened.source, opened.notes, os.fspath(data)
    if len(source) == 0:
        raise DataError(f"{origin}: there is no picture to evaluate on")
    predictor = create_predictor(model, image_size, "image_size")
    outputs, note = match_classes(source.class_names, predictor.class_names, named=predictor.named)
    real = RealLabels(real_labels) if real_labels is not None else None
    if real:
        real.check(source, predictor.class_names)
    accumulator = Accumulator(topk, keep_logits=keep_logits, temperature=temperature)
    broken: list[Broken] = []
    decoding, network = _Clock(), _Clock()
    # Decoding and network take turns, so that each is timed alone.
    began, done = time.perf_counter(), 0
    for batch in EvalLoader(source, predictor.prepare, batch_size, workers=workers, prefetch=False):
        decoded = time.perf_counter()
        broken += _corrupt(source, batch.corrupt, strict=strict)
        if batch.inputs:
            logits = predictor.logits(batch.inputs)
            decoding.add(decoded - began, len(batch.inputs))
            network.add(time.perf_counter() - decoded, len(batch.inputs))
            accumulator.add(batch.indices, outputs[source.labels[batch.indices]], logits)
        done += len(batch.inputs) + len(batch.corrupt)
        if progress is not None:
            progress(done / len(source))
        began = time.perf_counter()
    broken.sort(key=lambda one: one.name)
    if not accumulator.count:
        raise DataError(
            f"{origin}: none of its {len(source)} images can be read, the first because: {broken[0].reason}"
        )
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
        real=real.score(source, predictor.class_names, indices, answers) if real else None,
        decoding_speed=decoding.speed,
        network_speed=network.speed,
        workers=workers,
        batch_size=batch_size,
        logits=accumulator.logits(),
        source=source,
    )


@dataclass(slots=True)
class _Clock:
    """Images/s over batches; the first, in which memory is allocated and kernels are compiled, counts only alone."""

    first: float = 0.0
    later: float = 0.0
    images: int = 0

    def add(self, seconds: float, images: int) -> None:
        if not self.first:
            self.first = images / max(seconds, 1e-9)
        else:
            self.later += seconds
            self.images += images

    @property
    def speed(self) -> float:
        return self.images / self.later if self.images else self.first


def _corrupt(dataset: ImageDataset, messages: dict[int, str], *, strict: bool) -> list[Broken]:
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
