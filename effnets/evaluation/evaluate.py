"""`evaluate`: measure a model on labeled images. Free of torch, unless the model is a torch module."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.data.open import DataConfig, open_evaluation_data
from effnets.engines.base import Engine
from effnets.errors import ArgumentError, DataError, ImageError, WeightsError
from effnets.evaluation.labels import RealLabels, match_classes
from effnets.evaluation.metrics import CalibrationAccumulator
from effnets.evaluation.result import Broken, Evaluation
from effnets.inference.pipeline import Output, Pipeline
from effnets.inference.predictor import Decode, create_predictor
from effnets.utils.arguments import check_integer

if TYPE_CHECKING:
    from torch import nn

_COUNTED = 32  # images that are counted at a time


def evaluate(
    model: nn.Module | Engine,
    data: ImageDataset | str | os.PathLike[str],
    *,
    batch_size: int | None = None,
    topk: int = 5,
    image_size: int | tuple[int, int] | None = None,
    real_labels: str | os.PathLike[str] | None = None,
    strict: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
    class_order: Literal["numeric", "lexicographic"] | None = None,
    workers: int | None = None,
    decode: Decode = "exact",
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
        batch_size: images at a time in each thread; None takes what is fast on the model's device.
        topk: an answer counts for the second accuracy if the true class is among this many likeliest.
        image_size: side of the input in pixels, or (height, width); None takes the model's own.
        real_labels: a file of ReaL labels, for ImageNet's validation images.
        strict: raise an error for an image that cannot be read, or has no label in the data; otherwise it is left out.
        image_column: as in `effnets.finetune`, for data given by a path or an address.
        label_column: likewise.
        class_names: likewise.
        class_order: of classes called by numbers, for a model that does not name its outputs: "numeric" (0, 1, 2, …,
            10), as effnets and timm train, or "lexicographic" (0, 1, 10, 2, …), as torchvision's ImageFolder and Keras.
        workers: threads that decode and infer; None takes one per core, up to 16.
        decode: "exact" or "fast", as of `effnets.predict`.
        keep_logits: return all logits, which takes 4 bytes for each image and output.
        temperature: fitted on other images, to measure calibration with; None fits one on these images.
        progress: called with the share done, 0 to 1: first of reading shards on a server, then of the evaluation.

    Raises:
        MissingFileError, DataError: if the data does not exist, or has no readable image.
        ImageError: if an image cannot be read, with `strict`; the message names it.
        ArgumentError: if the classes are not the model's, or a number is out of range.
        WeightsError: if logits are NaN or infinite.
    """
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value is not None:
            check_integer(name, value, 1, "it must be at least 1")
    check_integer("topk", topk, 1, "ask for at least 1")
    if class_order not in (None, "numeric", "lexicographic"):
        raise ArgumentError(f"class_order is {class_order!r}; choose 'numeric' or 'lexicographic'")
    if temperature is not None and not 0.01 <= temperature <= 100:
        raise ArgumentError(f"temperature is {temperature!r}; give a number from 0.01 to 100")
    split, notes, origin = "given", tuple[str, ...](), "images in memory"
    if isinstance(data, ImageDataset):
        dataset = data
    else:
        # Every image is read below anyway, and corrupt ones are reported then.
        opened = open_evaluation_data(
            DataConfig(
                data,
                check="none",
                strict=strict,
                image_column=image_column,
                label_column=label_column,
                class_names=class_names,
            ),
            progress=None if progress is None else lambda _what, share: progress(share),
        )
        split, dataset, notes, origin = opened.split, opened.source, opened.notes, os.fspath(data)
    if len(dataset) == 0:
        raise DataError(f"{origin}: there is no image to evaluate on")
    predictor = create_predictor(model, image_size, "image_size", decode)
    dataset = dataset.with_channels(predictor.channels)
    classes, note = match_classes(
        dataset.class_names, predictor.class_names, named=predictor.named, class_order=class_order
    )
    real = RealLabels(real_labels) if real_labels is not None else None
    if real:
        real.check(dataset, predictor.class_names)
    calibration = CalibrationAccumulator(temperature)
    answered: list[tuple[NDArray[Any], ...]] = []
    kept_logits: list[NDArray[np.float32]] = []
    broken: list[Broken] = []
    pipeline = Pipeline(predictor, batch_size=batch_size, workers=workers)

    def load(index: int) -> Any:
        return predictor.prepare(dataset.lazy_image(index).decode(predictor.min_side))

    outputs = pipeline.run(range(len(dataset)), load)
    done = 0
    while batch := list(islice(outputs, _COUNTED)):
        broken += _broken(dataset, batch, strict=strict)
        indices = np.array([output.item for output in batch if output.error is None], np.int64)
        if len(indices):
            logits = np.stack([output.values for output in batch if output.values is not None])
            labels = classes[dataset.labels[indices]]
            answered.append(_answers(indices, labels, logits, topk))
            calibration.add(logits, labels)
            if keep_logits:
                kept_logits.append(logits)
        done += len(batch)
        if progress is not None:
            progress(done / len(dataset))
    broken.sort(key=lambda one: one.name)
    if not answered:
        raise DataError(f"{origin}: all {len(dataset)} images are unreadable, the first because: {broken[0].reason}")
    indices, labels, answers, confidences, in_topk = map(np.concatenate, zip(*answered, strict=True))
    return Evaluation(
        model=predictor.model,
        engine=predictor.engine,
        data=origin,
        split=split,
        notes=notes + ((note,) if note else ()),
        class_names=predictor.class_names,
        classes=classes,
        indices=indices,
        labels=labels,
        answers=answers,
        confidences=confidences,
        right_in_topk=int(in_topk.sum()),
        topk=topk,
        calibration=calibration.finish(),
        broken=tuple(broken),
        real=real.score(dataset, predictor.class_names, indices, answers) if real else None,
        decoding_speed=pipeline.timing.images * pipeline.workers / max(pipeline.timing.loading, 1e-9),
        network_speed=pipeline.timing.images * pipeline.concurrency / max(pipeline.timing.inference, 1e-9),
        workers=pipeline.workers,
        batch_size=pipeline.batch_size,
        logits=np.concatenate(kept_logits) if keep_logits else None,
        source=dataset,
    )


