"""Verification of an exported detector: its boxes are compared with torchvision's before it is handed over.

Which boxes are found hangs on comparisons that rounding can turn: of overlaps with the threshold, of scores with one
another. Boxes that torch itself finds in float32 and not in float64 are not asked for, nor the last of each class,
where the list is cut.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from effnets.deploy.export.verify import probe_images
from effnets.detection.detector import Detector
from effnets.detection.fpn import FasterRCNN
from effnets.detection.graph import BOXES, LABELS, SCORES, with_threshold
from effnets.detection.static import Static
from effnets.engines.base import load_onnx
from effnets.engines.metadata import ModelMetadata
from effnets.errors import EffnetsError, VerificationError

Found = Mapping[str, NDArray[Any]]

MIN_IOU = 0.999
MAX_SCORE_ERROR = 1e-4
_SAME_PLACE = 0.1  # pixels, of boxes without an area, which have no IoU
_IMAGES = 3
_WANTED = 20  # boxes that an image is to have, to be compared
_STRAY = 0.02  # of the boxes may differ, as one overlap at the threshold turns several
# Of all boxes of a graph without suppression.
_BOX_TOLERANCE = 1e-3  # of the image's longer side
_ROUNDING_ALLOWANCE = 4  # times the error of float32 in torch
_MOST_SCORE_ERROR = 1e-2
_OTHER_SIZES = ((240, 320), (333, 250))  # of images that the graph resizes


def verify_detector(
    model: onnx.ModelProto, static: Static, metadata: ModelMetadata, engines: Sequence[str]
) -> dict[str, float]:
    """Compare a graph with the detector that `static` was made of, on each of `engines`.

    With suppression, each box that torchvision's detector finds has a counterpart of the same label, an IoU of 0.999 or
    more, and a score that differs by 1e-4 at most; without, all boxes and scores are compared. Returns the largest
    difference of scores by engine. Raises VerificationError if anything differs; says what.
    """
    detector, changed = static.detector, metadata.model
    try:
        if not static.suppresses:
            expected = [_expect_raw(static, images) for images in _probes(static)]
            return {name: _compare_raw(model, metadata, name, expected) for name in engines}
        threshold = _probe_threshold(detector, static)
        lowered = with_threshold(model, detector.settings.score_threshold, threshold)
        answers = [_answer(detector, images, threshold) for images in _probes(static)]
        return {name: _compare(lowered, metadata, name, answers) for name in engines}
    except VerificationError as error:
        raise VerificationError(f"{changed}: not exported: {error}") from None
    except EffnetsError as error:
        raise VerificationError(f"{changed}: not exported: the graph does not run: {error}") from None


@dataclass(frozen=True, slots=True)
class Answer:
    """What torchvision's detector finds in an image ``[1, 3, H, W]``, in float32 and in float64."""

    images: NDArray[np.float32]
    single: Found
    double: Found


def _probes(static: Static) -> Iterator[NDArray[np.float32]]:
    for seed in range(_IMAGES):
        size = (static.size, *_OTHER_SIZES)[seed] if static.resizes else static.size
        # Another kind of picture each time: clouds alone, over a gradient, over a checkerboard.
        pictures = probe_images(seed + 1, *size, 3, seed=seed)[-1:]
        yield (pictures.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)


def _probe_threshold(detector: Detector, static: Static) -> float:
    """Return the detector's score threshold, or a lower one at which it finds boxes to compare."""
    own = detector.settings.score_threshold
    scores = [_detect(detector, images, 0.0)[SCORES] for images in _probes(static)]
    least = min(float(found[: _WANTED + 1].min(initial=1.0)) for found in scores)
    return min(own, 0.99 * least)


def _answer(detector: Detector, images: NDArray[np.float32], threshold: float) -> Answer:
    double = copy.deepcopy(detector).double()
    return Answer(images, _detect(detector, images, threshold), _detect(double, images, threshold))


