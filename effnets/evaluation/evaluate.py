"""`evaluate`: measure a model on labeled images. Free of torch, unless the model is a torch module."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from effnets.data.dataset import ImageDataset
from effnets.data.open import DataConfig, open_evaluation_data
from effnets.engines.base import Engine
from effnets.errors import ArgumentError, DataError
from effnets.evaluation.labels import RealLabels, match_classes
from effnets.evaluation.measurement import Distribute, Measurement
from effnets.evaluation.result import Evaluation
from effnets.inference.pipeline import Pipeline
from effnets.inference.predictor import Decode, create_predictor
from effnets.utils.arguments import check_integer

if TYPE_CHECKING:
    from torch import nn


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
    distribute: Distribute | None = None,
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
        distribute: measures in other processes, as `effnets.bulk.distributed.evaluate_on_ray`; None does it here.

    Raises:
        MissingFileError, DataError: if the data does not exist, or has no readable image.
        ImageError: if an image cannot be read, with `strict`; the message names it.
        ArgumentError: if the classes are not the model's, it has no classes but labels or embeddings, or a number is
            out of range.
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
    predictor = create_predictor(model, image_size, "image_size", decode)
    if predictor.activation == "sigmoid":
        raise ArgumentError(
            f"{predictor.model} gives an image any number of labels; measure it with effnets.evaluate_labels"
        )
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
    dataset = dataset.with_channels(predictor.channels)
    classes, note = match_classes(
        dataset.class_names, predictor.class_names, named=predictor.named, class_order=class_order
    )
    real = RealLabels(real_labels) if real_labels is not None else None
    if real:
        real.check(dataset, predictor.class_names)
    measurement = Measurement(
        dataset, classes, topk=topk, temperature=temperature, strict=strict, keep_logits=keep_logits
    )
    pipeline = Pipeline(predictor, batch_size=batch_size, workers=workers)
    concurrency = (pipeline.workers, pipeline.concurrency)
    if distribute is None:
        tally = measurement(pipeline, range(len(dataset)), progress)
    else:
        tally, count = distribute(measurement, progress)
        concurrency = (count, count)
    if not tally.answered:
        first = min(tally.broken, key=lambda one: one.name)
        raise DataError(f"{origin}: all {len(dataset)} images are unreadable, the first because: {first.reason}")
    indices, labels, answers, confidences, in_topk = tally.arrays()
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
        calibration=tally.calibration.finish(),
        broken=tuple(sorted(tally.broken, key=lambda one: one.name)),
        real=real.score(dataset, predictor.class_names, indices, answers) if real else None,
        decoding_speed=tally.timing.images * concurrency[0] / max(tally.timing.loading, 1e-9),
        network_speed=tally.timing.images * concurrency[1] / max(tally.timing.inference, 1e-9),
        workers=concurrency[0],
        batch_size=pipeline.batch_size,
        logits=np.concatenate(tally.logits) if keep_logits else None,
        source=dataset,
    )
