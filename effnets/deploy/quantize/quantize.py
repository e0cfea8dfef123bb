"""`quantize`: a classifier in int8 as a file of any format with a report, behind an accuracy gate."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from effnets.deploy.export.base import check_path, check_writable, require_packages, write_files
from effnets.deploy.export.base import prepare as prepare_export
from effnets.deploy.export.onnx import check_engine, check_engines, export_onnx
from effnets.deploy.export.onnx_writer import LOGITS
from effnets.deploy.export.openvino import openvino_files
from effnets.deploy.export.verify_onnx import session_of
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.deploy.quantize.accuracy_gate import Agreement, Gate, QuantizeReport, compare
from effnets.deploy.quantize.calibration import METHODS, CalibrationImages, collect, ranges_by, split_images
from effnets.deploy.quantize.cross_layer_equalization import equalize
from effnets.deploy.quantize.network_search import NetworkSearch, relative_deviation
from effnets.deploy.quantize.qdq_graph import Ranges, bias_errors, layers_of, prepare, quantize_graph
from effnets.deploy.quantize.rounding import logits_by_torch
from effnets.engines.base import EXPORTED, Engine, load_exported, load_onnx
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, ExportError, QuantizationError, VerificationError
from effnets.nn.classifier import ANSWERS, require_classifier, require_single_class
from effnets.utils.arguments import check_integer
from effnets.utils.machine import version_of
from effnets.utils.timing import interleave

# Suffix → the package that writes int8 for it.
FORMATS = {".onnx": "onnxruntime", ".xml": "onnxruntime", ".tflite": "ai-edge-quantizer", ".pte": "torchao"}
# Suffix → packages that making it takes, and the extra that installs them.
_PACKAGES = {
    ".tflite": (("litert_torch", "ai_edge_litert", "ai_edge_quantizer"), "litert"),
    ".pte": (("executorch", "torchao"), "executorch"),
}
CALIBRATION_IMAGES = 128  # at most, unless asked for others
_TRIAL_IMAGES = 32  # at most, to measure errors
_EXACT = 1e-4
# Keys of the reports of every version, by which one is recognized.
_REPORT_KEYS = {"model", "sha256", "gate", "agreement", "failures", "left", "layers"}
_REPORT_KEYS |= {"calibration_images", "float_size"}
_DEFAULTS = {"image_size": None, "optimize": True, "topk": None}

Biases = dict[str, NDArray[np.float32]]
Progress = Callable[[str], object]
Build = Callable[[ModelMetadata, Sequence[str]], bytes]
PhotoSource = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def logits_of(model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return logits ``[N, C]``, computed by ONNX Runtime."""
    session, source = session_of(model), model.graph.input[0].name
    return np.concatenate([session.run([LOGITS], {source: images})[0] for images in batches])


