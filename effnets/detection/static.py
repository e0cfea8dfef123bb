"""Detectors of one image whose tensors all have fixed sizes, as exporters need: torchvision's steps, without choosing.

Torchvision's postprocessing drops boxes as it goes, so that sizes depend on values. Here all boxes stay, and those that
are dropped get the score `DROPPED`. The arithmetic of boxes is torchvision's own.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image, nms, roi_align

from effnets.detection.detector import Detector
from effnets.detection.fpn import FasterRCNN, RetinaNet
from effnets.detection.ssdlite import SSDLite
from effnets.utils.arguments import check_size

DROPPED = -1.0
_ANY_SCORE = -0.5  # a threshold below every score, and above `DROPPED`
_MIN_BOX = 1e-2  # pixels; smaller boxes are dropped by torchvision's RoIHeads


@torch.library.custom_op(
    "effnets::suppress",
    mutates_args=(),
    schema="(Tensor boxes, Tensor scores, float iou_threshold, float score_threshold) -> Tensor",
)
def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    """Suppress boxes that overlap better ones: return the scores ``[B, C, K]``, `DROPPED` where their box is dropped.

    `boxes` are ``[B, K, 4]``. Each row of scores is by itself; those up to `score_threshold` are dropped first.
    An operator of its own, which ONNX has as NonMaxSuppression.
    """
    kept = torch.full_like(scores, DROPPED)
    for group, rows, result in zip(boxes, scores, kept, strict=True):
        for row, left in zip(rows, result, strict=True):
            places = torch.where(row > score_threshold)[0]
            places = places[nms(group[places], row[places], iou_threshold)]
            left[places] = row[places]
    return kept


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(scores)


class Static(nn.Module):
    """A detector of images ``[1, 3, H, W]`` in 0..1: their best boxes, in a fixed number and best first.

    Returns boxes ``[D, 4]`` in pixels of the image, labels ``[D]`` and scores ``[D]``, `DROPPED` from where there are
    no more. With `suppresses` False, it takes N images and returns all boxes ``[N, A, 4]`` and scores ``[N, A, C]``.

    Args:
        detector: in evaluation mode; it becomes part of this.
        size: (height, width) in pixels of the images that enter the network.
        suppresses: whether boxes that overlap better ones are dropped.
        resizes: whether images of any size are resized to `size`, as torchvision's transform does.
    """

    detector: Any  # its parts are torchvision's, which is untyped
    anchors: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, detector: Detector, size: tuple[int, int], *, suppresses: bool, resizes: bool = False) -> None:
        super().__init__()
        self.detector = detector
        self.size = size
        self.suppresses = suppresses
        self.resizes = resizes
        parts: Any = detector
        transform = parts.transform
        weight = next(detector.parameters())
        self.register_buffer("mean", weight.new_tensor(transform.image_mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", weight.new_tensor(transform.image_std).reshape(1, 3, 1, 1))
        divisor = transform.size_divisible
        self.padding = [0, -size[1] % divisor, 0, -size[0] % divisor]
        with torch.no_grad():
            images = self._prepare(weight.new_zeros(1, 3, *size))
            maps = list(parts.backbone(images).values())
            generator = parts.rpn.anchor_generator if isinstance(detector, FasterRCNN) else parts.anchor_generator
            (anchors,) = generator(ImageList(images, [size]), maps)
        self.register_buffer("anchors", anchors)
        places = [level.shape[-2] * level.shape[-1] for level in maps]
        self.level_sizes = [count * len(anchors) // sum(places) for count in places]

    def _prepare(self, images: Tensor) -> Tensor:
        images = (images - self.mean) / self.std
        if self.resizes:
            images = F.interpolate(images, size=self.size, mode="bilinear", align_corners=False)
        return F.pad(images, self.padding) if any(self.padding) else images

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.detector.backbone(self._prepare(images))
        found = self._detect(maps)
        if not self.resizes:
            return found
        # In pixels of the given images: sides are counted as tensors, so that they may be of any size.
        width = torch.ones_like(images[0, 0, 0]).sum() / self.size[1]
        height = torch.ones_like(images[0, 0, :, 0]).sum() / self.size[0]
        return found[0] * torch.stack([width, height, width, height]), *found[1:]

    def _detect(self, maps: dict[str, Tensor]) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _decode(self, coder: Any, offsets: Tensor) -> Tensor:
        """Return boxes ``[N, A, 4]`` within the image from offsets of the same shape."""
        anchors = self.anchors.expand(offsets.shape[0], -1, -1)
        boxes = coder.decode_single(offsets.reshape(-1, 4), anchors.reshape(-1, 4))
        return self._clip(boxes.reshape(offsets.shape))

    def _clip(self, boxes: Tensor) -> Tensor:
        clipped: Tensor = clip_boxes_to_image(boxes, self.size)
        return clipped

    def _best(self, boxes: Tensor, labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best of boxes ``[M, 4]``, labels ``[M]`` and scores ``[M]``."""
        scores, places = scores.topk(min(self.detector.settings.max_detections, len(scores)))
        return boxes[places], labels[places], scores