@torch.inference_mode()
def _detect(detector: Detector, images: NDArray[np.float32], threshold: float) -> Found:
    heads: Any = detector.roi_heads if isinstance(detector, FasterRCNN) else detector
    before, heads.score_thresh = heads.score_thresh, threshold
    try:
        (found,) = detector([torch.from_numpy(images[0]).to(next(detector.parameters()).dtype)])
    finally:
        heads.score_thresh = before
    return {name: value.numpy() for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """All boxes and scores of an image in float64, and how far off an engine may be."""

    images: NDArray[np.float32]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    box_tolerance: float
    score_tolerance: float


@torch.inference_mode()
def _expect_raw(static: Static, images: NDArray[np.float32]) -> RawAnswer:
    """Compute the boxes in float64; where float32 in torch is itself off by more than usual, so may engines be."""
    single = [value.numpy() for value in static(torch.from_numpy(images))]
    double = copy.deepcopy(static).double()
    boxes, scores = (value.numpy() for value in double(torch.from_numpy(images).double()))
    off = [
        _ROUNDING_ALLOWANCE * float(np.abs(value - exact).max())
        for value, exact in zip(single, (boxes, scores), strict=True)
    ]
    return RawAnswer(
        images,
        boxes,
        scores,
        max(_BOX_TOLERANCE * max(images.shape[2:]), off[0]),
        max(MAX_SCORE_ERROR, min(off[1], _MOST_SCORE_ERROR)),
    )


def _compare(model: onnx.ModelProto, metadata: ModelMetadata, name: str, answers: Sequence[Answer]) -> float:
    engine = load_onnx(model.SerializeToString(), metadata, name)
    errors = []
    for answer in answers:
        found = engine.run(answer.images)
        if problem := find_difference(found, answer.single, answer.double):
            raise VerificationError(f"{name}: {problem}")
        errors.append(_score_error(found, answer.single))
    return max(errors)


def _compare_raw(model: onnx.ModelProto, metadata: ModelMetadata, name: str, answers: Sequence[RawAnswer]) -> float:
    engine = load_onnx(model.SerializeToString(), metadata, name)
    errors = []
    for answer in answers:
        for batch in (1, 2):
            found = engine.run(np.repeat(answer.images, batch, axis=0))
            for output, exact in ((BOXES, answer.boxes), (SCORES, answer.scores)):
                if found[output].shape != (batch, *exact.shape[1:]):
                    raise VerificationError(f"{name}: {output} of {batch} images have the shape {found[output].shape}")
            box_error = float(np.abs(found[BOXES] - answer.boxes).max())
            score_error = float(np.abs(found[SCORES] - answer.scores).max())
            if not (box_error <= answer.box_tolerance and score_error <= answer.score_tolerance):
                raise VerificationError(
                    f"{name}: boxes differ from torch's by up to {box_error:.1e} pixels, scores by {score_error:.1e}"
                )
            errors.append(score_error)
    return max(errors)


def find_difference(found: Found, single: Found, double: Found) -> str | None:
    """Say what an engine's boxes lack, or have beside torch's in float32 and float64; None if they agree."""
    if found[BOXES].shape != (len(found[SCORES]), 4) or len(found[LABELS]) != len(found[SCORES]):
        return f"the outputs have the shapes {[list(value.shape) for value in found.values()]}"
    if not all(np.isfinite(value).all() for value in found.values()):
        return "boxes or scores are not finite"
    stable, in_engine = matched(single, double), matched(single, found)
    missing = stable & ~in_engine & ~_last(single, single)
    extra = ~(matched(found, single) | matched(found, double)) & ~_last(found, single)
    allowed = max(2 * int((~stable).sum()), int(_STRAY * len(stable)))
    if missing.sum() > allowed or extra.sum() > allowed:
        place = int(np.argmax(missing if missing.sum() > allowed else extra))
        which = single if missing.sum() > allowed else found
        box = ", ".join(f"{side:.1f}" for side in which[BOXES][place])
        return (
            f"of {len(stable)} boxes {int(missing.sum())} are missing and {int(extra.sum())} are only in the file; "
            f"the best has label {which[LABELS][place]}, score {which[SCORES][place]:.4f} and box {box}"
        )
    return None


def matched(boxes: Found, others: Found) -> NDArray[np.bool_]:
    """Return for each of `boxes` whether `others` have one of its label at its place, with its score."""
    if not len(boxes[SCORES]) or not len(others[SCORES]):
        return np.zeros(len(boxes[SCORES]), bool)
    found: NDArray[np.bool_] = np.any(_pairs(boxes, others), axis=1)
    return found


def _pairs(boxes: Found, others: Found) -> NDArray[np.bool_]:
    """``[n, m]``: which of `boxes` are which of `others`."""
    first, second = boxes[BOXES][:, None].astype(np.float64), others[BOXES][None].astype(np.float64)
    shared = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    overlap = shared.clip(0).prod(-1)
    areas = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1)
    same_place = (overlap >= MIN_IOU * (areas - overlap)) & (overlap > 0)
    same_place |= (np.abs(first - second).max(-1) <= _SAME_PLACE) & (overlap <= _SAME_PLACE**2)
    same_label = boxes[LABELS][:, None] == others[LABELS][None]
    same_score = np.abs(boxes[SCORES][:, None].astype(np.float64) - others[SCORES][None]) <= MAX_SCORE_ERROR
    pairs: NDArray[np.bool_] = same_place & same_label & same_score
    return pairs


def _last(boxes: Found, expected: Found) -> NDArray[np.bool_]:
    """Return which of `boxes` have about the lowest score of their class among the expected, or of all, or lower."""
    lowest = float(expected[SCORES].min(initial=1.0))
    of_label = {label: expected[SCORES][expected[LABELS] == label].min() for label in np.unique(expected[LABELS])}
    limits = np.array([max(lowest, of_label.get(label, lowest)) for label in boxes[LABELS]])
    last: NDArray[np.bool_] = boxes[SCORES] <= limits + MAX_SCORE_ERROR
    return last


def _score_error(found: Found, expected: Found) -> float:
    """Return the largest difference of scores between boxes that are the same."""
    if not len(found[SCORES]) or not len(expected[SCORES]):
        return 0.0
    differences = np.abs(found[SCORES][:, None] - expected[SCORES][None])
    return float(differences[_pairs(found, expected)].max(initial=0.0))