def _answers(
    indices: NDArray[np.int64], labels: NDArray[np.int64], logits: NDArray[np.float32], topk: int
) -> tuple[NDArray[Any], ...]:
    """Return ``[N]`` each of a batch: indices, labels, answers, their probabilities, and whether the label is in top-k.

    Raises:
        WeightsError: if the logits are not all finite.
    """
    if not np.isfinite(logits).all():
        raise WeightsError("the logits are not finite: the weights hold NaN or infinity, or the precision overflows")
    truth = logits[np.arange(len(labels)), labels][:, None]
    # Of equal logits the first output comes first, as in effnets.predict.
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > truth) | ((logits == truth) & earlier)).sum(axis=1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidences = (1 / weights.sum(axis=1, dtype=np.float64)).astype(np.float32)
    return indices, labels, logits.argmax(axis=1), confidences, rank < topk


def _broken(dataset: ImageDataset, outputs: Sequence[Output[int]], *, strict: bool) -> list[Broken]:
    """Return the images of a batch that could not be read, with reasons that name them.

    Raises:
        ImageError: with `strict`, for the first of them.
    """
    found = []
    for index, _, error in outputs:
        if error is None:
            continue
        if isinstance(error, ArgumentError):
            raise error
        name, message = dataset.name(index), str(error)
        reason = message if name in message else f"{name}: {message}"
        if strict:
            raise ImageError(f"{reason} (strict is on: fix or remove the image, or leave strict out)")
        found.append(Broken(name, reason))
    return found
