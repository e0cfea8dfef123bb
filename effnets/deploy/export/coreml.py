"""`export_coreml`: a classifier as a Core ML package (``.mlpackage``), as Vision reads it, verified."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
import unicodedata
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from effnets._version import __version__
from effnets.deploy.export.base import Export, ExportReport, check_path, prepare, require_packages
from effnets.deploy.export.image_input import ImageInput
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.engines.base import first_line
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EffnetsError, ExportError, VerificationError
from effnets.inference.arrays import image_from_array
from effnets.nn.classifier import require_single_class
from effnets.utils.atomic_file import write_whole
from effnets.utils.atomic_folder import new_folder
from effnets.utils.quiet import quiet_exporters, quiet_native

if TYPE_CHECKING:
    from effnets.deploy.export.mil_program import MILProgram
    from effnets.deploy.export.verify import Reference

_MANIFEST = "Manifest.json"
_MODEL = "Data/com.apple.CoreML/model.mlmodel"
_WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
_COLORS = {1: "GRAYSCALE", 3: "RGB"}
_LABEL, _PROBABILITIES = "classLabel", "probabilities"
_VERSION = 6  # of the format, which iOS 15 and macOS 12 read first


def export_coreml(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    optimize: bool | Rewrites = True,
) -> ExportReport:
    """Write a classifier as a Core ML package, for iOS 15, macOS 12 and later, after verifying it.

    It takes an ``image`` of its size, in color or gray, normalizes it, and returns ``classLabel`` and
    ``probabilities`` by label, computed in float32: what Vision's ``VNCoreMLRequest`` takes and gives. Labels that are
    empty, or equal to another, have their number behind them there; effnets' own metadata have them as they are.

    Core ML is on Apple's systems alone. Elsewhere the operators of the package, read back, are executed by effnets;
    the report's notes say so. Its `sha256` is of the lines that ``sha256sum`` prints for ``./…``, each file of the
    package, in order of their names.

    Args:
        model: as of `effnets.export_onnx`, with 1 or 3 input channels.
        path: of the package, a folder ending in ``.mlpackage``; an existing package is replaced once the new one is
            verified.
        image_size: side of the input in pixels, or (height, width); None takes that of the weights.
        optimize: rewrite the network first, by the preset of Core ML, or by a `Rewrites`.

    Raises:
        ArgumentError: if `model` is not a classifier with outputs, takes no gray or color images, or an argument is out
            of range.
        VerificationError: if the package would not compute what the model does.
        ExportError: if the model cannot be converted, or the package cannot be written: something else has that name.
        EngineError: if a package that exporting needs is missing.
    """
    require_packages(("coremltools",), "coreml")
    channels = require_single_class(model, "a Core ML package").in_chans
    if channels not in _COLORS:
        raise ArgumentError(
            f"Core ML's images have 3 channels or 1, and this model takes {channels}; export it to another format"
        )
    check_package(check_path(path, ".mlpackage", is_folder=True))
    made = prepare(
        model,
        path,
        ".mlpackage",
        image_size=image_size,
        input_kind="pixels",
        optimize=optimize,
        engine="coreml",
        is_folder=True,
    )
    files = convert(made.module, made.metadata)
    try:
        with new_folder(made.path) as folder:
            for name, data in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_whole(folder / name, data, read_back=True)
            errors = verify(folder, made)
            check_package(made.path)
    except OSError as error:
        raise ExportError(f"{made.path}: cannot be written ({error.strerror or error})") from None
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  ./{name}\n" for name in sorted(files))
    return ExportReport(
        path=made.path,
        sha256=hashlib.sha256("".join(lines).encode()).hexdigest(),
        size=sum(map(len, files.values())),
        description=made.metadata,
        errors=errors,
        seconds=time.perf_counter() - made.started,
        notes=() if "Core ML" in errors else ("not executed by Core ML, which this system does not have",),
    )


def check_package(path: Path) -> None:
    """Raise ExportError if something that is not a Core ML package has that name."""
    if os.path.lexists(path) and not ((path / _MANIFEST).is_file() and (path / _MODEL).is_file()):
        raise ExportError(f"{path}: exists, and is not a Core ML package; remove it, or choose another name")


class PixelInput(ImageInput):
    """Take an image as Core ML hands it over, float32 ``[1, channels, H, W]`` in 0..255; return probabilities."""

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image * self.scale + self.shift)
        return logits.softmax(1)


def convert(network: nn.Module, metadata: ModelMetadata) -> dict[str, bytes]:
    """Return a float32 network as the files of a Core ML package; raises ExportError if it cannot be converted."""
    module = PixelInput(network, metadata, channels_last=False, softmax=True).eval()
    shape = (1, metadata.channels, *metadata.image_size)
    labels = unique_labels(metadata.labels)
    try:
        with quiet_exporters(), quiet_native(), tempfile.TemporaryDirectory(suffix=".mlpackage") as folder:
            import coremltools as ct

            program = torch.export.export(module, (torch.zeros(shape),), strict=False).run_decompositions({})
            # Normalization is in the program for all networks alike: ImageType has one scale for all channels, and
            # becomes operators of the program as well.
            passes = ct.PassPipeline.DEFAULT
            passes.remove_passes({"common::fuse_elementwise_to_batchnorm"})  # which divides by √(1 + ε)
            image = ct.ImageType(name="image", shape=shape, color_layout=ct.colorlayout[_COLORS[metadata.channels]])
            model = ct.convert(
                program,
                convert_to="mlprogram",
                inputs=[image],
                classifier_config=ct.ClassifierConfig(labels),
                compute_precision=ct.precision.FLOAT32,
                minimum_deployment_target=ct.target.iOS15,
                pass_pipeline=passes,
                skip_model_load=True,
            )
            spec = model.get_spec()
            ct.utils.rename_feature(spec, spec.description.predictedProbabilitiesName, _PROBABILITIES)
            spec.description.CopyFrom(describe(metadata))
            ct.utils.save_spec(spec, folder, weights_dir=model.weights_dir)
            manifest = (Path(folder) / _MANIFEST).read_text(encoding="utf-8")
            weights = (Path(folder) / _WEIGHTS).read_bytes()
    except Exception as error:  # of torch or the converter
        raise ExportError(f"{metadata.model}: coremltools cannot convert it: {first_line(error)}") from error
    # Equal for equal networks: protobuf writes mappings in any order.
    return {_MANIFEST: _steady(manifest), _MODEL: spec.SerializeToString(deterministic=True), _WEIGHTS: weights}


def _steady(manifest: str) -> bytes:
    """Return a manifest with identifiers that are not random."""
    content = json.loads(manifest)
    entries = content["itemInfoEntries"]
    steady = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])) for old, entry in entries.items()}
    content["itemInfoEntries"] = {steady[old]: entry for old, entry in entries.items()}
    content["rootModelIdentifier"] = steady[content["rootModelIdentifier"]]
    return json.dumps(content, indent=4, sort_keys=True).encode()


def unique_labels(labels: tuple[str, ...]) -> list[str]:
    """Return labels that tell all classes apart: those that are empty, or equal to another, with their number.

    Swift takes texts as equal whose composed forms are. Raises ArgumentError if numbers do not help.
    """
    forms = [unicodedata.normalize("NFC", label) for label in labels]
    counts = Counter(forms)
    unique = [
        label if label.strip() and counts[form] == 1 else f"{label} ({index})".strip()
        for index, (label, form) in enumerate(zip(labels, forms, strict=True))
    ]
    after = Counter(unicodedata.normalize("NFC", label) for label in unique)
    if repeated := [label for label, count in after.items() if count > 1]:
        raise ArgumentError(
            f"model.class_names has {repeated[0]!r} twice, also with numbers behind; rename one of them"
        )
    return unique


def describe(metadata: ModelMetadata) -> Any:
    """Return the ``ModelDescription`` of a package: input, outputs, and what Xcode and effnets show of its origin."""
    from coremltools.proto import FeatureTypes_pb2, Model_pb2

    description = Model_pb2.ModelDescription(predictedFeatureName=_LABEL, predictedProbabilitiesName=_PROBABILITIES)
    height, width = metadata.image_size
    image = description.input.add(name="image", shortDescription=f"The image, {width}×{height} pixels").type.imageType
    image.width, image.height = width, height
    image.colorSpace = FeatureTypes_pb2.ImageFeatureType.ColorSpace.Value(_COLORS[metadata.channels])
    label = description.output.add(name=_LABEL, shortDescription="The likeliest class")
    label.type.stringType.SetInParent()
    probabilities = description.output.add(name=_PROBABILITIES, shortDescription="The probability of each class")
    probabilities.type.dictionaryType.stringKeyType.SetInParent()
    facts = description.metadata
    facts.shortDescription = f"{metadata.model}, an image classifier"
    facts.versionString = __version__
    source = metadata.weights.get("source")
    facts.author = f"weights {source}, exported by effnets" if source else "exported by effnets"
    facts.license = str(metadata.weights.get("licence") or "not stated")
    facts.userDefined.update(metadata.to_properties())
    return description


def verify(folder: Path, made: Export) -> dict[str, float]:
    """Compare a written package with the network, by what it describes, stores and computes; return the errors.

    Raises VerificationError if anything differs; says what.
    """
    from effnets.deploy.export.verify import Reference, verify_file

    metadata = made.metadata
    model, weights = ((folder / name).read_bytes() for name in (_MODEL, _WEIGHTS))
    try:
        program = _read_program(model, weights, metadata)
    except EffnetsError as error:
        raise VerificationError(f"{metadata.model}: not exported: {error}") from None
    reference = Reference.of(made)
    constants = PixelInput(nn.Identity(), metadata, channels_last=False, softmax=True).named_buffers()
    required = {f"the {name} of pixels": value.numpy().tobytes() for name, value in constants}
    errors = {program.name: verify_file(program, model + weights, reference, metadata, required)}
    if sys.platform == "darwin":
        errors["Core ML"] = _predict(folder, reference, metadata)
    return errors


def _read_program(data: bytes, weights: bytes, metadata: ModelMetadata) -> MILProgram:
    """Return the program of a package that describes itself as it should; raises VerificationError, WeightsError."""
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    from effnets.deploy.export.mil_program import MILProgram

    try:
        spec = Model_pb2.Model.FromString(data)
    except DecodeError:
        raise VerificationError("the package holds no Core ML model") from None
    expected, found = describe(metadata), spec.description
    for field in expected.DESCRIPTOR.fields_by_name:
        if getattr(found, field) != getattr(expected, field):
            raise VerificationError(f"its description differs in {field}")
    if spec.specificationVersion != _VERSION:
        raise VerificationError(f"its version is {spec.specificationVersion}, not {_VERSION}, of iOS 15")
    program = MILProgram(spec, weights)
    if program.classes != unique_labels(metadata.labels):
        raise VerificationError("its classes are not the labels, in their order")
    taken = ("image", [1, metadata.channels, *metadata.image_size])
    if (program.input, program.results) != (taken, (_LABEL, _PROBABILITIES)):
        raise VerificationError(
            f"its program takes {program.input} and returns {program.results}, unlike its description"
        )
    return program


def _predict(folder: Path, reference: Reference, metadata: ModelMetadata) -> float:
    """Compare the probabilities of Core ML itself with the network's; return the largest difference."""
    from coremltools import ComputeUnit
    from coremltools.models import MLModel

    from effnets.deploy.export.verify import describe_error, normalized, probe_images

    model = MLModel(str(folder), compute_units=ComputeUnit.CPU_ONLY)
    images = probe_images(2, *metadata.image_size, metadata.channels, seed=0)
    expected = reference.expect(normalized(images, metadata.preprocess))
    probabilities = torch.from_numpy(expected.logits).softmax(1).numpy()
    # A change of the logits changes no probability by more than its half.
    allowed = expected.tolerance * np.abs(expected.logits).max()
    answers = [model.predict({"image": image_from_array(image, metadata.channels)}) for image in images]
    found = np.array([[answer[_PROBABILITIES][name] for name in unique_labels(metadata.labels)] for answer in answers])
    error = float(np.abs(found - probabilities).max())
    if not error <= allowed:
        raise VerificationError(f"{metadata.model}: not exported: Core ML: {describe_error(error, images)}")
    return error
