"""Small detectors that see, and pictures with boxes for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import effnets
from effnets.deploy.export.verify import normalized, probe_images
from effnets.detection.detector import Detector
from tests.support import shake

KINDS = ("ssdlite", "faster_rcnn", "retinanet")
CLASSES = ("apple", "pear", "plum")
SIZE = 96


def small_detector(kind: str = "ssdlite", backbone: Any = "mobilenetv1_025", **arguments: Any) -> Detector:
    """A fresh detector of three classes, of narrow maps and for small images."""
    torch.manual_seed(0)
    given = {"num_classes": len(CLASSES) + 1, "image_size": SIZE, "fpn_channels": 16, **arguments}
    return effnets.create_detector(backbone, kind, **given)


def shaken_detector(kind: str = "ssdlite", backbone: Any = "mobilenetv1_025", **arguments: Any) -> Detector:
    """A detector whose scores and boxes differ from place to place, as a trained one's do."""
    detector = small_detector(kind, backbone, class_names=CLASSES, **arguments)
    body = detector.body
    seen = torch.from_numpy(normalized(probe_images(4, SIZE, SIZE, 3, seed=9), body.spec.preprocess))
    shake(body, bn_high=1.1, gates=0.1, seen=seen)
    generator = torch.Generator().manual_seed(1)
    for name, part in detector.named_modules():
        predicts = isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None
        if predicts and not name.startswith("backbone"):
            places = "bbox" in name or "regression_head.module_list" in name
            scale = (0.3 if places else 1.5) * part.weight[0].numel() ** -0.5
            nn.init.normal_(part.weight, 0.0, scale, generator=generator)
            nn.init.zeros_(part.bias)
            part.register_forward_hook(_keep_moderate)
        elif isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        detector.train()(pictures(8, height=SIZE, width=SIZE), targets(8))  # for batch statistics of its own
    for part in detector.modules():
        part._forward_hooks.clear()
        if isinstance(part, nn.BatchNorm2d):
            # Of maps of one pixel some channels hardly vary, and would blow rounding up.
            part.running_var.clamp_(min=0.3 * part.running_var.mean().item())
    return detector.eval()


def _keep_moderate(part: nn.Module, _inputs: object, outputs: Tensor) -> None:
    """Weaken a layer whose outputs are so far apart that all scores would be 0 or 1, in an order that is chance."""
    part.weight.data /= max(1.0, outputs.std().item() / 4)


def pictures(count: int = 2, *, height: int = 80, width: int = 110) -> list[Tensor]:
    """Images ``[3, H, W]`` in 0..1."""
    return list(torch.from_numpy(probe_images(count, height, width, 3, seed=3)).permute(0, 3, 1, 2).float() / 255)


def targets(count: int = 2) -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[4.0, 4.0, 40.0, 44.0], [20.0, 10.0, 90.0, 70.0]])
    return [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _ in range(count)]
