"""`export_openvino`: a classifier as an OpenVINO file (``.xml`` with its ``.bin``), verified."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path

from torch import nn

from effnets.deploy.export.base import Export, ExportReport, check_path, check_writable, require_packages
from effnets.deploy.export.onnx import export_onnx
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.engines.base import Engine, load_file, load_onnx
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ExportError, VerificationError

_TOLERANCE = 1e-5


def export_openvino(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    dynamic_size: bool = False,
    preprocess: bool = False,
    optimize: bool | Rewrites = True,
    softmax: bool = False,
    topk: int | None = None,
    embedding: bool = False,
) -> ExportReport:
    """Write a classifier as an OpenVINO file, and its weights as ``.bin`` beside it, after verifying it.

    It is the ONNX file of `effnets.export_onnx`, verified on OpenVINO and then converted, with the same inputs and
    outputs. Labels and preprocessing are in its runtime information, for OpenVINO's Model API and for effnets.

    Args:
        path: of the file, ending in ``.xml``; existing files are replaced once the new ones are verified.
        model, image_size, dynamic_size, preprocess, optimize, softmax, topk, embedding: as of `effnets.export_onnx`.

    Raises as `effnets.export_onnx`.
    """
    started = time.perf_counter()
    path = check_path(path, ".xml")
    check_writable(path.with_suffix(".bin"))
    require_packages(("openvino",), "export")
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        report = export_onnx(
            model,
            onnx,
            image_size=image_size,
            dynamic_size=dynamic_size,
            preprocess=preprocess,
            optimize=optimize,
            softmax=softmax,
            topk=topk,
            embedding=embedding,
            engine="openvino",
            engines=["openvino"],
        )
        files, difference = _convert_verified(path, onnx, report.description)
    made = Export(path, nn.Identity(), nn.Identity(), report.description, started)
    errors = {"openvino": max(report.errors["openvino"], difference)}
    return made.write(files.pop(path), errors, beside=files)


def openvino_files(path: Path, onnx: bytes, metadata: ModelMetadata) -> dict[Path, bytes]:
    """Return the content of an OpenVINO file at `path`, and of the ``.bin`` beside it, from that of an ONNX file.

    Raises VerificationError if the conversion changes what it computes.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        source.write_bytes(onnx)
        return _convert_verified(path, source, metadata)[0]


def _convert_verified(path: Path, onnx: Path, metadata: ModelMetadata) -> tuple[dict[Path, bytes], float]:
    converted = _convert(onnx, metadata)
    difference = _compare(load_onnx(onnx, metadata, "openvino"), load_file(converted))
    weights = converted.with_suffix(".bin").read_bytes()
    return {path.with_suffix(".bin"): weights, path: converted.read_bytes()}, difference


def _convert(onnx: Path, metadata: ModelMetadata) -> Path:
    """Write the OpenVINO file beside an ONNX file, and return its path."""
    import openvino

    from effnets.engines.openvino import METADATA, WEIGHTS_SHA256

    path, described = onnx.with_suffix(".xml"), _model_api(metadata)
    try:
        network = openvino.Core().read_model(onnx)
        network.set_rt_info(metadata.to_json(), METADATA)
        for key, value in described.items():
            network.set_rt_info(value, ["model_info", key])
        openvino.save_model(network, path, compress_to_fp16=False)
        network.set_rt_info(hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest(), WEIGHTS_SHA256)
        openvino.save_model(network, path, compress_to_fp16=False)
    except Exception as error:
        raise ExportError(f"{metadata.model}: openvino cannot convert it: {error}") from None
    return path


def _model_api(metadata: ModelMetadata) -> dict[str, str]:
    """Return what OpenVINO's Model API reads; there, spaces separate labels."""
    values = {"model_type": "Classification", "labels": " ".join("_".join(name.split()) for name in metadata.labels)}
    if metadata.input_kind == "normalised":
        preprocess = metadata.preprocess.for_channels(metadata.channels)
        for key, numbers in (("mean_values", preprocess.mean), ("scale_values", preprocess.std)):
            values[key] = " ".join(f"{255 * number:.9g}" for number in numbers)
    return values


def _compare(before: Engine, after: Engine) -> float:
    """Compare the converted file with the verified ONNX file; return the largest difference of an output."""
    from effnets.deploy.export.verify import probe_batches, probe_images, relative_error

    metadata = before.description
    if after.description.to_properties() != metadata.to_properties():
        raise VerificationError(f"{metadata.model}: not exported: its metadata differs when read back")
    errors = []
    raw = metadata.input_kind == "uint8"
    for images in [probe_images(1, 300, 400, metadata.channels, seed=0)] if raw else probe_batches(metadata):
        wanted, found = before.run(images), after.run(images)
        if missing := wanted.keys() - found.keys():
            raise VerificationError(f"{metadata.model}: not exported: the conversion lost the output {min(missing)}")
        for name in wanted.keys() - {"top_indices"}:  # of equal probabilities either may come first
            errors.append(relative_error(found[name], wanted[name]))
            if not errors[-1] <= _TOLERANCE:
                raise VerificationError(f"{metadata.model}: not exported: the conversion is off by {errors[-1]:.1e}")
    return max(errors)
