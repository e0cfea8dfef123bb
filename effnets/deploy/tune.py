"""`tune`: the fastest way to run a network on this machine, by measurement."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from effnets.deploy.engine import torch_engine
from effnets.deploy.export.base import check_writable, write_file
from effnets.deploy.export.export import export_bytes
from effnets.deploy.export.metadata import fingerprint
from effnets.deploy.optimize.rewrites import Rewrites, preset
from effnets.engines.base import FOR_ONNX, Engine, Precision, available_engines, load_bytes
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, ConfigError, EffnetsError, VerificationError
from effnets.nn.classifier import Classifier, require_classifier
from effnets.spec.plan import NetworkPlan
from effnets.utils.arguments import check_integer, check_size
from effnets.utils.machine import Load, describe_machine, load_average, load_since
from effnets.utils.timing import Timing, interleave

TUNE_ENGINES = ("onnxruntime", "openvino", "torch", "torch-compile", "litert", "executorch")
# A candidate must beat the default by this share in the last turn: less may be chance, and the default is well tested.
MARGIN = 0.03

_FORMAT = 1  # of report files
# Rounds of each turn of the successive halving; after every turn but the last the slower half drops out.
_ROUNDS = (3, 5, 9, 21)
_PREPARING = 0.6  # the share of the budget for making candidates ready; the rest is for timing them

Progress = Callable[[str, float], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneCandidate:
    """Rewrites, an engine and a precision to try; `name` is for tables."""

    name: str
    engine: str
    precision: Precision
    rewrites: Rewrites

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {**asdict(self), "rewrites": self.rewrites.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TuneCandidate:
        """Return what `to_dict` was called on."""
        return cls(**{**values, "rewrites": Rewrites.from_dict(values["rewrites"])})


def candidates(plan: NetworkPlan, engines: Sequence[str], precisions: Sequence[Precision]) -> list[TuneCandidate]:
    """Return what is worth trying for a network, likely winners first; the first is the default.

    Rewrites that would not change this network are left out.
    """
    found: list[tuple[int, TuneCandidate]] = []
    for precision in precisions:
        for engine in engines:
            if engine in ("onnxruntime", "litert", "executorch") and precision != "float32":
                continue
            suffix = "" if precision == "float32" else f", {precision}"
            for index, (variant, rewrites) in enumerate(_variants(engine, plan).items()):
                name = f"{engine}, {variant}{suffix}"
                found.append((index, TuneCandidate(name=name, engine=engine, precision=precision, rewrites=rewrites)))
    # All engines' first variants come first, then their second ones, so that a short budget sees every engine.
    return [candidate for _, candidate in sorted(found, key=lambda pair: pair[0])]


def _variants(engine: str, plan: NetworkPlan) -> dict[str, Rewrites]:
    base = preset(engine)
    variants = {"preset": base}
    if engine == "torch-compile":  # a compilation takes minutes
        return variants
    if engine == "torch":
        return {**variants, "NCHW": replace(base, channels_last=False), "not fused": replace(base, fuse=False)}
    blocks = [block for stage in plan.stages for block in stage]
    if any(len(block.convolution) > 1 for block in blocks):
        variants["depthwise merged"] = replace(base, depthwise="all")
        for price in (9, 40):
            variants[f"depthwise by cost, {price} a copy"] = replace(base, depthwise="cost", copy_taps=price)
        variants["depthwise kept"] = replace(base, depthwise="keep")
        if base.depthwise_taps:
            variants["depthwise whole"] = replace(base, depthwise_taps=())
    if any(len(block.expand) > 1 or len(block.project) > 1 for block in blocks):
        variants["pointwise dense"] = replace(base, equal_pointwise="dense", unequal_pointwise="dense")
        variants["pointwise grouped"] = replace(base, equal_pointwise="group", unequal_pointwise="dense")
        variants["pointwise kept"] = replace(base, equal_pointwise="keep", unequal_pointwise="keep")
    for align in (1, 8, 16):
        variants[f"aligned to {align}"] = replace(base, align=align)
    return {name: rewrites for name, rewrites in variants.items() if name == "preset" or rewrites != base}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A candidate and its results.

    Attributes:
        milliseconds, quartiles: for one image, of the last turn that it took part in; None if it was not timed.
        rounds: number of rounds of that turn.
        difference: of its logits from the network's in float64, as a share of the largest; None if it failed.
        note: why it was not timed, or empty.
    """

    candidate: TuneCandidate
    milliseconds: float | None = None
    quartiles: tuple[float, float] | None = None
    rounds: int = 0
    difference: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneReport:
    """All candidates and the choice.

    Attributes:
        conditions: for which the measurement is valid: model and hash of its values, machine, versions, batch, image
            size, threads, tolerance, margin. It is used again only if all are the same.
        choice: index of the fastest candidate within tolerance that beat the default by the margin, else 0; of the
            fastest within tolerance if the default is not.
        load: running processes at the beginning and at the end, on average over a minute; None if the system does not
            provide it.
        seconds: duration of tuning.
        reused: read from a file rather than measured.
    """

    conditions: Mapping[str, Any]
    candidates: tuple[Measured, ...]
    choice: int
    load: Load
    seconds: float
    reused: bool = False

    @property
    def chosen(self) -> TuneCandidate:
        """The chosen candidate."""
        return self.candidates[self.choice].candidate

    def __str__(self) -> str:
        found, default = self.candidates[self.choice], self.candidates[0]
        if found is default or found.milliseconds is None or default.milliseconds is None:
            return f"{default.candidate.name}: nothing beat the default by {100 * self.conditions['margin']:.0f} %"
        gain = default.milliseconds / found.milliseconds
        times = f"{found.milliseconds:.2f} ms an image, {default.milliseconds:.2f} ms by default"
        return f"{found.candidate.name}: {gain:.2f} times as fast as the default ({times})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            "format": _FORMAT,
            "conditions": dict(self.conditions),
            "choice": self.choice,
            "chosen": self.chosen.name,
            "candidates": [{**asdict(one), "candidate": one.candidate.to_dict()} for one in self.candidates],
            "load": self.load and list(self.load),
            "seconds": self.seconds,
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON; raises ExportError if it cannot be written."""
        write_file(Path(path), (json.dumps(self.to_dict(), indent=1) + "\n").encode())


def read_report(path: str | os.PathLike[str], conditions: Mapping[str, Any]) -> TuneReport | None:
    """Read the report of an earlier run; None if it is missing, damaged, or for other conditions."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if values["format"] != _FORMAT or values["conditions"] != json.loads(json.dumps(dict(conditions))):
            return None
        measured = []
        for entry in values["candidates"]:
            candidate = TuneCandidate.from_dict(entry["candidate"])
            quartiles = tuple(entry["quartiles"]) if entry["quartiles"] else None
            measured.append(Measured(**{**entry, "quartiles": quartiles, "candidate": candidate}))
        choice, load = values["choice"], values["load"]
        if not isinstance(choice, int) or not 0 <= choice < len(measured):
            return None
        found = {"choice": choice, "load": load and (load[0], load[1]), "seconds": values["seconds"]}
        return TuneReport(conditions=conditions, candidates=tuple(measured), reused=True, **found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError):
        return None


