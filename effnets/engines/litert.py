"""LiteRT (formerly TensorFlow Lite), on the CPU. Free of torch."""

from __future__ import annotations

import io
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from effnets.engines.base import Engine, Precision, first_line, read_exported
from effnets.engines.metadata import ModelMetadata
from effnets.errors import EngineError, WeightsError
from effnets.utils.machine import cpu_count
from effnets.utils.quiet import quiet_native

METADATA, LABELS = "effnets.json", "labels.txt"  # files packed into a .tflite file


class LiteRTEngine(Engine):
    """Executes a ``.tflite`` file that `effnets.export` wrote, image by image; threads that share it take turns.

    Raises:
        MissingFileError: if the file does not exist.
        ArgumentError: if the precision is not float32.
        EngineError: if LiteRT cannot load the file.
        WeightsError: if it was not exported by effnets, or its metadata is damaged.
    """

    def __init__(self, model: Path | bytes, *, precision: Precision = "float32", threads: int | None = None) -> None:
        data, name = read_exported(model, precision)
        super().__init__("litert", read_metadata(data, name), precision, threads)
        try:
            with quiet_native():
                self._interpreter = Interpreter(model_content=data, num_threads=threads or cpu_count())
                self._interpreter.allocate_tensors()
        except Exception as error:
            raise EngineError(f"{name}: litert cannot load it: {first_line(error)}") from None
        self._input = self._interpreter.get_input_details()[0]
        self._outputs = self._interpreter.get_output_details()
        self.description.check_outputs(int(np.prod(self._outputs[0]["shape"][1:])), name)
        self._lock = threading.Lock()

    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        if self.description.input_kind == "normalised":
            images = images.transpose(0, 2, 3, 1)
        with self._lock:
            try:
                rows = [self._run_one(np.ascontiguousarray(image[None])) for image in images]
            except Exception as error:
                raise EngineError(f"litert failed: {first_line(error)}") from None
        return {output["name"]: np.concatenate(values) for output, *values in zip(self._outputs, *rows, strict=True)}

    def _run_one(self, image: NDArray[Any]) -> list[NDArray[Any]]:
        self._interpreter.set_tensor(self._input["index"], _quantize(image, self._input))
        self._interpreter.invoke()
        return [_dequantize(self._interpreter.get_tensor(output["index"]), output) for output in self._outputs]


def _quantize(values: NDArray[Any], tensor: dict[str, Any]) -> NDArray[Any]:
    """Return values as a tensor takes them, which in files in int8 may be int8 itself."""
    scale, zero = tensor["quantization"]
    if not scale or tensor["dtype"] == values.dtype:
        return values
    limits = np.iinfo(tensor["dtype"])
    rounded: NDArray[Any] = np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(tensor["dtype"])
    return rounded


def _dequantize(values: NDArray[Any], tensor: dict[str, Any]) -> NDArray[Any]:
    scale, zero = tensor["quantization"]
    return (values.astype(np.float32) - np.float32(zero)) * np.float32(scale) if scale else values


def read_metadata(data: bytes, name: str) -> ModelMetadata:
    """Read the metadata of a ``.tflite`` file; raises WeightsError if it was not exported by effnets, or is damaged."""
    if data[4:8] != b"TFL3":
        raise WeightsError(f"{name}: is not a LiteRT file, or damaged; export the model again")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            text = packed.read(METADATA).decode()
    except (zipfile.BadZipFile, KeyError, ValueError):
        text = "{}"
    return ModelMetadata.from_json(text, name)
