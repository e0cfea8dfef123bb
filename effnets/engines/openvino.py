"""OpenVINO, on the CPU."""

from __future__ import annotations

import hashlib
import re
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from effnets.engines.base import Engine, Precision
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EngineError, MissingFileError, WeightsError

# The runtime information of an .xml file that holds its metadata, and the hash of the .bin file that belongs to it.
METADATA, WEIGHTS_SHA256 = "effnets", "effnets_bin_sha256"

# Without a hint OpenVINO computes in bfloat16 wherever the CPU can.
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINOEngine(Engine):
    """Executes an ONNX model, or an ``.xml`` file that `effnets.export` wrote, in OpenVINO.

    Args:
        metadata: of an ONNX model; None reads those in an ``.xml`` file.

    Raises:
        ArgumentError: if the precision is bfloat16 on a CPU without it.
        EngineError: if OpenVINO cannot load the model.
        MissingFileError, WeightsError: if an ``.xml`` file does not exist, was not exported by effnets, or is damaged.
    """

    def __init__(
        self,
        model: Path | bytes,
        metadata: ModelMetadata | None = None,
        *,
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        core, name = _core(), "the model" if isinstance(model, bytes) else str(model)
        if isinstance(model, Path) and not model.exists():
            raise MissingFileError(f"{name}: no such exported model")
        if isinstance(model, Path) and metadata is None:
            _check_weights(model)
        try:
            network = core.read_model(model)
        except Exception as error:  # its front ends have exception classes of their own
            raise EngineError(f"{name}: openvino cannot load it: {_last_line(error)}") from None
        if metadata is None:
            text = network.get_rt_info([METADATA]).astype(str) if network.has_rt_info([METADATA]) else "{}"
            metadata = ModelMetadata.from_json(text, name)
            if (classes := network.outputs[0].get_partial_shape()[1]).is_static:
                metadata.check_outputs(classes.get_length(), name)
        super().__init__("openvino", metadata, precision, threads)
        if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ArgumentError("this CPU has no bfloat16; use float32")
        properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        try:
            self._compiled = core.compile_model(network, "CPU", properties)
        except Exception as error:
            raise EngineError(f"{name}: openvino cannot load it: {_last_line(error)}") from None
        self._outputs = [output.get_any_name() for output in self._compiled.outputs]
        self._requests = threading.local()

    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        # Each thread has a request of its own: threads that shared one would receive each other's outputs.
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        try:
            results = self._requests.own.infer(images, share_inputs=True)
        except Exception as error:
            raise EngineError(f"openvino failed: {_last_line(error)}") from None
        # Copies, because the next call reuses the memory.
        return {name: np.array(results[index]) for index, name in enumerate(self._outputs)}


@cache
def _core() -> openvino.Core:
    """Return the process's only core, which is never deleted.

    Each core has OpenVINO set a signal stack, and restore at its end the one before, which may be that of a core that
    ended earlier: the next signal that Python handles would then end the process.
    """
    return openvino.Core()


def _check_weights(path: Path) -> None:
    """Raise MissingFileError without the ``.bin`` beside an ``.xml`` file, WeightsError if it is of another network.

    OpenVINO takes any of the same size. Files of earlier versions do not state the hash.
    """
    weights = path.with_suffix(".bin")
    try:
        stated = re.search(rf'<{WEIGHTS_SHA256} value="(\w+)"'.encode(), path.read_bytes())
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise MissingFileError(f"{weights}: no such file, with the weights of {path}; copy or export both") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read with its .bin ({error.strerror or error})") from None
    if stated and stated[1].decode() != found:
        raise WeightsError(f"{weights}: does not belong to {path}, or is cut short; copy or export both")


def _last_line(error: Exception) -> str:
    return str(error).strip().rsplit("\n", 1)[-1][:300]