class StaticSSDLite(Static):
    """SSDLite, as torchvision's SSD: the best of each class, suppressed within the class."""

    def _detect(self, maps: dict[str, Tensor]) -> tuple[Tensor, ...]:
        detector = self.detector
        outputs = detector.head(list(maps.values()))
        boxes = self._decode(detector.box_coder, outputs["bbox_regression"])
        scores = outputs["cls_logits"].softmax(-1)
        if not self.suppresses:
            return boxes, scores
        by_class = scores[0, :, 1:].T
        candidates = min(detector.topk_candidates, by_class.shape[1])
        best, places = by_class.topk(candidates)
        chosen = boxes[0][places]
        kept = suppress(chosen, best[:, None], detector.nms_thresh, detector.score_thresh)
        labels = torch.arange(1, len(by_class) + 1, device=boxes.device)[:, None].expand(-1, candidates)
        return self._best(chosen.reshape(-1, 4), labels.reshape(-1), kept.reshape(-1))


class StaticRetinaNet(Static):
    """RetinaNet: the best of each map, whatever their class, suppressed within the class."""

    def _detect(self, maps: dict[str, Tensor]) -> tuple[Tensor, ...]:
        detector = self.detector
        outputs = detector.head(list(maps.values()))
        boxes = self._decode(detector.box_coder, outputs["bbox_regression"])
        scores = outputs["cls_logits"].sigmoid()
        if not self.suppresses:
            return boxes, scores
        classes = scores.shape[-1]
        chosen, best, labels = [], [], []
        for level_boxes, level_scores in zip(
            torch.split(boxes[0], self.level_sizes), torch.split(scores[0], self.level_sizes), strict=True
        ):
            flat = level_scores.flatten()
            values, places = flat.topk(min(detector.topk_candidates, len(flat)))
            anchors = torch.div(places, classes, rounding_mode="floor")
            best.append(values)
            labels.append(places - anchors * classes)
            chosen.append(level_boxes[anchors])
        return self._best(
            *_suppress_by_label(chosen, labels, best, classes, detector.nms_thresh, detector.score_thresh)
        )


