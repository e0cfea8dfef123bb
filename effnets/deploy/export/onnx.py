"""`export_onnx`: a classifier as one ONNX file, complete and verified."""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from effnets.deploy.export.metadata import describe
from effnets.deploy.optimize.optimize import optimize as rewrite
from effnets.deploy.optimize.rewrites import PRESETS, Rewrites
from effnets.engines.base import FOR_ONNX
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EngineError, ExportError
from effnets.inference.arrays import COLOR_MODES
from effnets.nn.classifier import require_classifier
from effnets.utils.arguments import check_integer, check_size
from effnets.utils.atomic_file import find_target, write_whole

_REQUIRED = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """A written and verified file.

    Attributes:
        path, sha256, size: of the file; size in bytes.
        description: the file's metadata.
        errors: for each engine it was verified on, the largest difference of logits as a share of the largest logit.
        seconds: duration of the export.
    """

    path: Path
    sha256: str
    size: int
    description: ModelMetadata
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
    """Write a classifier as one self-contained ONNX file, after verifying that it computes the same.

    By default it takes ``images``, float32 ``[N, channels, S, S]``, normalized, any N, and returns ``logits``,
    ``[N, num_classes]``. Labels, preprocessing and provenance are in its metadata. `model` is not changed.

    Args:
        model: from `effnets.create_model`, also wrapped by torch.compile or DataParallel, on any device and in any
            dtype; exported in evaluation mode and in float32.
        path: of the file, ending in ``.onnx``; an existing file is replaced once the new one is verified.
        image_size: side of the input in pixels, or (height, width); None takes that of the weights.
        dynamic_size: take images of any size; `image_size` is then the usual one, to which `effnets.predict` resizes.
        preprocess: take uint8 images ``[N, H, W, channels]`` of any size, and resize, crop and normalize them in the
            graph, as `effnets.create_transform` does up to one level of 255 (rarely two). Images over twice as high as
            wide differ in more places from Pillow 13 or later, which resizes these down before across; the graph goes
            across first, as all earlier versions did, with which published weights were measured.
        optimize: rewrite the network first (`effnets.optimize`), by the preset of `engine`, or by a `Rewrites`.
        softmax: add the output ``probabilities`` ``[N, num_classes]``.
        topk: add the outputs ``top_probabilities`` and ``top_indices`` ``[N, topk]``; includes `softmax`.
        engine: ``onnxruntime`` or ``openvino``, for which the network is rewritten and which `effnets.load_engine`
            then prefers; either executes the file correctly. Empty: rewritten for ONNX Runtime, no preference stated.
        engines: on which the file is verified; None: on ONNX Runtime, and on OpenVINO if that is installed.

    Raises:
        ArgumentError: if `model` is not a classifier with outputs, or an argument is out of range.
        VerificationError: if the file would not compute what the model does; says where the first difference is.
        ExportError: if torch cannot export the model, or the file cannot be written.
        EngineError: if a package that exporting needs is missing.
    """
    started = time.perf_counter()
    path = check_path(path)
    network = require_classifier(model)
    if preprocess and dynamic_size:
        raise ArgumentError("preprocess=True brings images to one size, dynamic_size contradicts it; leave one out")
    if preprocess and network.in_chans not in COLOR_MODES:
        raise ArgumentError(
            f"preprocess=True is for images of 3, 1 or 4 channels, and this model takes {network.in_chans}; leave it "
            "out: the file then takes float32, which effnets.predict prepares"
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
    preset = PRESETS[engine or "onnxruntime"]
    rewrites = optimize if isinstance(optimize, Rewrites) else preset if optimize else None

    from onnx.helper import set_model_props

    from effnets.deploy.export.graph import export_graph
    from effnets.deploy.export.verify import verify, verify_rewrites

    usual = check_size(network.spec.input_size if image_size is None else image_size, "image_size")
    metadata = describe(
        network,
        size=None if dynamic_size else usual,
        usual_size=usual if dynamic_size else None,
        input_kind="uint8" if preprocess else "normalised",
        rewrites=rewrites,
        engine=engine,
    )
    # In float64, so that folding rounds once; the original is what the file is compared with.
    original = copy.deepcopy(network).cpu().double().eval().requires_grad_(False)
    exported = rewrite(original, rewrites) if rewrites else copy.deepcopy(original)
    if rewrites:
        verify_rewrites(original, exported, metadata)
    graph = export_graph(exported.float(), metadata, softmax=softmax, topk=topk)
    set_model_props(graph.model, metadata.to_properties())
    errors = verify(graph, original, exported, metadata, engines)
    data = graph.model.SerializeToString()
    write_file(path, data)
    return ExportReport(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        description=metadata,
        errors=errors,
        seconds=time.perf_counter() - started,
    )


def check_path(path: str | os.PathLike[str]) -> Path:
    """Return `path` if an ONNX file can be written there; raises ArgumentError without ``.onnx``, else ExportError."""
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise ArgumentError(f"path is {str(path)!r}; give the file the suffix .onnx")
    check_writable(path)
    return path


def check_writable(path: Path) -> None:
    """Raise ExportError unless a file can be written there, before the work; of a link, the file it leads to."""
    try:
        folder = (find_target(path) if path.parent.is_dir() else path).parent
    except OSError as error:
        reason = error.strerror or error
        raise ExportError(f"{path}: cannot be written there; choose another place ({reason})") from None
    if not folder.is_dir():
        raise ExportError(f"{path}: cannot be written: {folder} is not a folder; make it first")
    if not os.access(folder, os.W_OK):
        raise ExportError(f"{path}: cannot be written there; choose another place")


def check_engine(engine: str) -> None:
    """Raise ArgumentError unless a file can be made for `engine`; empty is no preference."""
    if engine not in ("", "onnxruntime", "openvino"):
        raise ArgumentError(f"engine is {engine!r}; choose onnxruntime or openvino, or leave it out")


def check_engines(engines: Sequence[str] | None) -> Sequence[str]:
    """Return the engines to verify on; None: ONNX Runtime, and OpenVINO if it is installed.

    Raises EngineError without a package that exporting needs, ArgumentError for no engine or one that reads no ONNX.
    """
    if missing := [name for name in _REQUIRED if not find_spec(name)]:
        raise EngineError(f"exporting needs {', '.join(missing)}; install with: pip install 'effnets[export]'")
    if engines is None:
        return ["onnxruntime", *(["openvino"] if find_spec("openvino") else [])]
    if not engines:
        raise ArgumentError("engines is empty; name at least one, onnxruntime or openvino")
    if unknown := [name for name in engines if name not in FOR_ONNX]:
        raise ArgumentError(f"engines has {unknown[0]!r}; choose from {', '.join(FOR_ONNX)}")
    return engines


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises ExportError if it cannot be written, or reads back differently."""
    try:
        write_whole(path, data, read_back=True)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from None
