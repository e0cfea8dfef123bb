"""tune"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from effnets.deploy.engine import torch_engine
from effnets.deploy.export.graph import export_bytes
from effnets.deploy.export.metadata import fingerprint
from effnets.deploy.export.onnx import check_writable
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.deploy.tune.report import TUNE_ENGINES, Candidate, Measured, TuneReport, candidates, read_report
from effnets.engines.base import Engine, Precision, available_engines, load_onnx
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EffnetsError, VerificationError
from effnets.nn.classifier import Classifier, require_classifier
from effnets.utils.arguments import check_integer, check_size
from effnets.utils.machine import describe_machine, load_average, load_since
from effnets.utils.timing import Timing, interleave

# By how much a program must beat the default in the last turn: less may be chance, and the default is well tested.
MARGIN = 0.03

# Rounds of each turn of the successive halving; in every turn but the last the slower half drops out.
_ROUNDS = (3, 5, 9, 21)
# The share of the budget for making programs ready; the rest is for timing them.
_PREPARING = 0.6

Progress = Callable[[str, float], object]


class TuneSearch:
    """One run of the search.

    Args:
        network: a classifier. size: (height, width) and batch: number of the images it is timed with.
        tolerance: largest difference of logits. threads: None leaves it to the engines. budget: seconds, about.
        tell: called with what is being done and the share that is done, 0 to 1.

    Attributes:
        results: what is known of every candidate, in their order.
    """

    def __init__(
        self,
        network: Classifier,
        size: tuple[int, int],
        batch: int,
        tolerance: float,
        threads: int | None,
        budget: float,
        tell: Progress,
    ) -> None:
        self.network, self.size, self.batch, self.threads = network, size, batch, threads
        self.tolerance, self.budget, self.tell = tolerance, budget, tell
        self.begin = time.perf_counter()
        self.results: list[Measured] = []
        self.graphs: dict[Rewrites, tuple[bytes, ModelMetadata]] = {}
        shape = (batch, network.in_chans, *size)
        self.images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        with torch.inference_mode():
            original = copy.deepcopy(network).cpu().double().eval()
            self.expected = original(torch.from_numpy(self.images).double()).numpy()

    def run(self, chosen_from: Sequence[Candidate], conditions: Mapping[str, Any]) -> TuneReport:
        """Find the fastest of the candidates, of which the first is the default; `conditions` go into the report.

        Raises:
            EngineError, ExportError: the default itself fails.
            VerificationError: no candidate is within tolerance.
        """
        load, threads = load_average(), torch.get_num_threads()
        try:
            engines = self._prepare(chosen_from)
            self._require_one_within()
            choice = self._halve(engines)
        finally:
            torch.set_num_threads(threads)
        return TuneReport(
            conditions=conditions,
            candidates=tuple(self.results),
            choice=choice,
            load=load_since(load),
            seconds=self._elapsed(),
        )

    def _elapsed(self) -> float:
        return time.perf_counter() - self.begin

    def _prepare(self, chosen_from: Sequence[Candidate]) -> dict[int, Engine]:
        """Make candidates ready and compare their logits, until the time for that is up."""
        engines: dict[int, Engine] = {}
        for index, candidate in enumerate(chosen_from):
            spent = self._elapsed() / self.budget
            self.tell(f"preparing {candidate.name}", min(spent, _PREPARING))
            # The default and one other, whatever the budget.
            if len(engines) >= 2 and spent > _PREPARING:
                self.results.append(Measured(candidate=candidate, note="no time left"))
                continue
            try:
                engine = self._load(candidate)
                difference = self._difference(engine(self.images))
            except EffnetsError as error:
                if index == 0:
                    raise
                self.results.append(Measured(candidate=candidate, note=str(error)))
                continue
            within = difference <= self.tolerance
            note = "" if within else f"differs by {difference:.1e}"
            self.results.append(Measured(candidate=candidate, difference=difference, note=note))
            # The default is measured in any case: it is what the others must beat.
            if within or index == 0:
                engines[index] = engine
        return engines

    def _load(self, candidate: Candidate) -> Engine:
        if candidate.engine.startswith("torch"):
            return torch_engine(
                self.network,
                compiled=candidate.engine == "torch-compile",
                precision=candidate.precision,
                threads=self.threads,
                rewrites=candidate.rewrites,
            )
        if candidate.rewrites not in self.graphs:
            self.graphs[candidate.rewrites] = export_bytes(self.network, candidate.rewrites, self.size)
        graph, description = self.graphs[candidate.rewrites]
        return load_onnx(graph, description, candidate.engine, threads=self.threads, precision=candidate.precision)

    def _difference(self, logits: NDArray[np.float32]) -> float:
        scale = max(1.0, float(np.abs(self.expected).max()))
        difference = float(np.abs(logits - self.expected).max()) / scale
        return difference if math.isfinite(difference) else math.inf

    def _halve(self, engines: dict[int, Engine]) -> int:
        """Turns of more and more rounds among fewer and fewer; the index of the winner."""
        running = list(engines)
        for turn, rounds in enumerate(_ROUNDS):
            last = turn == len(_ROUNDS) - 1
            if len(running) <= 3 and not last:
                continue
            timings = self._time({index: engines[index] for index in running}, rounds, len(_ROUNDS) - turn)
            ranked = sorted(running, key=lambda index: timings[index].median)
            if not last:
                kept = ranked[: max(2, (len(ranked) + 1) // 2)]
                running = sorted({0, *kept})
        best = next(index for index in ranked if self._within(index))
        if not self._within(0):
            return best
        return best if timings[0].median / timings[best].median >= 1 + MARGIN else 0

    def _within(self, index: int) -> bool:
        difference = self.results[index].difference
        return difference is not None and difference <= self.tolerance

    def _require_one_within(self) -> None:
        compared = [one for one in self.results if one.difference is not None]
        nearest = min(compared, key=lambda one: one.difference or 0.0)
        if nearest.difference is not None and nearest.difference > self.tolerance:
            raise VerificationError(
                f"{self.network.spec.name}: no program stays within {self.tolerance:g} of the logits in float64; the "
                f"nearest, {nearest.candidate.name}, differs by {nearest.difference:.1e}; raise tolerance"
            )

    def _time(self, engines: Mapping[int, Engine], rounds: int, turns_left: int) -> dict[int, Timing]:
        subjects = {str(index): _bind(engine, self.images) for index, engine in engines.items()}
        begin, left = self._elapsed(), max(0.0, self.budget - self._elapsed())
        seconds = left / turns_left

        def tell(share: float) -> None:
            self.tell(f"timing {len(subjects)} programs", min(1.0, (begin + share * seconds) / self.budget))

        timings = interleave(subjects, rounds=rounds, seconds=seconds, progress=tell)
        found = {int(index): timing for index, timing in timings.items()}
        for index, timing in found.items():
            low, high = timing.quartiles
            self.results[index] = replace(
                self.results[index],
                milliseconds=timing.median / self.batch,
                quartiles=(low / self.batch, high / self.batch),
                rounds=len(timing.samples),
            )
        return found


def _bind(engine: Engine, images: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: engine(images)


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
        check_writable(Path(report))
    search = TuneSearch(network, size, batch, tolerance, threads, budget, progress or (lambda _what, _share: None))
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
