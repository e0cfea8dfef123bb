"""`export_detector`: a detector as one ONNX file, with the suppression of overlapping boxes, verified."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from torch import nn

from effnets._version import __version__
from effnets.deploy.export.base import Export, ExportReport, check_path
from effnets.deploy.export.onnx import check_engines
from effnets.detection.create import require_torchvision
from effnets.detection.detector import Detector, check_class_names, detector_of
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError
from effnets.spec.specs import PreprocessSpec
from effnets.utils.arguments import check_size
from effnets.utils.machine import version_of

_BACKGROUND = "background"


def export_detector(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    nms: bool = True,
    image_size: int | tuple[int, int] | None = None,
    dynamic_size: bool = False,
    engines: Sequence[str] | None = None,
) -> ExportReport:
    """Write a detector as one self-contained ONNX file, after verifying that it finds the same boxes.

    It takes ``images``, float32 ``[1, 3, H, W]`` in 0..1, which it normalizes itself, and returns what the detector
    returns for an image of that size: ``boxes`` ``[n, 4]`` (x1, y1, x2, y2 in pixels), ``labels`` ``[n]`` and
    ``scores`` ``[n]``, best first. The names of the labels are in its metadata, ``labels[0]`` is the background.
    `model` is not changed.

    Args:
        model: from `effnets.create_detector`, also wrapped by torch.compile or DataParallel, on any device.
        path: of the file, ending in ``.onnx``; an existing file is replaced once the new one is verified.
        nms: whether boxes that overlap better ones are dropped in the file, by ONNX's NonMaxSuppression. False returns
            all ``boxes`` ``[N, A, 4]`` and their ``scores`` ``[N, A, C]`` of N images, background included; not for
            Faster R-CNN, whose first stage needs it.
        image_size: side of the images in pixels, or (height, width); None takes the detector's, a square.
        dynamic_size: take images of any size, which the file resizes as the detector does; for SSDLite.
        engines: on which the file is verified; None: on ONNX Runtime, and on OpenVINO if that is installed.

    Raises:
        ArgumentError: if `model` is not such a detector, or an argument is out of range.
        VerificationError: if the file would not find what the model does; says what differs.
        ExportError: if torch cannot export the model, or the file cannot be written.
        EngineError: if a package that exporting needs is missing.
    """
    started = time.perf_counter()
    require_torchvision()
    detector = detector_of(model)
    kind = detector.settings.kind
    if not nms and kind == "faster_rcnn":
        raise ArgumentError(
            "nms=False leaves all boxes to you, and faster_rcnn suppresses some on the way; leave it out"
        )
    if dynamic_size and kind != "ssdlite":
        raise ArgumentError(f"dynamic_size is for ssdlite, which has one size within; give {kind} an image_size")
    if dynamic_size and image_size is not None:
        raise ArgumentError(
            "image_size contradicts dynamic_size=True, which resizes to the detector's own; leave one out"
        )
    engines = check_engines(engines)
    path = check_path(path)
    size = check_size(detector.settings.image_size if image_size is None else image_size, "image_size")
    metadata = describe(detector, None if dynamic_size else size)

    from onnx.helper import set_model_props

    from effnets.detection.graph import export_graph
    from effnets.detection.static import at_size, make_static
    from effnets.detection.verify import verify_detector

    static = make_static(at_size(detector, size), size, suppresses=nms, resizes=dynamic_size).eval()
    graph = export_graph(static, metadata.model)
    set_model_props(graph, metadata.to_properties())
    errors = verify_detector(graph, static, metadata, engines)
    return Export(path, static.detector, static, metadata, started).write(graph.SerializeToString(), errors)


def describe(detector: Detector, size: tuple[int, int] | None) -> ModelMetadata:
    """Return the metadata of a detector that takes images of (height, width) `size`; None for any."""
    classes = detector.num_classes
    names = check_class_names(detector.class_names, classes) or tuple(str(label) for label in range(1, classes))
    return ModelMetadata(
        model=detector.spec.name,
        family=detector.spec.family,
        labels=(_BACKGROUND, *names),
        # What is left to do outside of the file: values in 0..1.
        preprocess=PreprocessSpec(
            input_size=detector.settings.image_size,
            crop_pct=1.0,
            interpolation="bilinear",
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
        ),
        size=size,
        versions={"effnets": __version__}
        | {name: version for name in ("torch", "torchvision", "onnx") if (version := version_of(name))},
        detector=detector.settings.kind,
    )
