"""Average precision as COCO defines it, by torchmetrics and faster-coco-eval. Knows torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effnets.errors import ArgumentError

# As COCO's own program writes them, without the rounding of float32.
_IOUS = [round(0.5 + 0.05 * step, 2) for step in range(10)]
_RECALLS = np.linspace(0, 1, 101).tolist()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAP:
    """Figures of one class in per cent; NaN if no box of it was to be found.

    Attributes:
        name: of the class. boxes: how many were to be found.
        ap: mean over the IoU thresholds 0.50, 0.55, …, 0.95. ap50, ap75: at one threshold.
        recall: of the 100 best detections of an image, mean over the thresholds.
    """

    name: str
    boxes: int
    ap: float
    ap50: float
    ap75: float
    recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanAPResult:
    """Means over the classes, in per cent; NaN if no box was to be found (cocodataset.org/#detection-eval).

    Attributes:
        mean_ap: mAP@[.5:.95], the figure that COCO ranks by. mean_ap50, mean_ap75: at one threshold.
        recall: of the 100 best detections of an image, mean over the thresholds (AR@100).
        small, medium, large: `mean_ap` of boxes below 32², below 96², and above.
        classes: figures of each.
    """

    mean_ap: float
    mean_ap50: float
    mean_ap75: float
    recall: float
    small: float
    medium: float
    large: float
    classes: tuple[ClassAP, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; None for NaN."""
        values = {**asdict(self), "classes": [_without_nan(asdict(one)) for one in self.classes]}
        return _without_nan(values)


class MeanAP:
    """Average precision over images, which are added in any order.

    Boxes of groups (crowd) and difficult ones are not to be found: a detection there is neither right nor wrong.

    Args:
        class_names: without the background.

    Raises:
        ArgumentError: if torchmetrics or faster-coco-eval is not installed.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        missing = [name for name in ("torchmetrics", "faster_coco_eval") if not find_spec(name)]
        if missing:
            raise ArgumentError(
                f"{missing[0]} is not installed, which measures average precision; pip install 'effnets[detection]'"
            )
        from torchmetrics.detection import MeanAveragePrecision

        self.class_names = tuple(class_names)
        self._metric = MeanAveragePrecision(
            backend="faster_coco_eval",
            iou_thresholds=_IOUS,
            rec_thresholds=_RECALLS,
            extended_summary=True,
            sync_on_compute=False,  # one process alone may measure, and would wait for the others
        )
        self._metric.warn_on_many_detections = False  # a detector gives more than the 100 that count
        self._counts = np.zeros(len(self.class_names) + 1, np.int64)

    def update(self, detections: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Add images.

        Args:
            detections: for each image ``boxes`` [n, 4] (x1, y1, x2, y2), ``labels`` [n] from 1, ``scores`` [n].
            targets: for each image ``boxes``, ``labels``, and ``ignored`` [n] if some are not to be found.
        """
        found, truth = [], []
        for detection, target in zip(detections, targets, strict=True):
            found.append({key: detection[key].cpu() for key in ("boxes", "labels", "scores")})
            labels = target["labels"].cpu()
            ignored = target.get("ignored", torch.zeros(len(labels), dtype=torch.bool)).cpu()
            truth.append({"boxes": target["boxes"].cpu(), "labels": labels, "iscrowd": ignored.long()})
            self._counts += np.bincount(labels[~ignored].numpy(), minlength=len(self._counts))
        self._metric.update(found, truth)

    def compute(self) -> MeanAPResult:
        """Return the figures of all images so far."""
        found: dict[str, Tensor] = self._metric.compute()
        rows = {int(label): place for place, label in enumerate(found["classes"].reshape(-1).tolist())}
        precision, recall = found.get("precision"), found.get("recall")
        classes = []
        for label, name in enumerate(self.class_names, 1):
            figures = [math.nan] * 4
            if self._counts[label] and label in rows and precision is not None and recall is not None:
                # [thresholds, recalls]; of all areas, and of the 100 best detections.
                curves = precision[:, :, rows[label], 0, -1]
                figures = [
                    *(_percent(curve.mean()) for curve in (curves, curves[0], curves[5])),
                    _percent(recall[:, rows[label], 0, -1].mean()),
                ]
            ap, ap50, ap75, found_part = figures
            classes.append(
                ClassAP(name=name, boxes=int(self._counts[label]), ap=ap, ap50=ap50, ap75=ap75, recall=found_part)
            )
        return MeanAPResult(
            mean_ap=_percent(found["map"]),
            mean_ap50=_percent(found["map_50"]),
            mean_ap75=_percent(found["map_75"]),
            recall=_percent(found["mar_100"]),
            small=_percent(found["map_small"]),
            medium=_percent(found["map_medium"]),
            large=_percent(found["map_large"]),
            classes=tuple(classes),
        )


def _percent(share: Tensor) -> float:
    """Return a share in per cent; NaN for COCO's -1, which says that there was nothing to measure."""
    value = float(share)
    return math.nan if value < 0 else 100 * value


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}