class QuantSearch:
    """Searches the quantization of a float export with the least error on calibration images; it sees no others.

    Of `calibration.METHODS` it tries `methods`; `progress` is called with the current step, in a few words.

    Attributes:
        trials: the error of each setting, in the order of trying; the setting with the least error is chosen.
        error: of the chosen setting, with all layers in int8.
        method, equalized, bias_corrected: the chosen setting, as of `QuantizeReport`.
        sensitivity: filled by `rank`.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        images: CalibrationImages,
        methods: Sequence[str] = tuple(METHODS),
        progress: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._images, self._progress = images, progress
        self._model = prepare(model)
        self._batches = list(images.first(_TRIAL_IMAGES).batches())
        self._expected = logits_of(model, self._batches)
        self._ranges: Ranges = {}
        self._biases: Biases = {}
        self.trials: dict[str, float] = {}
        self.sensitivity: dict[str, float] = {}
        self.method, self.equalized, self.bias_corrected = "", 0, False
        self._choose(methods)
        self.layers = layers_of(self._model)
        self.error = min(self.trials.values())

    def build(self, float_layers: Sequence[str] = ()) -> onnx.ModelProto:
        """Return the network in int8 by the chosen setting, with these layers in float."""
        return quantize_graph(self._model, self._ranges, float_layers=float_layers, biases=self._biases)

    def rank(self) -> list[str]:
        """Return all layers, most sensitive first: each in turn is left in float, the others in int8."""
        falls = {}
        for index, layer in enumerate(self.layers):
            self._progress(f"sensitivity of layer {index + 1} of {len(self.layers)}")
            falls[layer] = 1 - self.error_of(self.build([layer])) / self.error
        self.sensitivity = dict(sorted(falls.items(), key=lambda item: -item[1]))
        return list(self.sensitivity)

    def error_of(self, model: onnx.ModelProto) -> float:
        """Return the root mean square of the difference of logits, over the standard deviation of float's logits."""
        error = relative_deviation(logits_of(model, self._batches), self._expected)
        return error if np.isfinite(error) else float("inf")

    def _choose(self, methods: Sequence[str]) -> None:
        self._progress("ranges")
        histograms = collect(self._model, self._images.batches)
        for method in methods:
            self._progress(f"ranges by {method}")
            self._try(method, self._model, ranges_by(method, histograms), {}, 0)
        method, preprocess = self.method, self._images.preprocess.for_channels(self._images.pixels.shape[3])
        pixels = [(bound - m) / s for bound in (0, 1) for m, s in zip(preprocess.mean, preprocess.std, strict=True)]
        equalized, channels = equalize(self._model, (min(pixels), max(pixels)))
        if channels:
            self._progress("equalization")
            if not self.error_of(equalized) < _EXACT:
                raise VerificationError("equalization changed the network; nothing was written")
            histograms = collect(equalized, self._images.batches)
            self._try(f"{method}, equalized", equalized, ranges_by(method, histograms), {}, channels)
        self._progress("biases")
        biases = bias_errors(self._model, self._ranges, self._images.batches())
        name = f"{method}{', equalized' if self.equalized else ''}, biases corrected"
        self._try(name, self._model, self._ranges, biases, self.equalized)

    def _try(self, name: str, model: onnx.ModelProto, ranges: Ranges, biases: Biases, equalized: int) -> None:
        """Take this setting if its error is the least so far."""
        error = self.error_of(quantize_graph(model, ranges, biases=biases))
        if error < min(self.trials.values(), default=float("inf")) or not self._ranges:
            self._model, self._ranges, self._biases = model, ranges, biases
            self.method, self.equalized, self.bias_corrected = name.partition(",")[0], equalized, bool(biases)
        self.trials[name] = error


def int8_report_path(target: Path) -> Path:
    """Return the report's path, beside the model `target` with the suffix .json, if it can be written there.

    It may replace an earlier report, but not other JSON files: programs keep their settings under such names. Raises
    ExportError if it cannot be written there, or another file has the name.
    """
    path = target.with_suffix(".json")
    check_writable(path)
    if path.exists() and not _is_report(path):
        raise ExportError(
            f"{path}: exists, and is not a report of int8, which would replace it; move it away, or give the model "
            f"another name than {target.name}"
        )
    return path


def write_with_report(target: Path, files: Mapping[Path, bytes], report: QuantizeReport) -> None:
    """Write the report of the model `target` and then its files, so that no model is without its report.

    Raises ExportError if one cannot be written; earlier files are restored.
    """
    text = json.dumps(report.to_dict(), indent=1) + "\n"
    write_files({int8_report_path(target): text.encode(), **files})


def _is_report(path: Path) -> bool:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.keys() >= _REPORT_KEYS


