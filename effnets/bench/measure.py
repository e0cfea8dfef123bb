"""`bench`: our programs and other libraries' against each other, in one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch

from effnets.arguments import check_integer, check_size
from effnets.bench.ceiling import measure_ceiling
from effnets.bench.contest import Contest
from effnets.bench.machine import describe_machine
from effnets.bench.peers import check_peers
from effnets.bench.programs import Unmeasured, check_engines, make_programs, shake
from effnets.bench.report import BenchReport, Row
from effnets.errors import ArgumentError, EffnetsError, EngineError
from effnets.nn.classifier import Classifier
from effnets.runtime.engine import Precision
from effnets.spec import ModelSpec
from effnets.weights.resolve import resolve
from effnets.zoo import create_model

__all__ = ["bench"]

Progress = Callable[[str, float], object]


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
    timed, the logits of each are compared with our network's in float64. A network that cannot be exported or rewritten
    costs only itself.

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
        UnknownModelError, MissingFileError, ConfigError: as `effnets.load_spec`, before anything is measured.
    """
    check_peers(tuple(against))
    check_engines(engines, precision)
    if not models or not engines or not batches:
        raise ArgumentError("nothing to measure; name at least one model, one engine and one batch size")
    for batch in batches:
        check_integer("batch", batch, 1, "a batch has at least 1 image")
    specs = {name: _check_model(name) for name in models}
    machine = describe_machine()
    threads = check_integer("threads", machine.cores if threads is None else threads, 1, "it must be at least 1")
    check_integer("rounds", rounds, 1, "it must be at least 1")
    tell = progress or (lambda _what, _share: None)
    before, load = torch.get_num_threads(), os.getloadavg()[0]
    torch.set_num_threads(threads)
    rows: list[Row] = []
    unmeasured = Unmeasured()
    sizes: dict[str, tuple[int, int]] = {}
    try:
        ceiling = measure_ceiling(precision=precision)
        for index, (name, spec) in enumerate(specs.items()):
            if "torch-compile" in engines:
                # What was compiled for one network is of no use to the next, and torch limits how much there is.
                torch.compiler.reset()
            label = spec.name
            size = sizes[label] = check_size(image_size or spec.input_size, "image_size")
            tell(f"{label}: exporting", index / len(specs))
            try:
                network = _network(name)
                programs = make_programs(
                    network,
                    against=against,
                    engines=engines,
                    precision=precision,
                    threads=threads,
                    size=size,
                    unmeasured=unmeasured,
                )
            except EffnetsError as error:
                # The others took minutes perhaps, and are worth as much without this one.
                unmeasured.failed.append(f"{label}: {str(error).removeprefix(f'{spec.name}: ')}")
                continue
            contest = Contest(network, size, programs, unmeasured)
            if memory:
                contest.measure_memory(max(batches))
            for turn, batch in enumerate(batches):

                def share(done: float, start: int = index, turn: int = turn, what: str = f"{label}, {batch}") -> None:
                    tell(what, (start + (turn + done) / len(batches)) / len(specs))

                rows += contest.hold(batch, ceiling, rounds=rounds, processor_time=processor_time, progress=share)
    finally:
        torch.set_num_threads(before)
    missing = (*unmeasured.absent, *unmeasured.failed)
    if not rows:
        raise EngineError(f"nothing could be measured: {'; '.join(missing)}")
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
        missing=missing,
        absent=tuple(unmeasured.absent),
    )


def _check_model(name: str) -> ModelSpec:
    """What can be told of a model without work, also of one that is saved in a folder or on the Hub."""
    spec = resolve(name, pretrained=False, weights=None, num_classes=None).spec
    if not spec.num_classes:
        raise ArgumentError(f"{name} gives no logits; benchmarks compare logits")
    return spec


def _network(name: str) -> Classifier:
    network = create_model(name)
    shake(network)
    return network
