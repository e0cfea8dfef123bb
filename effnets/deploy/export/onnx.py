"""`export_onnx`: a classifier as one ONNX file, complete and verified."""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from effnets.deploy.export.metadata import describe
from effnets.deploy.export.output import check_engine, check_engines, check_path, write_file
from effnets.deploy.optimize.optimize import optimize as rewrite
from effnets.deploy.optimize.rewrites import PRESETS, Rewrites
from effnets.engines.metadata import Description, InputKind
from effnets.errors import ArgumentError
from effnets.nn.classifier import require_classifier
from effnets.utils.arguments import check_integer, check_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written, and how it was checked.

    Attributes:
        path, sha256, size: of the file; size in bytes.
        description: what the file says of itself.
        errors: for each engine it was verified on, the largest difference of logits as a share of the largest logit.
        seconds: that the export took.
    """

    path: Path
    sha256: str
    size: int
    description: Description
    errors: dict[str, float]
    seconds: float

    def __str__(self) -> str:
        checked = ", ".join(f"{engine} {error:.0e}" for engine, error in self.errors.items())
        return f"{self.path}: {self.size / 1e6:.1f} MB, logits within {checked} of the network's"


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    dynamic_size: bool = False,
    preprocess: bool = False,
    optimize: bool | Rewrites = True,
    softmax: bool = False,
    topk: int | None = None,
    engine: str = "",
    engines: Sequence[str] | None = None,
) -> ExportReport:
    """Write a classifier as one ONNX file that needs nothing else, after checking that it computes the same.

    By default it takes ``images``, float32 ``[N, channels, S, S]``, normalised, any N, and gives ``logits``,
    ``[N, num_classes]``. Labels, preprocessing and provenance stand in its metadata. `model` stays as it is.

    Args:
        model: from `effnets.create_model`, also inside of torch.compile or DataParallel, on any device and in any
            dtype; exported in evaluation mode and in float32.
        path: of the file, ending in ``.onnx``; what is there is replaced, once all is well.
        image_size: side of the input in pixels, or (height, width); None takes that of the weights.
        dynamic_size: take images of any size, as the network does; `image_size` is then only what is usual,
            to which `effnets.predict` brings images.
        preprocess: take uint8 images ``[N, H, W, channels]`` of any size, and resize, crop and normalise them in the
            graph, as `effnets.create_transform` does up to one level of 255 (rarely two). Pictures over twice as high
            as wide differ in more places where Pillow is 13 or later, which resizes these down before across; the graph
            goes across first, as all its versions before did, with which published weights were measured.
        optimize: rewrite the network first (`effnets.optimize`), by what pays in `engine`, or as a `Rewrites` says.
        softmax: a second output, ``probabilities`` ``[N, num_classes]``.
        topk: further outputs, ``top_probabilities`` and ``top_indices`` ``[N, topk]``; includes `softmax`.
        engine: ``onnxruntime`` or ``openvino``, for which it is rewritten, and which `effnets.load_engine` then takes
            first; the file is right on either. Empty: rewritten for ONNX Runtime, and no preference is stated.
        engines: on which it is verified; None: on ONNX Runtime, and on OpenVINO if that is installed.

    Raises:
        ArgumentError: `model` is no classifier with outputs, or an argument has a value it cannot take.
        VerificationError: the file would not compute what the model does; it says where the first difference is.
        ExportError: torch cannot export the model, or the file cannot be written.
        EngineError: a package that exporting needs is missing.
    """
    started = time.perf_counter()
    path = check_path(path)
    network = require_classifier(model)
    if preprocess and (dynamic_size or network.in_chans not in (1, 3)):
        if dynamic_size:
            raise ArgumentError("preprocess=True brings images to one size, dynamic_size contradicts it; leave one out")
        raise ArgumentError(
            f"preprocess=True is for images of 3 or 1 channels, and this model takes {network.in_chans}"
        )
    if topk is not None and check_integer("topk", topk, 1, "it must be at least 1") > network.num_classes:
        raise ArgumentError(f"topk is {topk}, but the model has {network.num_classes} classes")
    names = network.class_names
    if names is not None and len(names) != network.num_classes:
        raise ArgumentError(
            f"model.class_names has {len(names)} names for {network.num_classes} outputs; give one for each"
        )
    engines = check_engines(engines)
    check_engine(engine)
    made_for = PRESETS[engine or "onnxruntime"]
    rewrites = optimize if isinstance(optimize, Rewrites) else made_for if optimize else None

    from effnets.deploy.export.graph import export_graph
    from effnets.deploy.export.verify import verify, verify_rewrites

    usual = check_size(network.spec.input_size if image_size is None else image_size, "image_size")
    input_kind: InputKind = "uint8" if preprocess else "normalised"
    description = describe(
        network,
        size=None if dynamic_size else usual,
        usual_size=usual if dynamic_size else None,
        input_kind=input_kind,
        rewrites=rewrites,
        engine=engine,
    )
    # From float64, so that folding rounds once, and the original is there to compare with.
    original = copy.deepcopy(network).cpu().double().eval().requires_grad_(False)
    exported = rewrite(original, rewrites) if rewrites else copy.deepcopy(original)
    if rewrites:
        verify_rewrites(original, exported, description)
    graph = export_graph(exported.float(), description, softmax=softmax, topk=topk)
    for key, value in description.to_properties().items():
        graph.model.metadata_props.add(key=key, value=value)
    errors = verify(graph, original, exported, description, engines)
    data = graph.model.SerializeToString()
    write_file(path, data)
    return ExportReport(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        description=description,
        errors=errors,
        seconds=time.perf_counter() - started,
    )
