"""`bench`: our programs and other libraries' against each other, in one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from effnets.arguments import check_integer, check_size
from effnets.bench.ceiling import measure_ceiling
from effnets.bench.contest import Contest
from effnets.bench.machine import describe_machine, load_average, load_since
from effnets.bench.memory import UNKNOWN_PEAK, tells_peak
from effnets.bench.peers import check_peers
from effnets.bench.programs import Unmeasured, check_engines, make_programs, shake
from effnets.bench.report import BenchReport, Row
from effnets.config import is_tagged
from effnets.errors import ArgumentError, EffnetsError, EngineError
from effnets.nn.classifier import Classifier
from effnets.runtime.engine import Precision
from effnets.spec import ModelSpec
from effnets.weights.resolve import resolve
from effnets.zoo import create_model

__all__ = ["bench"]

Progress = Callable[[str, float], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A model, by the name that was asked for, and what its rows are called."""

    name: str
    label: str
    spec: ModelSpec
    size: tuple[int, int]


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
        models: names of the zoo, with or without a tag, or YAML files; each is measured once.
        against: peers, of ``timm`` and ``torchvision``; a network that a peer has not is measured without it.
        engines: of ``torch``, ``torch-compile``, ``onnxruntime``, ``openvino``.
        batches: images at a time, each once. threads: None takes all cores. precision: ``float32`` or ``bfloat16``.
        rounds: samples of each program. image_size: side in pixels, None for each network's own.
        memory: also start a process for each program and take its peak, at the largest batch, where the system
            tells it.
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
    batches = list(dict.fromkeys(check_integer("batch", batch, 1, "a batch has at least 1 image") for batch in batches))
    asked = _look_up(models, image_size)
    machine = describe_machine()
    threads = check_integer("threads", machine.cores if threads is None else threads, 1, "it must be at least 1")
    check_integer("rounds", rounds, 1, "it must be at least 1")
    tell = progress or (lambda _what, _share: None)
    before, load = torch.get_num_threads(), load_average()
    torch.set_num_threads(threads)
    rows: list[Row] = []
    unmeasured = Unmeasured()
    untold = (UNKNOWN_PEAK,) if memory and not tells_peak() else ()
    try:
        ceiling = measure_ceiling(precision=precision)
        for index, model in enumerate(asked):
            if "torch-compile" in engines:
                # What was compiled for one network is of no use to the next, and torch limits how much there is.
                torch.compiler.reset()
            tell(f"{model.label}: exporting", index / len(asked))
            try:
                network = _network(model.name)
                programs = make_programs(
                    network,
                    label=model.label,
                    against=against,
                    engines=engines,
                    precision=precision,
                    threads=threads,
                    size=model.size,
                    unmeasured=unmeasured,
                )
            except EffnetsError as error:
                # The others took minutes perhaps, and are worth as much without this one.
                unmeasured.failed.append(f"{model.label}: {str(error).removeprefix(f'{model.spec.name}: ')}")
                continue
            contest = Contest(network, model.label, model.size, programs, unmeasured)
            if memory and not untold:
                contest.measure_memory(max(batches))
            for turn, batch in enumerate(batches):
                what = f"{model.label}, {batch}"

                def share(done: float, start: int = index, turn: int = turn, what: str = what) -> None:
                    tell(what, (start + (turn + done) / len(batches)) / len(asked))

                rows += contest.hold(batch, ceiling, rounds=rounds, processor_time=processor_time, progress=share)
    finally:
        torch.set_num_threads(before)
    missing = (*unmeasured.absent, *unmeasured.failed, *untold)
    if not rows:
        raise EngineError(f"nothing could be measured: {'; '.join(missing)}")
    return BenchReport(
        machine=machine,
        ceiling=ceiling,
        threads=threads,
        precision=precision,
        rounds=rounds,
        clock="processor time" if processor_time else "time",
        image_size={model.label: model.size for model in asked},
        load=load_since(load),
        rows=tuple(rows),
        missing=missing,
        absent=tuple(unmeasured.absent),
        untold=untold,
    )


def _look_up(models: Sequence[str], image_size: int | None) -> list[_Asked]:
    """What can be told of models without work, also of those that are saved in a folder or on the Hub."""
    specs: dict[str, ModelSpec] = {}
    for name in dict.fromkeys(models):
        specs[name] = resolve(name, pretrained=False, weights=None, num_classes=None).spec
        if not specs[name].num_classes:
            raise ArgumentError(f"{name} gives no logits; benchmarks compare logits")
    # A tag may bring an image size of its own, and a file may hold a network of another's name.
    labels = {name: name if is_tagged(name) else spec.name for name, spec in specs.items()}
    used = Counter(labels.values())
    return [
        _Asked(
            name=name,
            label=name if used[labels[name]] > 1 else labels[name],
            spec=spec,
            size=check_size(spec.input_size if image_size is None else image_size, "image_size"),
        )
        for name, spec in specs.items()
    ]


def _network(name: str) -> Classifier:
    network = create_model(name)
    shake(network)
    return network