def report_path(path: str | os.PathLike[str]) -> Path:
    """Return the report file beside an exported model: ``model.onnx`` → ``model.tune.json``."""
    return Path(path).with_suffix(".tune.json")


class TuneSearch:
    """One run of the search: candidates are made ready, compared with the network, and timed by successive halving.

    Args:
        network: a classifier.
        size, batch: (height, width) and number of the images it is timed with.
        tolerance: largest difference of logits.
        threads: None leaves it to the engines.
        budget: approximate seconds.
        progress: called with the current step and the share that is done, 0 to 1.

    Attributes:
        results: of every candidate, in their order.
    """

    def __init__(
        self,
        network: Classifier,
        size: tuple[int, int],
        batch: int,
        tolerance: float,
        threads: int | None,
        budget: float,
        progress: Progress,
    ) -> None:
        self.network, self.size, self.batch, self.threads = network, size, batch, threads
        self.tolerance, self.budget, self.progress = tolerance, budget, progress
        self.begin = time.perf_counter()
        self.results: list[Measured] = []
        self.files: dict[tuple[Rewrites, object], tuple[bytes, ModelMetadata]] = {}
        shape = (batch, network.in_chans, *size)
        self.images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        with torch.inference_mode():
            original = copy.deepcopy(network).cpu().double().eval()
            self.expected = original(torch.from_numpy(self.images).double()).numpy()

    def run(self, candidates: Sequence[TuneCandidate], conditions: Mapping[str, Any]) -> TuneReport:
        """Find the fastest candidate; the first is the default. `conditions` go into the report. Raises as `tune`."""
        load, threads = load_average(), torch.get_num_threads()
        try:
            choice = self._halve(self._prepare(candidates))
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

    def _prepare(self, candidates: Sequence[TuneCandidate]) -> dict[int, Engine]:
        """Load candidates and compare their logits, until the time for that is up."""
        engines: dict[int, Engine] = {}
        for index, candidate in enumerate(candidates):
            spent = self._elapsed() / self.budget
            self.progress(f"preparing {candidate.name}", min(spent, _PREPARING))
            # The default and one other are tried even without time.
            if len(engines) >= 2 and spent > _PREPARING:
                self.results.append(Measured(candidate=candidate, note="no time left"))
                continue
            difference, note = None, ""
            try:
                engine = self._load(candidate)
                difference = self._difference(engine(self.images))
            except EffnetsError as error:
                if index == 0:
                    raise
                note = str(error)
            else:
                if difference > self.tolerance:
                    note = f"differs by {difference:.1e}"
                # The default is always timed, because the others must beat it.
                if not note or index == 0:
                    engines[index] = engine
            self.results.append(Measured(candidate=candidate, difference=difference, note=note))
        tried = ((one.difference, one.candidate.name) for one in self.results if one.difference is not None)
        difference, name = min(tried)
        if difference > self.tolerance:
            raise VerificationError(
                f"{self.network.spec.name}: no program stays within {self.tolerance:g} of the logits in float64; the "
                f"nearest, {name}, differs by {difference:.1e}; raise tolerance"
            )
        return engines

    def _load(self, candidate: TuneCandidate) -> Engine:
        if candidate.engine.startswith("torch"):
            return torch_engine(
                self.network,
                candidate.engine,
                precision=candidate.precision,
                threads=self.threads,
                rewrites=candidate.rewrites,
            )
        # Engines that execute ONNX share a file.
        made = (candidate.rewrites, FOR_ONNX if candidate.engine in FOR_ONNX else candidate.engine)
        if made not in self.files:
            self.files[made] = export_bytes(self.network, candidate.rewrites, self.size, candidate.engine)
        file, metadata = self.files[made]
        return load_bytes(file, metadata, candidate.engine, threads=self.threads, precision=candidate.precision)

    def _difference(self, logits: NDArray[np.float32]) -> float:
        scale = max(1.0, float(np.abs(self.expected).max()))
        difference = float(np.abs(logits - self.expected).max()) / scale
        return difference if math.isfinite(difference) else math.inf

    def _halve(self, engines: dict[int, Engine]) -> int:
        """Time fewer and fewer candidates in more and more rounds; return the index of the winner."""
        running = list(engines)
        for turns_left, rounds in zip(range(len(_ROUNDS), 0, -1), _ROUNDS, strict=True):
            if len(running) <= 3 and turns_left > 1:
                continue
            timings = self._time({index: engines[index] for index in running}, rounds, turns_left)
            ranked = sorted(running, key=lambda index: timings[index].median)
            running = sorted({0, *ranked[: max(2, (len(ranked) + 1) // 2)]})
        # Of those timed, only a default outside of the tolerance has a note.
        winner = next(index for index in ranked if not self.results[index].note)
        enough = timings[0].median / timings[winner].median >= 1 + MARGIN
        return winner if enough or self.results[0].note else 0

    def _time(self, engines: Mapping[int, Engine], rounds: int, turns_left: int) -> dict[int, Timing]:
        subjects = {str(index): partial(engine, self.images) for index, engine in engines.items()}
        begin = self._elapsed()
        seconds = max(0.0, self.budget - begin) / turns_left

        def progress(share: float) -> None:
            self.progress(f"timing {len(subjects)} programs", min(1.0, (begin + share * seconds) / self.budget))

        timings = interleave(subjects, rounds=rounds, seconds=seconds, progress=progress)
        found = {int(index): timing for index, timing in timings.items()}
        for index, timing in found.items():
            low, high = (quartile / self.batch for quartile in timing.quartiles)
            measured = replace(self.results[index], milliseconds=timing.median / self.batch, quartiles=(low, high))
            self.results[index] = replace(measured, rounds=len(timing.samples))
        return found


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

    The default is what `effnets.export_onnx` writes, on the first engine, in float32; the choice beat it in the same
    rounds by 3 %, so that tuning never makes a model slower. Candidates are timed in turns, the slower half drops out
    after each, and medians decide.

    Args:
        model: a classifier from `effnets.create_model`; it is not changed.
        batch: images at a time.
        image_size: side in pixels or (height, width); None for that of the weights.
        budget: approximate seconds; a step that has begun is finished, and the default and one other always run.
        tolerance: largest difference of logits from the network's in float64, as a share of the largest logit (or of
            1). bfloat16 needs about 0.02.
        threads: None leaves it to the engines.
        engines: of `TUNE_ENGINES`, in the order of trying; None: those of ``onnxruntime``, ``openvino`` and ``torch``
            that are installed. ``torch-compile`` compiles for minutes, ``litert`` and ``executorch`` are for files that
            will run elsewhere.
        precisions: ``float32``, and ``bfloat16``, which only some engines and CPUs support.
        report: a file, ``….tune.json``, which is used again if machine, versions, model and all arguments but the
            budget are the same; else it is replaced, unless `write_report` is False.
        progress: called with the current step and the share that is done, 0 to 1.

    Raises:
        ArgumentError: if `model` is not a classifier with outputs, or an argument is out of range.
        EngineError, ExportError: if the default fails, or `report` cannot be written.
        VerificationError: if no candidate is within tolerance.
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
        return [engine for engine in installed if engine in ("onnxruntime", "openvino", "torch")]
    if not engines or set(engines) - set(installed):
        raise ArgumentError(f"engines is {list(engines)}; choose from those installed: {', '.join(installed)}")
    return list(engines)
