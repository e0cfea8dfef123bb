"""Answers as they pass by, batch after batch: a few numbers for each picture, and no logits unless asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.data.open import DataConfig, open_evaluation_data
from effnets.engines.base import Engine
from effnets.errors import ArgumentError, DataError, ImageError, MissingFileError, WeightsError
from effnets.evaluation.labels import RealLabels, match_classes
from effnets.evaluation.metrics import CalibrationTally
from effnets.evaluation.result import Broken, Evaluation
from effnets.evaluation.scorers import Scorer, scorer_of
from effnets.utils.arguments import check_integer

if TYPE_CHECKING:
    from torch import nn


class Tally:
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
    workers = check_integer("workers", workers or _cores(), 1, "it must be at least 1")
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
    scorer = scorer_of(model, image_size)
    outputs, note = match_classes(source.class_names, scorer.class_names, named=scorer.named)
    real = RealLabels(real_labels) if real_labels is not None else None
    if real:
        real.check(source, scorer.class_names)
    work = _Pass(scorer=scorer, source=source, outputs=outputs, strict=strict)
    tally = Tally(topk, keep_logits=keep_logits, temperature=temperature)
    work.run(tally, batch_size, workers, progress)
    if not tally.count:
        raise DataError(f"{origin}: none of its {len(source)} pictures can be read, the first because: {work.first()}")
    indices, answers = tally.indices(), tally.answers()
    return Evaluation(
        model=scorer.model,
        engine=scorer.engine,
        data=origin,
        split=split,
        notes=notes + ((note,) if note else ()),
        class_names=scorer.class_names,
        classes=outputs,
        indices=indices,
        labels=tally.labels(),
        answers=answers,
        confidences=tally.confidences(),
        right_in_topk=tally.right_in_topk,
        topk=topk,
        calibration=tally.calibration.finish(),
        broken=tuple(work.broken),
        real=real.score(source, scorer.class_names, indices, answers) if real else None,
        decoding_speed=work.decoding.speed,
        network_speed=work.network.speed,
        workers=workers,
        batch_size=batch_size,
        logits=tally.logits(),
        source=source,
    )


@dataclass(slots=True)
class _Clock:
    """Images/s over batches; the first, in which memory is allocated and kernels are compiled, counts only alone."""

    first: float = 0.0
    later: float = 0.0
    images: int = 0

    def add(self, seconds: float, images: int) -> None:
        if not images:
            return
        if not self.first:
            self.first = images / max(seconds, 1e-9)
        else:
            self.later += seconds
            self.images += images

    @property
    def speed(self) -> float:
        return self.images / self.later if self.images else self.first


@dataclass(slots=True, kw_only=True)
class _Pass:
    """One pass over the pictures: decoding and network take turns, so that each is timed alone."""

    scorer: Scorer
    source: ImageDataset
    outputs: NDArray[np.int64]
    strict: bool
    broken: list[Broken] = field(default_factory=list)
    decoding: _Clock = field(default_factory=_Clock)
    network: _Clock = field(default_factory=_Clock)

    def run(self, tally: Tally, batch_size: int, workers: int, progress: Callable[[float], object] | None) -> None:
        total = len(self.source)
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, total, batch_size):
                indices = range(start, min(start + batch_size, total))
                began = time.perf_counter()
                loaded = list(pool.map(self._prepare, indices))
                decoded = time.perf_counter()
                readable = [index for index, image in zip(indices, loaded, strict=True) if image is not None]
                if readable:
                    logits = self.scorer.logits([image for image in loaded if image is not None])
                    self.decoding.add(decoded - began, len(readable))
                    self.network.add(time.perf_counter() - decoded, len(readable))
                    places = np.array(readable, np.int64)
                    tally.add(places, self.outputs[self.source.labels[places]], logits)
                if progress is not None:
                    progress((start + len(indices)) / total)
        self.broken.sort(key=lambda broken: broken.name)  # threads finish in any order

    def first(self) -> str:
        return self.broken[0].reason

    def _prepare(self, index: int) -> Any:
        """The input for a picture, None if it cannot be read."""
        try:
            return self.scorer.prepare(self.source.image(index))
        except (ImageError, MissingFileError) as error:
            name = self.source.name(index)
            reason = str(error) if name in str(error) else f"{name}: {error}"
            if self.strict:
                raise ImageError(f"{reason} (strict is on: mend or remove the picture, or leave strict out)") from error
            self.broken.append(Broken(name, reason))
            return None


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MAX_WORKERS)
