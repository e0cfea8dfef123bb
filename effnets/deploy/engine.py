"""`load_engine`: an engine for an exported file or for a model in memory. Free of torch for files."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING

from effnets.engines.base import Engine, Precision, check_options, load_file

if TYPE_CHECKING:
    from torch import nn

    from effnets.deploy.optimize.rewrites import Rewrites
    from effnets.engines.torch import TorchEngine


def load_engine(
    path: str | os.PathLike[str] | nn.Module,
    engine: str = "auto",
    *,
    threads: int | None = None,
    precision: Precision = "float32",
) -> Engine:
    """Load an exported model for execution. ``.onnx``, ``.xml`` and ``.tflite`` files need neither torch nor timm.

    Args:
        path: a file that `effnets.export` wrote, but for Core ML's; or a model from `effnets.create_model`, which is
            copied and rewritten for the engines torch, torch-compile and torch-cuda.
        engine: one of `effnets.engines.base.ENGINES`. ``auto``: for ONNX files the engine that the file was made for,
            if it is installed; else ONNX Runtime, on a GPU if its build has CUDA (on the CPU with a warning, if CUDA
            fails), else OpenVINO. OpenVINO first for bfloat16, which ONNX Runtime does not support on CPUs.
        threads: number of threads; None leaves it to the engine, which takes all cores.
        precision: ``bfloat16`` computes with 8 bits of mantissa where the CPU has instructions for it.

    Raises:
        MissingFileError: if the file does not exist.
        WeightsError: if the file was not exported by effnets, or is damaged.
        ArgumentError: if the engine is unknown or cannot execute this file or model, or lacks the precision.
        EngineError: if the engine is not installed, fails to load the file, or finds no GPU.
    """
    if isinstance(path, str | os.PathLike):
        return load_file(path, engine, threads=threads, precision=precision)
    possible = ("torch", "torch-compile", "torch-cuda")
    threads = check_options(engine, possible, "a model in memory", threads=threads, precision=precision)
    return torch_engine(path, "torch" if engine == "auto" else engine, precision=precision, threads=threads)


def torch_engine(
    model: nn.Module,
    engine: str = "torch",
    *,
    precision: Precision = "float32",
    threads: int | None = None,
    rewrites: Rewrites | None = None,
) -> TorchEngine:
    """Return an engine of a rewritten copy of a classifier; `rewrites` None takes the preset of the engine.

    Raises ArgumentError if `model` is not a classifier with outputs, and EngineError as `TorchEngine`.
    """
    from effnets.deploy.export.metadata import describe
    from effnets.deploy.optimize.optimize import optimize
    from effnets.deploy.optimize.rewrites import preset
    from effnets.engines.torch import TorchEngine
    from effnets.nn.classifier import require_classifier

    network = require_classifier(model)
    rewrites = preset(engine) if rewrites is None else rewrites
    metadata = describe(network, size=None, input_kind="normalised", rewrites=rewrites)
    rewritten = optimize(copy.deepcopy(network).cpu().float().eval(), rewrites)
    return TorchEngine(rewritten, metadata, name=engine, precision=precision, threads=threads)