def quantize(
    model: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str],
    calibration: PhotoSource,
    *,
    image_size: int | tuple[int, int] | None = None,
    optimize: bool | Rewrites = True,
    topk: int | None = None,
    smaller: bool = False,
    gate: Gate | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    held_out_images: int = 1000,
    max_left: float = 0.5,
    seed: int = 0,
    engine: str = "",
    engines: Sequence[str] | None = None,
    timing_seconds: float = 15.0,
    progress: Callable[[str], object] = lambda _: None,
) -> QuantizeReport:
    """Write a classifier in int8, and its report as JSON beside it, if the accuracy gate opens.

    The suffix of `path` names the format, as of `effnets.export`: ``.onnx``, ``.xml``, ``.tflite`` or ``.pte``.
    Channels are equalized and biases corrected, if that brings the logits nearer to float's; for ``.onnx`` and ``.xml``
    ranges are calibrated by several methods too. While the gate stays shut, more and more layers are left in float,
    most sensitive first. The file has the inputs and outputs of the float export. The gate is valid for processors like
    this one: some without VNNI saturate sums of 8-bit products.

    Args:
        model: from `effnets.create_model`; or, for ``.onnx`` and ``.xml``, a float ``.onnx`` file that
            `effnets.export_onnx` wrote, whose size, rewrites and outputs are kept.
        path: of the file; the report has the same name, ending in ``.json``.
        calibration: a folder of photographs, or paths of files; `seed` decides which calibrate, the others are held
            out for the gate. Labels are the names of their folders, as of `effnets.evaluate`, if they are the model's
            classes.
        image_size: as of `effnets.export_onnx`; not for a float file.
        optimize: likewise.
        topk: likewise; for ``.onnx`` and ``.xml``.
        smaller: write the file although int8 is slower than float.
        gate: the conditions; None: the defaults of `Gate`.
        calibration_images: how many to use at most; no more than half of all calibrate.
        held_out_images: how many to use at most.
        max_left: the share of layers that may be left in float; ``.pte`` leaves none.
        engine: for ``.onnx``, as of `effnets.export_onnx`; empty: that of a float file.
        engines: on which the gate must open; None: on those that execute the format, for ``.onnx`` on ONNX Runtime, and
            on OpenVINO if that is installed.
        timing_seconds: how long float and int8 are timed in turns, on one thread; 0 skips it.
        progress: called with the current step, in a few words.

    Raises:
        QuantizationError: if the gate stays shut, or int8 is slower than float on every engine; nothing was written. It
            has the report, which names sensitive layers.
        ArgumentError: if there are too few photographs, the model has labels, embeddings or boxes, whose sameness no
            gate decides, or an argument is out of range.
        MissingFileError: if the folder or file does not exist.
        ExportError: if a file cannot be written, or a JSON file that is not such a report has its name; or as of
            `effnets.export_onnx`.
        VerificationError, EngineError: as of `effnets.export_onnx`.
    """
    target = check_target(path)
    gate = gate or Gate()
    check_integer("calibration_images", calibration_images, 1, "at least one image must calibrate")
    check_integer("held_out_images", held_out_images, gate.min_images, f"the gate needs at least {gate.min_images}")
    if not 0 <= max_left <= 1:
        raise ArgumentError(f"max_left is {max_left!r}; give a share, from 0 to 1")
    options = {"image_size": image_size, "optimize": optimize, "topk": topk}
    names = _check_engines(target, engine, engines)
    if isinstance(model, nn.Module):
        require_single_class(model, "int8")
    progress("the float export")
    source = _float_file(model, target, engine, options)
    metadata = source.metadata
    progress("photographs")
    split = split_images(
        calibration,
        metadata,
        calibration_images=calibration_images,
        held_out_images=held_out_images,
        min_held_out=gate.min_images,
        seed=seed,
    )
    held_out = split.held_out
    search, build = source.start(split.calibration, progress)
    expected = source.expect(held_out)
    attempts = 0
    for count in _counts(int(max_left * len(search.layers)) if source.mixed else 0):
        attempts += 1
        ranked = list(search.sensitivity) or (search.rank() if count else [])
        float_layers = ranked[:count]
        progress(f"the gate, with {count} of {len(search.layers)} layers in float")
        int8 = build(metadata, float_layers)
        agreement: dict[str, Agreement] = {}
        for name in names:
            agreement[name] = compare(expected, _logits(source.load(int8, name), held_out), held_out.labels, gate.lead)
            if failures := tuple(f"{name}: {failure}" for failure in agreement[name].failures(gate)):
                break
        # Too few clear images are not due to a layer.
        if not failures or any(found.clear < gate.min_clear for found in agreement.values()):
            break
    report = QuantizeReport(
        model=metadata.model,
        gate=gate,
        agreement=agreement,
        failures=failures,
        left=tuple(float_layers),
        layers=len(search.layers),
        sensitivity=search.sensitivity,
        error=search.error,
        trials=search.trials,
        method=search.method,
        equalised=search.equalized,
        bias_corrected=search.bias_corrected,
        attempts=attempts,
        calibration_images=len(split.calibration),
        broken=split.broken,
        unknown_folders=split.unknown_folders,
        duplicates=split.duplicates,
        size=len(int8),
        float_size=len(source.data),
    )
    if failures:
        raise QuantizationError(report.refusal(), report)
    if timing_seconds:
        progress("timing")
        times = time_pair(source.data, int8, metadata, names, timing_seconds, load=source.load)
        report = replace(report, milliseconds=times)
        if not smaller and (slower := report.slower()):
            report = replace(report, failures=(slower,))
            raise QuantizationError(f"{report.refusal()}; for a smaller file all the same: smaller=True", report)
    quantizer = FORMATS[target.suffix.lower()]
    versions = {**metadata.versions, quantizer: version_of(quantizer)}
    metadata = replace(metadata, precision="int8", versions=versions, quantisation=report.summary())
    written = build(metadata, float_layers)
    # Calibrated and converted again, with other metadata: it must be the file that the gate saw.
    images = held_out.first(_TRIAL_IMAGES)
    before, after = (_logits(source.load(data, names[0]), images) for data in (int8, written))
    if not np.abs(after - before).max() <= _EXACT * np.abs(before).max():
        raise VerificationError(f"{metadata.model}: converted again it answers otherwise; nothing was written")
    files = source.finish(target, written, metadata)
    digest = hashlib.sha256(files[target]).hexdigest()
    report = replace(report, path=target, sha256=digest, size=sum(map(len, files.values())))
    write_with_report(target, files, report)
    return report


