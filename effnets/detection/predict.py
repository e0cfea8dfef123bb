"""Detect objects in images: named boxes in their own pixels. Knows torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from effnets.detection.loader import SPARE
from effnets.errors import ArgumentError, ImageError, MissingFileError
from effnets.inference.arrays import Pixels, resize, size_of
from effnets.inference.image import ImageSource, PhotoResult, load_image
from effnets.nn.utils import evaluating
from effnets.utils.arguments import check_integer
from effnets.utils.machine import cpu_count
from effnets.utils.threads import map_in_order

_Item = TypeVar("_Item")

_BATCH = 8


@dataclass(frozen=True, slots=True)
class Box:
    """An object in an image, or what is taken for one.

    Attributes:
        index: its class, from 1. label: the name of this.
        score: of the detector, 0..1; 1 for what is labeled.
        x1, y1, x2, y2: left, top, right and bottom edge in pixels of the upright image.
    """

    index: int
    label: str
    score: float
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector answers for one image, best first.

    Attributes:
        boxes: float32 [n, 4]; x1, y1, x2, y2 in pixels of the upright image.
        labels: int64 [n]; from 1. scores: float32 [n]; 0..1.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]

    def above(self, score: float) -> Detections:
        """Return those of at least this score."""
        kept = self.scores >= score
        return Detections(self.boxes[kept], self.labels[kept], self.scores[kept])

    def named(self, class_names: Sequence[str]) -> list[Box]:
        """Return them with the names of their classes, which do not include the background."""
        rows = zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        return [Box(label, class_names[label - 1], score, *box) for label, score, box in rows]


@dataclass(slots=True)
class DetectedPhoto(PhotoResult):
    """An image file with the boxes found in it, or the error that prevented them."""

    boxes: Sequence[Box] = field(default=())

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        if self.error:
            return {"path": self.path, "error": self.error}
        return {"path": self.path, "boxes": [asdict(box) for box in self.boxes]}


class DetectorInput:
    """From an image to a detector's input, and its answers back to the image's pixels.

    Images of more than twice the input's size are shrunk to that first: the detector's own resize does not average.

    Args:
        model: of torchvision's interface.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        transform: Any = getattr(model, "transform", None)
        fixed = getattr(transform, "fixed_size", None)
        sides = fixed or getattr(transform, "min_size", None)
        self.side = math.ceil(SPARE * max(sides)) if sides else None

    def prepare(self, image: Pixels) -> Tensor:
        """Return an image of mode "RGB" as float32 [3, H, W] in 0..1."""
        width, height = size_of(image)
        shorter = min(width, height)
        if self.side is not None and shorter > self.side:
            small = tuple(math.ceil(length * (self.side / shorter)) for length in (width, height))
            image = resize(image, (small[0], small[1]), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32).div_(255)

    def infer(self, inputs: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Return the detections in images of `sizes`, (width, height), of which `inputs` are the prepared ones."""
        device = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        with torch.inference_mode():
            answers: list[dict[str, Tensor]] = self.model([one.to(device) for one in inputs])
        found = []
        for answer, one, size in zip(answers, inputs, sizes, strict=True):
            scale: NDArray[np.float32] = np.tile(np.array(size, np.float32) / np.array(one.shape[:0:-1], np.float32), 2)
            boxes: NDArray[np.float32] = answer["boxes"].float().cpu().numpy()
            scores: NDArray[np.float32] = answer["scores"].float().cpu().numpy()
            order = np.argsort(-scores, kind="stable")
            found.append(Detections((boxes * scale)[order], answer["labels"].cpu().numpy()[order], scores[order]))
        return found


def detect(
    model: nn.Module,
    images: ImageSource | Iterable[ImageSource],
    score_threshold: float = 0.5,
    *,
    batch_size: int = _BATCH,
) -> list[list[Box]]:
    """Detect objects in images.

    Args:
        model: a detector, as `effnets.create_detector` makes it, with the attribute ``class_names``. It is run in
            evaluation mode, and each of its modules left in the mode it was in.
        images: one of these, or several: a path, the content of a file, a PIL image, an array [H, W, 3] or a tensor
            [3, H, W], as of `effnets.predict`.
        score_threshold: boxes of lower scores are left out.
        batch_size: images at a time.

    Returns:
        For each image its boxes, the best first, in pixels of the upright image.

    Raises:
        ImageError, MissingFileError: if an image cannot be read; the message names it.
        ArgumentError: if the model has no class names, or a number is out of range.
    """
    several = isinstance(images, Iterable) and not isinstance(
        images, str | bytes | bytearray | memoryview | Image.Image
    )
    if several and (hasattr(images, "read") or getattr(images, "ndim", 4) == 3):
        several = False  # a file, or a single array
    sources: Iterable[Any] = images if several else [images]  # type: ignore[assignment]
    class_names = detector_classes(model)
    _check(score_threshold, batch_size)
    reader = DetectorInput(model)
    loaded = ((size_of(image), reader.prepare(image)) for image in map(load_image, sources))
    found: list[list[Box]] = []
    with evaluating(model):
        for batch in _batches(loaded, batch_size):
            answers = reader.infer([one for _, one in batch], [size for size, _ in batch])
            found += [answer.above(score_threshold).named(class_names) for answer in answers]
    return found


def detect_photos(
    model: nn.Module,
    photos: Iterable[PhotoResult],
    score_threshold: float = 0.5,
    *,
    batch_size: int = _BATCH,
    workers: int | None = None,
    use: Callable[[DetectedPhoto, Image.Image], object] = lambda _photo, _image: None,
) -> Iterator[DetectedPhoto]:
    """Yield every photo, in order, with its boxes or the error that prevented them; threads read ahead.

    Args:
        model, score_threshold, batch_size: as of `detect`.
        photos: as of `effnets.inference.image.find_photos`; those with an error pass as they are.
        workers: threads that read and decode; None takes one for each core.
        use: called with each result and its upright image.

    Raises:
        ArgumentError: as of `detect`; or if a path is an address.
    """
    class_names = detector_classes(model)
    _check(score_threshold, batch_size)
    reader = DetectorInput(model)

    def load(photo: PhotoResult) -> tuple[DetectedPhoto, Image.Image | None, Tensor | None]:
        if photo.error:
            return DetectedPhoto(photo.path, error=photo.error), None, None
        try:
            image = load_image(photo.path)
        except (ImageError, MissingFileError) as error:
            return DetectedPhoto(photo.path, error=str(error)), None, None
        assert isinstance(image, Image.Image), "as all of 3 channels"
        return DetectedPhoto(photo.path), image, reader.prepare(image)

    loaded = map_in_order(load, photos, workers=workers or cpu_count(), ahead=2 * batch_size)
    with evaluating(model):
        for batch in _batches(loaded, batch_size):
            readable = [(image, one) for _, image, one in batch if image is not None and one is not None]
            answers = iter(
                reader.infer([one for _, one in readable], [image.size for image, _ in readable]) if readable else ()
            )
            for photo, image, _ in batch:
                if image is not None:
                    photo.boxes = next(answers).above(score_threshold).named(class_names)
                    use(photo, image)
                yield photo


def detector_classes(model: nn.Module) -> tuple[str, ...]:
    """Return the names of a detector's classes, without the background.

    Raises:
        ArgumentError: if it has none.
    """
    names = getattr(model, "class_names", None)
    if not names:
        raise ArgumentError("model has no class_names; set them, without the background: model.class_names = ('cat',)")
    return tuple(names)


def _check(score_threshold: float, batch_size: int) -> None:
    check_integer("batch_size", batch_size, 1, "give the images at a time, from 1")
    if not 0 <= score_threshold <= 1:
        raise ArgumentError(f"score_threshold is {score_threshold!r}; give a number from 0 to 1")


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    pending = iter(items)
    while batch := list(islice(pending, size)):
        yield batch
