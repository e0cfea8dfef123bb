"""`create_detector`: a backbone of the zoo and a kind of detector → a detector with torchvision's interface."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from effnets.detection.detector import (
    Detector,
    DetectorSettings,
    Kind,
    check_channels,
    check_class_names,
    check_kind,
)
from effnets.detection.plan import COARSE, FINE, check_num_classes
from effnets.errors import ArgumentError, EngineError
from effnets.factory import create_model
from effnets.nn.classifier import Classifier, unwrap
from effnets.nn.features import FeaturePyramid
from effnets.nn.freeze import freeze as freeze_parts
from effnets.nn.freeze import freeze_statistics
from effnets.spec.specs import ModelSpec
from effnets.train.bn_calibration import has_identity_statistics
from effnets.utils.arguments import MAX_SIDE, check_integer

# Torchvision's defaults: of ssdlite320_mobilenet_v3_large, FasterRCNN and RetinaNet.
_DEFAULTS: dict[Kind, dict[str, Any]] = {
    "ssdlite": {"image_size": 320, "score_threshold": 0.001, "nms_threshold": 0.55, "max_detections": 300},
    "faster_rcnn": {"image_size": 800, "score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 100},
    "retinanet": {"image_size": 800, "score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 300},
}
_LONGER_SIDE = 1333 / 800
_LEVELS = 3  # the coarsest of the zoo's maps, of strides 8, 16 and 32


def create_detector(
    backbone: str | os.PathLike[str] | ModelSpec | Classifier | FeaturePyramid,
    kind: Kind,
    *,
    num_classes: int,
    pretrained: bool = False,
    weights: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    freeze: int | str | None = None,
    bn: str | None = None,
    fpn_channels: int = 256,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
    max_detections: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Detector:
    """Build an object detector, in training mode like any new module, with torchvision's interface.

    It takes a list of images ``[3, H, W]`` in 0..1 of any sizes, resizes them and normalizes them with the backbone's
    mean and std. In evaluation mode it returns a dict of ``boxes`` ``[n, 4]``, ``labels`` and ``scores`` for each, in
    training mode with targets (dicts of ``boxes`` and ``labels``) a dict of losses. Everything but the backbone is
    newly initialized.

    Args:
        backbone: all that `effnets.create_model` takes as a name, or a network that it built, which becomes part of the
            detector: a feature pyramid (``features_only=True``), for SSDLite also a classifier, whose head convolution
            it then has.
        kind: ``ssdlite``, MobileNetV2's (arXiv:1801.04381, section 6.2); ``faster_rcnn`` or ``retinanet``,
            torchvision's on a feature pyramid network over the three coarsest maps, or those of the given pyramid.
        num_classes: as torchvision counts: with the background, which is label 0; COCO has 91.
        pretrained: load the published weights of the backbone.
        weights: of the backbone, as of `effnets.create_model`.
        image_size: pixels; SSDLite resizes images to a square of that side (None: 320), the others the shorter side to
            it, and the longer to at most 1333/800 of it (None: 800).
        class_names: of the labels from 1, saved with the detector.
        freeze: what of the backbone does not learn, as `until` of `effnets.freeze`; its batch statistics stay fixed.
        bn: ``train`` lets the backbone's other batch normalizations follow the batches; ``eval`` fixes their
            statistics, for batches of few images. None: ``eval`` where the weights come without statistics, else
            ``train``.
        fpn_channels: channels of the feature pyramid network.
        score_threshold: boxes of lower scores are left out; None, here and below: as torchvision's own.
        nms_threshold: of boxes of one class that overlap more (IoU), the best is kept.
        max_detections: the most boxes of an image.
        device: of the parameters.
        dtype: likewise.

    Raises:
        ArgumentError: if an argument is out of range, or the backbone lacks the maps that the detector needs.
        EngineError: if torchvision is not installed.
        UnknownModelError, ConfigError, MissingFileError, WeightsError, DownloadError: as `effnets.create_model`.
    """
    kind, num_classes = check_kind(kind), check_num_classes(num_classes)
    given: dict[str, Any] = {
        "image_size": image_size,
        "score_threshold": score_threshold,
        "nms_threshold": nms_threshold,
    }
    given["max_detections"] = max_detections
    values = {name: _DEFAULTS[kind][name] if value is None else value for name, value in given.items()}
    values["image_size"] = check_integer("image_size", values["image_size"], 32, "give a side of at least 32 pixels")
    settings = DetectorSettings(
        kind=kind,
        num_classes=num_classes,
        max_size=min(MAX_SIDE, round(values["image_size"] * _LONGER_SIDE)),
        fpn_channels=fpn_channels,
        reductions=(FINE, COARSE),
        **values,
    )
    names = check_class_names(class_names, num_classes)
    if bn not in (None, "train", "eval"):
        raise ArgumentError(f"bn is {bn!r}; choose train or eval, or leave it out")
    require_torchvision()
    network = _network(backbone, kind, pretrained, weights, device, dtype)
    if isinstance(network, FeaturePyramid) and kind != "ssdlite":
        settings = replace(settings, reductions=tuple(network.feature_info.reduction()))
    detector = assemble(network, settings)
    detector.class_names = names
    if isinstance(freeze, str) and freeze == "backbone":
        detector.body.requires_grad_(False)  # with SSDLite's head convolution
    else:
        freeze_parts(detector.body, freeze)
    lacks_statistics = network.load_report is not None and has_identity_statistics(detector.body)
    if bn == "eval" or freeze == "backbone" or (bn is None and lacks_statistics):
        freeze_statistics(detector.body)
    return detector


def assemble(network: Classifier | FeaturePyramid, settings: DetectorSettings) -> Detector:
    """Build the detector of `settings` on `network`, which becomes part of it; raises ArgumentError if it cannot."""
    # Imported here: torchvision takes seconds, and is not there without the extra.
    from effnets.detection.fpn import build_faster_rcnn, build_retinanet
    from effnets.detection.ssdlite import build_ssdlite

    check_channels(network.in_chans)
    detector: Detector
    if settings.kind == "ssdlite":
        detector = build_ssdlite(network, settings)
    elif isinstance(network, Classifier):
        raise ArgumentError(f"backbone is a Classifier; {settings.kind} needs one built with features_only=True")
    elif settings.kind == "faster_rcnn":
        detector = build_faster_rcnn(network, settings)
    else:
        detector = build_retinanet(network, settings)
    detector.settings, detector.spec, detector.class_names = settings, network.spec, None
    if settings.kind == "ssdlite" and isinstance(network, FeaturePyramid):
        detector.spec = replace(network.spec, head=0, head_hidden=0)  # so that it is built again without them
    return detector


def require_torchvision() -> None:
    """Raise EngineError, with the extra to install, if torchvision is missing."""
    if not find_spec("torchvision"):
        raise EngineError("detectors need torchvision; install with: pip install 'effnets[train]'")


def _network(
    backbone: str | os.PathLike[str] | ModelSpec | Classifier | FeaturePyramid,
    kind: Kind,
    pretrained: bool,
    weights: str | os.PathLike[str] | None,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
) -> Classifier | FeaturePyramid:
    if not isinstance(backbone, torch.nn.Module):
        if kind == "ssdlite":
            return create_model(backbone, pretrained, weights=weights, num_classes=0, device=device, dtype=dtype)
        return create_model(
            backbone, pretrained, weights=weights, features_only=True, out_indices=_LEVELS, device=device, dtype=dtype
        )
    network = unwrap(backbone)
    if not isinstance(network, Classifier | FeaturePyramid):
        raise ArgumentError(
            f"backbone is a {type(network).__name__}; give a name, or a network that create_model built"
        )
    if pretrained or weights is not None:
        raise ArgumentError("backbone is a network with weights of its own; leave pretrained and weights out")
    if device is not None or dtype is not None:
        network = network.to(device=device, dtype=dtype)
    return network