def check_target(path: str | os.PathLike[str]) -> Path:
    """Return `path` if a file in int8, and its report, can be written there.

    Raises ArgumentError for another suffix than those of `FORMATS`; else as `int8_report_path`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ArgumentError(
            f"path is {os.fspath(path)!r}; int8 is written to files with the suffix {', '.join(FORMATS)}"
        )
    target = check_path(path, suffix)
    if suffix == ".xml":
        check_writable(target.with_suffix(".bin"))
    int8_report_path(target)
    return target


def _check_engines(target: Path, engine: str, engines: Sequence[str] | None) -> Sequence[str]:
    suffix = target.suffix.lower()
    if suffix == ".onnx":
        check_engine(engine)
        return check_engines(engines)
    possible = EXPORTED[suffix][1]
    if engine or (engines is not None and list(engines) != list(possible)):
        raise ArgumentError(f"{target}: is executed by {possible[0]}; leave engine and engines out")
    return check_engines(possible) if suffix == ".xml" else possible


class _Source(NamedTuple):
    """A float file, and how to make one in int8 of it.

    `start` is called with calibration images, and returns a search and a function that builds a file for given metadata
    with given layers in float; `expect` returns float's logits ``[N, C]``. `finish` returns the files to write.
    `mixed` is whether layers can be left in float.
    """

    data: bytes
    metadata: ModelMetadata
    start: Callable[[CalibrationImages, Progress], tuple[QuantSearch | NetworkSearch, Build]]
    load: Callable[..., Engine]
    expect: Callable[[CalibrationImages], NDArray[np.float32]]
    finish: Callable[[Path, bytes, ModelMetadata], dict[Path, bytes]]
    mixed: bool = True


def _one_file(path: Path, data: bytes, _: ModelMetadata) -> dict[Path, bytes]:
    return {path: data}


def _float_file(
    model: nn.Module | str | os.PathLike[str], target: Path, engine: str, options: dict[str, Any]
) -> _Source:
    suffix = target.suffix.lower()
    if suffix in (".tflite", ".pte"):
        return _network_source(model, target, options)
    data, metadata = _float_export(model, engine or ("openvino" if suffix == ".xml" else ""), **options)

    def start(images: CalibrationImages, progress: Progress) -> tuple[QuantSearch, Build]:
        search = QuantSearch(onnx.load_from_string(data), images, progress=progress)

        def build(metadata: ModelMetadata, float_layers: Sequence[str]) -> bytes:
            built = search.build(float_layers)
            onnx.helper.set_model_props(built, metadata.to_properties())
            built.producer_name = "effnets"
            return built.SerializeToString()

        return search, build

    def load(data: bytes, name: str, threads: int | None = None) -> Engine:
        return load_onnx(data, metadata, name, threads=threads)

    def expect(images: CalibrationImages) -> NDArray[np.float32]:
        return _logits(load(data, "onnxruntime"), images)

    return _Source(data, metadata, start, load, expect, openvino_files if suffix == ".xml" else _one_file)


def _network_source(model: nn.Module | str | os.PathLike[str], target: Path, options: dict[str, Any]) -> _Source:
    suffix = target.suffix.lower()
    require_packages(*_PACKAGES[suffix])
    from effnets.deploy.export import executorch, litert
    from effnets.deploy.quantize.executorch import ExecuTorchInt8
    from effnets.deploy.quantize.litert import LiteRTInt8

    if isinstance(model, str | os.PathLike):
        raise ArgumentError(
            f"model is {os.fspath(model)!r}; for {suffix} give the network, from create_model, instead of a file"
        )
    if options.pop("topk") is not None:
        raise ArgumentError(f"topk is not possible for {suffix} files; leave it out, or quantize to .onnx")
    (engine,) = EXPORTED[suffix][1]
    kind = LiteRTInt8 if suffix == ".tflite" else ExecuTorchInt8
    made = prepare_export(model, target, suffix, engine=engine, preferred=engine, **options)
    network, metadata = require_classifier(made.module), made.metadata

    def start(images: CalibrationImages, progress: Progress) -> tuple[NetworkSearch, Build]:
        search = NetworkSearch(network, images, progress)
        progress("conversion")
        return search, kind(search.network, images, metadata).build

    # ExecuTorch keeps the number of threads of a process's first program, and float and int8 are timed on one.
    def load(data: bytes, name: str, threads: int | None = 1 if suffix == ".pte" else None) -> Engine:
        return load_exported(data, name, threads=threads)

    def expect(images: CalibrationImages) -> NDArray[np.float32]:
        return logits_by_torch(network, images.batches())

    # The gate compares with the network itself; the float file is for comparing size and speed.
    convert = litert.convert if suffix == ".tflite" else executorch.convert
    return _Source(convert(network, metadata), metadata, start, load, expect, _one_file, kind.mixed)


def _float_export(
    model: nn.Module | str | os.PathLike[str], engine: str, **options: Any
) -> tuple[bytes, ModelMetadata]:
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        if given := [name for name, value in options.items() if value is not _DEFAULTS[name]]:
            raise ArgumentError(
                f"{path}: has the size, rewrites and outputs it was exported with; leave {', '.join(given)} out, or "
                "export it again with them"
            )
        metadata = ModelMetadata.from_file(path)
        if metadata.detector or metadata.classifier_activation != "softmax":
            kind = "boxes" if metadata.detector else ANSWERS[metadata.classifier_activation]
            raise ArgumentError(
                f"{path}: int8 is for networks that give an image one class, and this one gives it {kind}; keep the "
                "float file"
            )
        metadata = replace(metadata, engine=engine or metadata.engine)
        data = path.read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            exported = export_onnx(model, Path(folder) / "float.onnx", engine=engine, **options)
            data, metadata = exported.path.read_bytes(), exported.description
    if metadata.precision != "float32":
        raise ArgumentError(f"{model}: is in {metadata.precision} already; give the float export")
    if metadata.input_kind != "normalised" or metadata.size is None:
        raise ArgumentError(f"{model}: takes images of any size; for int8 export it for one size, without preprocess")
    return data, metadata


def _counts(allowed: int) -> Iterator[int]:
    """Yield how many layers to leave in float at each attempt: none, a few, then in larger steps."""
    count = 0
    while count < allowed:
        yield count
        count += max(1, count // 3)
    yield allowed


def _logits(engine: Engine, images: CalibrationImages) -> NDArray[np.float32]:
    return np.concatenate([engine(batch) for batch in images.batches()])


def time_pair(
    before: bytes,
    after: bytes,
    metadata: ModelMetadata,
    engines: Sequence[str],
    seconds: float,
    *,
    load: Callable[..., Engine] | None = None,
) -> dict[str, dict[str, float]]:
    """Return the median milliseconds for one image in float32 and in int8 by engine, in turns on one thread.

    With several threads, those of one engine spin for a while after its turn and slow down the next. `load` is called
    with a file's content, an engine's name and threads=1; None loads ONNX files.
    """
    load = load or (lambda data, name, threads: load_onnx(data, metadata, name, threads=threads))
    image = np.random.default_rng(0).normal(size=(1, metadata.channels, *metadata.image_size)).astype(np.float32)
    medians = {}
    for name in engines:
        float32, int8 = (load(model, name, threads=1) for model in (before, after))
        subjects = {"float32": lambda run=float32: run(image), "int8": lambda run=int8: run(image)}
        timings = interleave(subjects, rounds=50, seconds=seconds / len(engines))
        medians[name] = {kind: timing.median for kind, timing in timings.items()}
    return medians