class StaticFasterRCNN(Static):
    """Faster R-CNN: the best proposals, pooled from the map that fits their size, suppressed within each class."""

    def __init__(self, detector: FasterRCNN, size: tuple[int, int]) -> None:
        super().__init__(detector, size, suppresses=True)
        self.reductions = detector.body.feature_info.reduction()

    def _detect(self, maps: dict[str, Tensor]) -> tuple[Tensor, ...]:
        heads = self.detector.roi_heads
        proposals, is_proposal = self._propose(list(maps.values()))
        pooled = self._pool([maps[name] for name in heads.box_roi_pool.featmap_names], proposals)
        logits, offsets = heads.box_predictor(heads.box_head(pooled))
        boxes = self._clip(heads.box_coder.decode(offsets, [proposals]))[:, 1:].transpose(0, 1)
        scores = logits.softmax(-1)[:, 1:].T
        scores = torch.where(is_proposal & _is_large(boxes, _MIN_BOX), scores, DROPPED)
        kept = suppress(boxes.contiguous(), scores[:, None], heads.nms_thresh, heads.score_thresh)
        labels = torch.arange(1, len(boxes) + 1, device=boxes.device)[:, None].expand(-1, len(proposals))
        return self._best(boxes.reshape(-1, 4), labels.reshape(-1), kept.reshape(-1))

    def _propose(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return boxes ``[P, 4]`` that may hold an object, best first, and whether each is one."""
        rpn = self.detector.rpn
        objectness, deltas = concat_box_prediction_layers(*rpn.head(maps))
        boxes = self._clip(rpn.box_coder.decode_single(deltas, self.anchors))
        chosen, best, levels = [], [], []
        for level, (level_boxes, logits) in enumerate(
            zip(torch.split(boxes, self.level_sizes), torch.split(objectness.flatten(), self.level_sizes), strict=True)
        ):
            values, places = logits.topk(min(rpn.pre_nms_top_n(), len(logits)))
            level_boxes = level_boxes[places]
            chosen.append(level_boxes)
            best.append(torch.where(_is_large(level_boxes, rpn.min_size), values.sigmoid(), DROPPED))
            levels.append(torch.full_like(places, level))
        boxes, _, scores = _suppress_by_label(chosen, levels, best, len(maps), rpn.nms_thresh, _ANY_SCORE)
        scores, places = scores.topk(min(rpn.post_nms_top_n(), len(scores)))
        return boxes[places], scores > _ANY_SCORE

    def _pool(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        """Pool each box from the map that fits its size (FPN, arXiv:1612.03144, equation 1)."""
        pool = self.detector.roi_heads.box_roi_pool
        first, last = (round(math.log2(reduction)) for reduction in (self.reductions[0], self.reductions[-1]))
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        level = torch.floor(pool.canonical_level + torch.log2(area.sqrt() / pool.canonical_scale) + 1e-6)
        level = level.clamp(first, last)
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
        pooled = None
        for index, features in enumerate(maps):
            here = roi_align(features, rois, pool.output_size, 1 / self.reductions[index], pool.sampling_ratio)
            pooled = (
                here if pooled is None else torch.where((level == first + index)[:, None, None, None], here, pooled)
            )
        assert pooled is not None, "the builder wants two maps or more"
        return pooled


def _is_large(boxes: Tensor, side: float) -> Tensor:
    return ((boxes[..., 2] - boxes[..., 0]) >= side) & ((boxes[..., 3] - boxes[..., 1]) >= side)


def _suppress_by_label(
    boxes: list[Tensor],
    labels: list[Tensor],
    scores: list[Tensor],
    count: int,
    iou_threshold: float,
    score_threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Join parts, and suppress boxes that overlap better ones of the same of `count` labels."""
    all_boxes, all_labels, all_scores = torch.cat(boxes), torch.cat(labels), torch.cat(scores)
    is_label = all_labels == torch.arange(count, device=all_labels.device)[:, None]
    rows = torch.where(is_label, all_scores, DROPPED)
    kept = suppress(all_boxes[None], rows[None], iou_threshold, score_threshold)[0].amax(0)
    return all_boxes, all_labels, kept


def at_size(detector: Detector, size: tuple[int, int]) -> Detector:
    """Return a float32 copy on the CPU, in evaluation mode, that leaves images of (height, width) `size` alone."""
    height, width = check_size(size)
    copied = copy.deepcopy(detector).cpu().float().eval().requires_grad_(False)
    parts: Any = copied
    if isinstance(copied, SSDLite):
        parts.transform.fixed_size = (width, height)
    else:
        parts.transform.min_size, parts.transform.max_size = (min(height, width),), max(height, width)
        if isinstance(copied, FasterRCNN):
            parts.roi_heads.box_roi_pool.scales = None  # of the images that it saw before
    return copied


def make_static(detector: Detector, size: tuple[int, int], *, suppresses: bool = True, resizes: bool = False) -> Static:
    """Return the static form of a detector that `at_size` returned for this size; Faster R-CNN always suppresses."""
    if isinstance(detector, FasterRCNN):
        return StaticFasterRCNN(detector, size)
    kind = StaticRetinaNet if isinstance(detector, RetinaNet) else StaticSSDLite
    return kind(detector, size, suppresses=suppresses, resizes=resizes)
