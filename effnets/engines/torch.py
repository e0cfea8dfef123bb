"""PyTorch as an engine: a network in memory, compiled on request, and AOTInductor packages (``.pt2``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from effnets.engines.base import Engine, Precision, first_line
from effnets.engines.cuda_graph import CudaGraphs
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EngineError, MissingFileError, WeightsError
from effnets.utils.threads import shared_context

PACKAGE_METADATA = "effnets"  # the key of a package under which its properties are stored, as JSON


class TorchEngine(Engine):
    """A network in memory. `effnets.load_engine` copies and rewrites a model first.

    `threads` is torch's, for the whole process. With bfloat16 the network computes under autocast. On a GPU, float32 is
    not rounded to TF32, and single images are answered by CUDA graphs.

    Args:
        network: in float32, in evaluation mode; takes normalized images, returns logits.
        name: ``torch``, on the CPU; ``torch-compile``, which takes minutes at the first call; ``torch-cuda``.

    Raises:
        EngineError: for ``torch-cuda``, if torch finds no GPU.
    """

    def __init__(
        self,
        network: nn.Module,
        metadata: ModelMetadata,
        *,
        name: str = "torch",
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        super().__init__(name, metadata, precision, threads)
        self.on_gpu = name == "torch-cuda"
        if self.on_gpu and not torch.cuda.is_available():
            raise EngineError(
                f"{name}: torch {torch.__version__} finds no GPU; install its build for CUDA, or use torch"
            )
        self._device = "cuda" if self.on_gpu else "cpu"
        # Weights are constants of an engine.
        self._forward: Callable[..., Any] = network.to(self._device)
        if name == "torch-compile":
            self._forward = torch.compile(network, options={"freezing": True})
        elif self.on_gpu:
            self._forward = CudaGraphs(network)

    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        _use_threads(self.threads)
        exact = _without_tf32() if self.on_gpu else nullcontext()
        autocast = torch.autocast(self._device, torch.bfloat16, enabled=self.precision == "bfloat16")
        with torch.inference_mode(), autocast, exact, engine_errors(self.name):
            return {"logits": self._forward(torch.from_numpy(images).to(self._device)).float().cpu().numpy()}


class PackageEngine(Engine):
    """A package that `effnets.deploy.export.torch_package` wrote. It holds machine code for CPUs like the exporter's.

    Raises:
        MissingFileError: if the file does not exist.
        ArgumentError: if the precision is not float32.
        EngineError: if torch cannot load the package.
        WeightsError: if it was not exported by effnets, or its metadata is damaged.
    """

    def __init__(self, path: Path, *, precision: Precision = "float32", threads: int | None = None) -> None:
        if not path.is_file():
            raise MissingFileError(f"{path}: no such exported model")
        if precision != "float32":
            raise ArgumentError(f"{path}: a package computes in the precision it was made for, float32")
        try:
            self._package = torch._inductor.aoti_load_package(str(path))
            properties = json.loads(self._package.get_metadata().get(PACKAGE_METADATA, "{}"))
        except Exception as error:  # of a zip reader, a dynamic loader, or C++
            raise EngineError(f"{path}: torch cannot load it: {first_line(error)}") from None
        if not isinstance(properties, dict):
            raise WeightsError(f"{path}: its metadata is damaged; export the model again")
        super().__init__("aotinductor", ModelMetadata.from_properties(properties, str(path)), precision, threads)

    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        _use_threads(self.threads)
        with torch.inference_mode(), engine_errors(self.name):
            return {"logits": self._package(torch.from_numpy(images)).numpy()}


@contextmanager
def engine_errors(name: str) -> Iterator[None]:
    """Turn what torch raises into an EngineError of one line; compilers and kernels have their own exceptions."""
    try:
        yield
    except Exception as error:
        raise EngineError(f"{name} failed: {first_line(error)}") from None


@shared_context
@contextmanager
def _without_tf32() -> Iterator[None]:
    """Keep cuDNN from rounding the inputs of convolutions to TF32, as it does by default; of the whole process."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    ):
        yield


def _use_threads(threads: int | None) -> None:
    if threads is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
