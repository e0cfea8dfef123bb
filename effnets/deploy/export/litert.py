"""`export_litert`: a classifier as a LiteRT file (``.tflite``), verified, with metadata that Google's tools read."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from torch import nn

from effnets._version import __version__
from effnets.deploy.export.base import ExportReport, prepare, require_packages
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.engines.base import first_line
from effnets.engines.metadata import ModelMetadata, label_lines, output_names
from effnets.errors import ExportError
from effnets.utils.quiet import quiet_exporters, quiet_native

_ALIGNMENT = 16  # of constants in a file, which kernels may rely on


def export_litert(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    preprocess: bool = False,
    optimize: bool | Rewrites = True,
    softmax: bool = False,
    embedding: bool = False,
) -> ExportReport:
    """Write a classifier as one LiteRT file, for Android and small boxes, after verifying that it computes the same.

    It takes one image, float32 ``[1, H, W, channels]``, normalized, and returns ``logits``, ``[1, num_classes]``. The
    file has the metadata from which Google's Task Library and ML Kit take normalization and labels, and effnets' own.

    Args:
        model: as of `effnets.export_onnx`.
        path: of the file, ending in ``.tflite``; an existing file is replaced once the new one is verified.
        image_size: side of the input in pixels, or (height, width); None takes that of the weights.
        preprocess: take uint8 images ``[1, H, W, channels]``, resized and cropped already, and normalize them.
        optimize: rewrite the network first, by the preset of LiteRT, or by a `Rewrites`.
        softmax: add the output ``probabilities`` ``[1, num_classes]``.
        embedding: add the output ``embedding`` ``[1, D]``, the classifier's input.

    Raises:
        ArgumentError: if `model` is not a classifier with outputs, or an argument is out of range.
        VerificationError: if the file would not compute what the model does.
        ExportError: if the model cannot be converted, or the file cannot be written.
        EngineError: if a package that exporting needs is missing.
    """
    require_packages(("litert_torch", "ai_edge_litert"), "litert")
    made = prepare(
        model,
        path,
        ".tflite",
        image_size=image_size,
        input_kind="pixels" if preprocess else "normalised",
        optimize=optimize,
        engine="litert",
        preferred="litert",
        embedding=embedding,
        probabilities=softmax,
    )
    from effnets.deploy.export.verify import Reference, verify_file
    from effnets.engines.litert import LiteRTEngine

    data = convert(made.module, made.metadata, softmax=softmax)
    required = {
        "the labels": f"{label_lines(made.metadata)}\n".encode(),
        "the metadata": task_metadata(made.metadata, softmax=softmax),
    }
    error = verify_file(LiteRTEngine(data), data, Reference.of(made), made.metadata, required, softmax=softmax)
    return made.write(data, {"litert": error})


def convert(network: nn.Module, metadata: ModelMetadata, *, softmax: bool = False) -> bytes:
    """Return a float32 network as a LiteRT file; raises ExportError if it cannot be converted."""
    from effnets.deploy.export.image_input import ImageInput

    module = ImageInput(network, metadata, channels_last=True, softmax=softmax).eval()
    try:
        with quiet_exporters(), quiet_native(), tempfile.TemporaryDirectory() as folder:
            import litert_torch

            path = Path(folder) / "model.tflite"
            litert_torch.convert(module, (module.example(metadata),)).export(str(path))
            data = path.read_bytes()
    except Exception as error:  # of torch, MLIR or the converter
        raise ExportError(f"{metadata.model}: litert cannot convert it: {first_line(error)}") from error
    return add_metadata(data, metadata, softmax=softmax)


def add_metadata(data: bytes, metadata: ModelMetadata, *, softmax: bool) -> bytes:
    """Return a LiteRT file with names of input and outputs, the Task Library's metadata, and packed files."""
    from ai_edge_litert import schema_py_generated as schema

    from effnets.engines.litert import LABELS, METADATA

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    model.description = f"effnets {metadata.model}"
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].name = b"images"
    for index, name in zip(graph.outputs, output_names(metadata, softmax=softmax), strict=True):
        graph.tensors[index].name = name.encode()
    for constant in model.buffers:
        if constant.offset > 1:  # lies behind the flatbuffer, where Google's quantizer writes it
            constant.data = np.frombuffer(data, np.uint8, constant.size, constant.offset)
            constant.offset = constant.size = 0
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(task_metadata(metadata, softmax=softmax), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"TFLITE_METADATA", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = _AlignedBuilder(len(data) + 65536)
    builder.Finish(model.Pack(builder), b"TFL3")
    packed = io.BytesIO()
    packed.write(builder.Output())
    with zipfile.ZipFile(packed, "a") as archive:
        # ZipInfo's own date, so that the same network gives the same file.
        archive.writestr(zipfile.ZipInfo(LABELS), f"{label_lines(metadata)}\n")
        archive.writestr(zipfile.ZipInfo(METADATA), metadata.to_json())
    return packed.getvalue()


class _AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Aligns vectors of bytes, which hold constants, as the schema demands and generated Python code does not."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:  # noqa: N802, N803 - flatbuffers' names
        return int(super().StartVector(elemSize, numElems, _ALIGNMENT if elemSize == 1 else alignment))


def task_metadata(metadata: ModelMetadata, *, softmax: bool) -> bytes:
    """Return the metadata of TensorFlow Lite's ``metadata_schema.fbs`` 1.1: normalization, labels, licence.

    Numbers of fields and of unions are those of the schema.
    """
    from effnets.engines.litert import LABELS

    builder = flatbuffers.Builder(4096)
    build = _Tables(builder)
    image = build.table({0: ("byte", {3: 1, 1: 2}.get(metadata.channels, 0))})  # ColorSpaceType RGB, GRAYSCALE
    entry: dict[int, Any] = {0: build.text("images"), 3: build.table({0: ("byte", 2), 1: image})}
    if metadata.input_kind == "normalised":
        preprocess = metadata.preprocess.for_channels(metadata.channels)
        # Of values in 0..255, as the schema has them.
        mean, std = ([255 * value for value in values] for values in (preprocess.mean, preprocess.std))
        options = build.table({0: build.floats(mean), 1: build.floats(std)})
        entry[4] = build.vector([build.table({0: ("byte", 1), 1: options})])  # ProcessUnit of NormalizationOptions
    outputs = []
    for name in output_names(metadata, softmax=softmax):
        content = build.table({0: ("byte", 1), 1: build.table({})})  # FeatureProperties
        output: dict[int, Any] = {0: build.text(name), 3: content}
        if name != "embedding":
            labels = build.table({0: build.text(LABELS), 2: ("byte", 2)})  # TENSOR_AXIS_LABELS
            output[6] = build.vector([labels])
        outputs.append(build.table(output))
    graph = build.table({2: build.vector([build.table(entry)]), 3: build.vector(outputs)})
    facts = {0: metadata.model, 1: f"{metadata.model}, an image classifier", 2: __version__, 7: "1.0.0"}
    if licence := metadata.weights.get("licence"):
        facts[5] = str(licence)
    texts = {field: build.text(text) for field, text in facts.items()}
    builder.Finish(build.table({**texts, 3: build.vector([graph])}), file_identifier=b"M001")
    return bytes(builder.Output())


class _Tables:
    """Writes tables of a flatbuffer by the numbers of their fields; every method returns an offset."""

    def __init__(self, builder: flatbuffers.Builder) -> None:
        self._builder = builder

    def table(self, fields: Mapping[int, Any]) -> int:
        """Write a table; a field is an offset, or ("byte", number)."""
        self._builder.StartObject(max(fields, default=-1) + 1)
        for slot, value in fields.items():
            if isinstance(value, tuple):
                self._builder.PrependInt8Slot(slot, value[1], 0)
            else:
                self._builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return int(self._builder.EndObject())

    def vector(self, offsets: list[int]) -> int:
        """Write a vector of tables."""
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def floats(self, values: list[float]) -> int:
        """Write a vector of numbers."""
        return int(self._builder.CreateNumpyVector(np.asarray(values, np.float32)))

    def text(self, text: str) -> int:
        """Write a string."""
        return int(self._builder.CreateString(text))
