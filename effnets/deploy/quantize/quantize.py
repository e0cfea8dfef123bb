"""The two files of a quantisation, the model and its report: both, or what was there before."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from effnets.deploy.export.onnx import check_engine, check_engines, check_path, check_writable, export_onnx, write_file
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.deploy.quantize.accuracy_gate import Agreement, Gate, QuantizeReport, compare
from effnets.deploy.quantize.calibration import Photos, Split, split_photos
from effnets.deploy.quantize.search import Search
from effnets.engines.base import load_onnx
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, ExportError, QuantizationError
from effnets.utils.arguments import check_integer
from effnets.utils.atomic_file import find_target
from effnets.utils.machine import version_of
from effnets.utils.timing import interleave

# By these a report is known, of whatever version; all have had them.
_KEYS = {"model", "sha256", "gate", "agreement", "failures", "left", "layers", "calibration_images", "float_size"}


def report_place(target: Path) -> Path:
    """Where the report of the model `target` goes, if it can be written there: beside it, with the suffix .json.

    An earlier report is replaced, and no other JSON: programs keep their settings under such names.

    Raises:
        ExportError: it cannot be written there, or another file has the name.
    """
    path = target.with_suffix(".json")
    check_writable(path)
    if path.exists() and not _is_report(path):
        raise ExportError(
            f"{path}: is there already, and is no report of int8, whose place it takes; move it away, or give the "
            f"model another name than {target.name}"
        )
    return path


def write_both(target: Path, data: bytes, report: QuantizeReport) -> None:
    """Write the report and then the model, so that no model is without its report.

    Raises:
        ExportError: one of them cannot be written; what was there before is there again.
    """
    path = report_place(target)
    before = path.read_bytes() if path.exists() else None
    write_file(path, (json.dumps(report.to_dict(), indent=1) + "\n").encode())
    try:
        write_file(target, data)
    except BaseException:
        # What hinders this as well is told already.
        with suppress(ExportError, OSError):
            if before is None:
                find_target(path).unlink()
            else:
                write_file(path, before)
        raise


def _is_report(path: Path) -> bool:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.keys() >= _KEYS


_DEFAULTS = {"image_size": None, "optimize": True, "topk": None}

PhotoSource = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def quantize(
    model: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str],
    calibration: PhotoSource,
    *,
    image_size: int | tuple[int, int] | None = None,
    optimize: bool | Rewrites = True,
    topk: int | None = None,
    gate: Gate | None = None,
    calibration_images: int = 128,
    held_out_images: int = 1000,
    max_left: float = 0.5,
    seed: int = 0,
    engine: str = "",
    engines: Sequence[str] | None = None,
    timing_seconds: float = 15.0,
    progress: Callable[[str], object] = lambda _: None,
) -> QuantizeReport:
    """Write a classifier in int8 as one ONNX file, and its report as JSON beside it, if the accuracy gate opens.

    Ranges are calibrated in several ways, channels equalised, biases corrected; whichever gives the least error of the
    logits is taken. While the gate stays shut, more and more layers are left in float, those first whose rounding costs
    most. The file takes and gives what the float export does. The gate speaks for processors like this one: some
    without VNNI saturate sums of 8-bit products.

    Args:
        model: from `effnets.create_model`; or a float ``.onnx`` file that `effnets.export_onnx` wrote, which then has
            the size, rewrites and outputs it has.
        path: of the file, ending in ``.onnx``; the report has the same name, ending in ``.json``.
        calibration: a folder of photographs, or paths of files. Some calibrate; the others judge, chosen by `seed`.
            Labels are the names of their folders, as `effnets.evaluate` understands them, if they are the model's
            classes.
        image_size, optimize, topk: as of `effnets.export_onnx`; not for a float file.
        gate: what is demanded; None: the defaults of `Gate`.
        calibration_images, held_out_images: how many to use at most; no more than half of all calibrate.
        max_left: the share of layers that may be left in float.
        engine: as of `effnets.export_onnx`; empty: that of a float file.
        engines: on which the gate must open; None: on ONNX Runtime, and on OpenVINO if that is installed.
        timing_seconds: how long float and int8 are timed against each other, on one thread; 0 leaves it out.
        progress: called with what is being done, in a few words.

    Raises:
        QuantizationError: the gate stays shut; nothing was written. It has the report, which blames layers.
        ArgumentError: too few photographs, or an argument has a value it cannot take.
        MissingFileError: no such folder or file.
        ExportError: a file cannot be written, or a JSON file that is no such report has its name; or as of
            `effnets.export_onnx`.
        VerificationError, EngineError: as of `effnets.export_onnx`.
    """
    target = check_path(path)
    report_place(target)
    check_engine(engine)
    names = check_engines(engines)
    gate = gate or Gate()
    check_integer("calibration_images", calibration_images, 1, "at least one image must calibrate")
    check_integer("held_out_images", held_out_images, gate.min_images, "the gate asks for so many at least")
    if not 0 <= max_left <= 1:
        raise ArgumentError(f"max_left is {max_left!r}; give a share, from 0 to 1")
    progress("the float export")
    data, description = _float_export(model, engine, image_size=image_size, optimize=optimize, topk=topk)
    progress("photographs")
    split = split_photos(
        calibration,
        description,
        calibration_images=calibration_images,
        held_out_images=held_out_images,
        min_held_out=gate.min_images,
        seed=seed,
    )
    search = Search(onnx.load_from_string(data), split.calibration, progress=progress)
    judge = _Judge(data, description, split.held_out, gate, names)
    allowed = int(max_left * len(search.layers))
    for attempt, count in enumerate(_counts(allowed), start=1):
        ranked = list(search.sensitivity) or (search.rank() if count else [])
        left = ranked[:count]
        progress(f"the gate, with {count} of {len(search.layers)} layers in float")
        built = search.build(left)
        agreement, failures = judge(built)
        report = _report(description, search, split, gate, agreement, failures, left, attempt, built, data)
        # Too few clear images are no layer's fault.
        if not failures or any(found.clear < gate.min_clear for found in agreement.values()):
            break
    if report.failures:
        raise QuantizationError(report.refusal(), report)
    if timing_seconds:
        progress("timing")
        report = replace(
            report, milliseconds=time_pair(data, built.SerializeToString(), description, names, timing_seconds)
        )
    return _finish(target, built, description, report)


def _float_export(
    model: nn.Module | str | os.PathLike[str], engine: str, **options: Any
) -> tuple[bytes, ModelMetadata]:
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        if given := [name for name, value in options.items() if value is not _DEFAULTS[name]]:
            raise ArgumentError(
                f"{path}: has the size, rewrites and outputs it was exported with; leave {', '.join(given)} out, or "
                "export it anew with them"
            )
        description = ModelMetadata.from_file(path)
        description = replace(description, engine=engine or description.engine)
        data = path.read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            exported = export_onnx(model, Path(folder) / "float.onnx", engine=engine, **options)
            data, description = exported.path.read_bytes(), exported.description
    if description.precision != "float32":
        raise ArgumentError(f"{model}: is in {description.precision} already; give the float export")
    if description.input_kind != "normalised" or description.size is None:
        raise ArgumentError(f"{model}: takes images of any size; for int8 export it for one size, without preprocess")
    return data, description


def _counts(allowed: int) -> Iterator[int]:
    """How many layers to leave in float, attempt by attempt: first few, then in larger steps."""
    count = 0
    while count < allowed:
        yield count
        count += max(1, count // 3)
    yield allowed


class _Judge:
    """Asks the gate, engine by engine; the first to fail ends it."""

    def __init__(
        self, data: bytes, description: ModelMetadata, photos: Photos, gate: Gate, engines: Sequence[str]
    ) -> None:
        self._description, self._photos, self._gate, self._engines = description, photos, gate, engines
        self._expected = self._run(data, "onnxruntime")

    def __call__(self, model: onnx.ModelProto) -> tuple[dict[str, Agreement], list[str]]:
        agreement: dict[str, Agreement] = {}
        for name in self._engines:
            found = self._run(model.SerializeToString(), name)
            agreement[name] = compare(self._expected, found, self._photos.labels, self._gate.lead)
            if failures := agreement[name].failures(self._gate):
                return agreement, [f"{name}: {failure}" for failure in failures]
        return agreement, []

    def _run(self, model: bytes, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        engine = load_onnx(model, self._description, name)
        return np.concatenate([engine(images) for images in self._photos.batches()])


def _report(
    description: ModelMetadata,
    search: Search,
    split: Split,
    gate: Gate,
    agreement: dict[str, Agreement],
    failures: Sequence[str],
    left: Sequence[str],
    attempts: int,
    built: onnx.ModelProto,
    data: bytes,
) -> QuantizeReport:
    return QuantizeReport(
        model=description.model,
        gate=gate,
        agreement=agreement,
        failures=tuple(failures),
        left=tuple(left),
        layers=len(search.layers),
        sensitivity=search.sensitivity,
        error=search.error,
        trials=search.trials,
        method=search.method,
        equalised=search.equalised,
        bias_corrected=search.bias_corrected,
        attempts=attempts,
        calibration_images=len(split.calibration),
        broken=split.broken,
        unknown_folders=split.unknown_folders,
        duplicates=split.duplicates,
        size=len(built.SerializeToString()),
        float_size=len(data),
    )


def time_pair(
    before: bytes, after: bytes, description: ModelMetadata, engines: Sequence[str], seconds: float
) -> dict[str, dict[str, float]]:
    """Median milliseconds for one image in float32 and in int8 by engine, in turns on one thread.

    Engines' threads spin for a while when they are done, and would slow down whoever's turn is next.
    """
    image = np.random.default_rng(0).normal(size=(1, description.channels, *description.image_size)).astype(np.float32)
    medians = {}
    for name in engines:
        float32, int8 = (load_onnx(model, description, name, threads=1) for model in (before, after))
        subjects = {"float32": lambda run=float32: run(image), "int8": lambda run=int8: run(image)}
        timings = interleave(subjects, rounds=50, seconds=seconds / len(engines))
        medians[name] = {kind: timing.median for kind, timing in timings.items()}
    return medians


def _finish(target: Path, built: onnx.ModelProto, description: ModelMetadata, report: QuantizeReport) -> QuantizeReport:
    versions = {**description.versions, "onnxruntime": version_of("onnxruntime")}
    stated = replace(description, precision="int8", versions=versions, quantisation=report.summary())
    del built.metadata_props[:]
    for key, value in stated.to_properties().items():
        built.metadata_props.add(key=key, value=value)
    built.producer_name = "effnets"
    data = built.SerializeToString()
    report = replace(report, path=target, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    write_both(target, data, report)
    return report
