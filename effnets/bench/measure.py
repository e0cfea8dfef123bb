"""`bench`: our programs and other libraries' against each other, in one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effnets.arguments import check_integer, check_size
from effnets.bench.ceiling import measure_ceiling
from effnets.bench.machine import describe_machine
from effnets.bench.memory import peak_memory
from effnets.bench.peers import check_peers
from effnets.bench.programs import OURS, Program, check_engines, make_programs, shake
from effnets.bench.report import BenchReport, Row
from effnets.bench.roofline import bound, layers_of
from effnets.bench.timing import Timing, interleave
from effnets.errors import ArgumentError, EffnetsError, EngineError, VerificationError
from effnets.nn.classifier import Classifier
from effnets.runtime.engine import Precision
from effnets.zoo import create_model

__all__ = ["bench"]

# A program that differs by more computes another network, and its time means nothing.
_TOLERANCES = {"float32": 2e-3, "bfloat16": 0.5}

Progress = Callable[[str, float], object]


@dataclass(frozen=True, slots=True)
class _Loaded:
    program: Program
    call: Callable[[NDArray[Any]], NDArray[Any]]


def bench(
    models: Sequence[str],
    *,
    against: Sequence[str] = ("timm",),
    engines: Sequence[str] = ("torch", "onnxruntime", "openvino"),
    batches: Sequence[int] = (1, 16),
    threads: int | None = None,
    precision: Precision = "float32",
    rounds: int = 15,
    image_size: int | None = None,
    memory: bool = True,
    processor_time: bool = False,
    progress: Progress | None = None,
) -> BenchReport:
    """Time networks as built and as rewritten here, and the same networks with the same random weights elsewhere.

    All programs of a network at one batch size take turns, so that ratios hold on a busy machine too. Before it is
    timed, the logits of each are compared with our network's in float64.

    Args:
        models: names of the zoo or YAML files.
        against: peers, of ``timm`` and ``torchvision``; a network that a peer has not is measured without it.
        engines: of ``torch``, ``torch-compile``, ``onnxruntime``, ``openvino``.
        batches: images at a time. threads: None takes all cores. precision: ``float32`` or ``bfloat16``.
        rounds: samples of each program. image_size: side in pixels, None for each network's own.
        memory: also start a process for each program and take its peak, at the largest batch.
        processor_time: see `effnets.bench.timing.interleave`.
        progress: called with what is being done and the share that is done, 0 to 1.

    Raises:
        ArgumentError: an argument out of range. EngineError: an engine or a peer is not installed, or all fail.
        VerificationError: one of our programs computes something else.
    """
    check_peers(tuple(against))
    check_engines(engines, precision)
    if not models or not engines or not batches:
        raise ArgumentError("nothing to measure; name at least one model, one engine and one batch size")
    for batch in batches:
        check_integer("batch", batch, 1, "a batch has at least 1 image")
    machine = describe_machine()
    threads = check_integer("threads", machine.cores if threads is None else threads, 1, "it must be at least 1")
    check_integer("rounds", rounds, 1, "it must be at least 1")
    tell = progress or (lambda _what, _share: None)
    before, load = torch.get_num_threads(), os.getloadavg()[0]
    torch.set_num_threads(threads)
    rows: list[Row] = []
    absent: list[str] = []
    failed: list[str] = []
    sizes: dict[str, tuple[int, int]] = {}
    try:
        ceiling = measure_ceiling(precision=precision)
        for index, name in enumerate(models):
            if "torch-compile" in engines:
                # What was compiled for one network is of no use to the next, and torch limits how much there is.
                torch.compiler.reset()
            network = _network(name)
            label = network.spec.name
            size = sizes[label] = check_size(image_size or network.spec.input_size, "image_size")
            tell(f"{label}: exporting", index / len(models))
            programs = make_programs(
                network, against=against, engines=engines, precision=precision, threads=threads, size=size
            )
            paths = {program.path for program in programs}
            absent += [f"{peer} has no {label}" for peer in against if peer not in paths]
            loaded = _load(programs, failed)
            peaks = _peaks(loaded, network, size, max(batches), failed) if memory else {}
            for turn, batch in enumerate(batches):

                def share(done: float, start: int = index, turn: int = turn, what: str = f"{label}, {batch}") -> None:
                    tell(what, (start + (turn + done) / len(batches)) / len(models))

                images = _images(batch, network.in_chans, size)
                differences = _compare(loaded, network, images, precision, absent, failed)
                if not loaded:
                    break
                subjects = {key: _bind(one.call, images) for key, one in loaded.items()}
                timings = interleave(subjects, rounds=rounds, processor_time=processor_time, progress=share)
                lowest = bound(layers_of(network.plan, size), ceiling, batch, 4 if precision == "float32" else 2)
                rows += _rows(label, batch, loaded, timings, differences, peaks, lowest)
    finally:
        torch.set_num_threads(before)
    if not rows:
        raise EngineError(f"nothing could be measured: {'; '.join([*absent, *failed])}")
    return BenchReport(
        machine=machine,
        ceiling=ceiling,
        threads=threads,
        precision=precision,
        rounds=rounds,
        clock="processor time" if processor_time else "time",
        image_size=sizes,
        load=(load, os.getloadavg()[0]),
        rows=tuple(rows),
        missing=(*absent, *failed),
        absent=tuple(absent),
    )


def _network(name: str) -> Classifier:
    network = create_model(name)
    if not isinstance(network, Classifier) or not network.num_classes:
        raise ArgumentError(f"{name} gives no logits; benchmarks compare logits")
    shake(network)
    return network


def _images(batch: int, channels: int, size: tuple[int, int]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((batch, channels, *size)).astype(np.float32)


def _bind(call: Callable[[NDArray[Any]], NDArray[Any]], images: NDArray[Any]) -> Callable[[], object]:
    return lambda: call(images)


def _load(programs: Sequence[Program], failed: list[str]) -> dict[str, _Loaded]:
    """Programs that an engine refuses are reported rather than fatal: the others are still worth measuring."""
    loaded = {}
    for program in programs:
        try:
            loaded[f"{program.path} on {program.engine}"] = _Loaded(program, program.load())
        except EffnetsError as error:
            failed.append(f"{program.description.model}: {program.path} on {program.engine}: {error}")
    return loaded


def _peaks(
    loaded: Mapping[str, _Loaded], network: Classifier, size: tuple[int, int], batch: int, failed: list[str]
) -> dict[str, float]:
    """In MB by program; of one whose process fails, the reason goes into `failed`."""
    shape = (batch, network.in_chans, *size)
    peaks = {}
    for key, one in loaded.items():
        try:
            peaks[key] = peak_memory(one.program, shape)
        except EngineError as error:
            failed.append(f"{network.spec.name}: no peak memory of {error}")
    return peaks


def _compare(
    loaded: dict[str, _Loaded],
    network: Classifier,
    images: NDArray[np.float32],
    precision: Precision,
    absent: list[str],
    failed: list[str],
) -> dict[str, float]:
    """The largest difference of each program's logits from the network's in float64.

    Programs that fail, and peers' that compute something else, are taken out of `loaded`; the reasons go into `failed`
    and `absent`.
    """
    with torch.inference_mode():
        expected = network.double()(torch.from_numpy(images).double()).numpy()
    network.float()
    scale = max(1.0, float(np.abs(expected).max()))
    differences = {}
    for key, one in list(loaded.items()):
        try:
            difference = float(np.abs(one.call(images) - expected).max()) / scale
        except EngineError as error:
            failed.append(f"{network.spec.name}: {one.program.path}: {error}")
            del loaded[key]
            continue
        if difference <= _TOLERANCES[precision]:
            differences[key] = difference
            continue
        if one.program.path in OURS:
            raise VerificationError(
                f"{network.spec.name}: {key} gives logits that differ by {difference:.1e}; it is not the same network, "
                "and its time would mean nothing"
            )
        peer, engine = one.program.path, one.program.engine
        absent.append(
            f"{peer}'s {network.spec.name} is another network (on {engine}, logits differ by {difference:.1e})"
        )
        del loaded[key]
    return differences


def _rows(
    model: str,
    batch: int,
    loaded: Mapping[str, _Loaded],
    timings: Mapping[str, Timing],
    differences: Mapping[str, float],
    peaks: Mapping[str, float],
    lowest: float,
) -> list[Row]:
    by_program = {(one.program.engine, one.program.path): timings[key].median / batch for key, one in loaded.items()}
    rows = []
    for key, one in loaded.items():
        engine, path = one.program.engine, one.program.path
        low, high = timings[key].quartiles
        median = by_program[engine, path]
        speedups = {
            peer: by_program[engine, peer] / median
            for peer in ("timm", "torchvision")
            if (engine, peer) in by_program and peer != path
        }
        rows.append(
            Row(
                model=model,
                batch=batch,
                engine=engine,
                path=path,
                milliseconds=median,
                quartiles=(low / batch, high / batch),
                speedups=speedups,
                difference=differences[key],
                ceiling_share=lowest / median,
                megabytes=peaks.get(key),
            )
        )
    return rows
