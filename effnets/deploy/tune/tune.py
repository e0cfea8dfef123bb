"""`tune`: the fastest program for a network on this machine, by measurement."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from effnets.deploy.export.in_memory import fingerprint
from effnets.deploy.export.output import check_place
from effnets.deploy.tune.candidates import TUNE_ENGINES, candidates
from effnets.deploy.tune.report import TuneReport, read_report
from effnets.deploy.tune.search import MARGIN, Progress, Search
from effnets.engines.base import Precision, available_engines
from effnets.errors import ArgumentError
from effnets.nn.classifier import require_classifier
from effnets.utils.arguments import check_integer, check_size
from effnets.utils.machine import describe_machine


def tune(
    model: nn.Module,
    *,
    batch: int = 1,
    image_size: int | tuple[int, int] | None = None,
    budget: float = 120.0,
    tolerance: float = 1e-3,
    threads: int | None = None,
    engines: Sequence[str] | None = None,
    precisions: Sequence[Precision] = ("float32", "bfloat16"),
    report: str | os.PathLike[str] | None = None,
    write_report: bool = True,
    progress: Progress | None = None,
) -> TuneReport:
    """Measure rewrites, engines, precisions and layouts, and choose the fastest that computes the same.

    The default is what `effnets.export_onnx` writes, on the first engine, in float32; what is chosen beat it in the
    same rounds by 3 %, so that tuning never makes slower. Rounds take turns, the slower half of the programs drops out
    after each turn, and medians decide.

    Args:
        model: a classifier from `effnets.create_model`, left as it is.
        batch: images at a time. image_size: side in pixels or (height, width), None for that of the weights.
        budget: seconds for it all, about: what is begun is finished, and the default and one other always run.
        tolerance: largest difference of logits from the network's in float64, as a share of the largest logit (or of
            1). bfloat16 needs about 0.02.
        threads: None leaves it to the engines.
        engines: of ``onnxruntime``, ``openvino``, ``torch`` and ``torch-compile``, in the order of trying;
            None: those that are installed, but for ``torch-compile``, which compiles for minutes.
        precisions: of ``float32`` and ``bfloat16``, which only some engines and CPUs have.
        report: a file, ``….tune.json``: what it holds is used again if machine, versions, model and all arguments
            but the budget are the same; else it is replaced, unless `write_report` is False.
        progress: called with what is being done and the share that is done, 0 to 1.

    Raises:
        ArgumentError: `model` is no classifier with outputs, or an argument has a value it cannot take.
        EngineError, ExportError: the default itself fails, or `report` cannot be written.
    """
    network = require_classifier(model)
    batch = check_integer("batch", batch, 1, "a batch has at least 1 image")
    if threads is not None:
        threads = check_integer("threads", threads, 1, "it must be at least 1")
    if not (budget > 0 and tolerance > 0):
        raise ArgumentError(f"budget is {budget} and tolerance {tolerance}; both must be above 0")
    engines = _check_engines(engines)
    if "float32" not in precisions or set(precisions) - {"float32", "bfloat16"}:
        raise ArgumentError(f"precisions is {list(precisions)}; give float32, and bfloat16 beside it if you like")
    size = check_size(network.spec.input_size if image_size is None else image_size, "image_size")
    conditions = {
        "model": network.spec.name,
        "sha256": fingerprint(network),
        "machine": describe_machine().to_dict(),
        "batch": batch,
        "image_size": list(size),
        "threads": threads,
        "tolerance": tolerance,
        "margin": MARGIN,
        "engines": list(engines),
        "precisions": list(precisions),
    }
    if report is not None and (found := read_report(report, conditions)):
        return found
    if report is not None:
        check_place(Path(report))
    search = Search(network, size, batch, tolerance, threads, budget, progress or (lambda _what, _share: None))
    result = search.run(candidates(network.plan, engines, precisions), conditions)
    if report is not None and write_report:
        result.write(report)
    return result


def _check_engines(engines: Sequence[str] | None) -> list[str]:
    installed = [engine for engine in TUNE_ENGINES if engine.removesuffix("-compile") in available_engines()]
    if engines is None:
        return [engine for engine in installed if engine != "torch-compile"]
    if not engines or set(engines) - set(installed):
        raise ArgumentError(f"engines is {list(engines)}; choose from those installed: {', '.join(installed)}")
    return list(engines)
