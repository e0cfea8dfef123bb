"""`bench`: our programs and other libraries' against each other, in one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from effnets.bench.comparison import UNKNOWN_PEAK, Contest, tells_peak
from effnets.bench.report import BenchReport, Row
from effnets.bench.roofline import Ceiling, measure_ceiling
from effnets.bench.variants import Unmeasured, check_engines, check_peers, make_programs, shake
from effnets.engines.base import Precision
from effnets.errors import ArgumentError, EffnetsError, EngineError
from effnets.factory import create_model
from effnets.spec.models import is_tagged
from effnets.spec.specs import ModelSpec
from effnets.utils.arguments import check_integer, check_size
from effnets.utils.machine import describe_machine, load_average, load_since
from effnets.weights.resolve import resolve

Progress = Callable[[str, float], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A model, by the name that was asked for, and what its rows are called."""

    name: str
    label: str
    spec: ModelSpec
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """Arguments of `bench` that hold for all models."""

    against: tuple[str, ...]
    engines: tuple[str, ...]
    batches: tuple[int, ...]
    threads: int
    precision: Precision
    rounds: int
    memory: bool
    processor_time: bool


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
        processor_time: see `effnets.utils.timing.interleave`.
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
    untold = (UNKNOWN_PEAK,) if memory and not tells_peak() else ()
    how = _How(
        against=tuple(against),
        engines=tuple(engines),
        batches=tuple(batches),
        threads=threads,
        precision=precision,
        rounds=rounds,
        memory=memory and not untold,
        processor_time=processor_time,
    )
    before, load = torch.get_num_threads(), load_average()
    torch.set_num_threads(threads)
    rows: list[Row] = []
    unmeasured = Unmeasured()
    try:
        ceiling = measure_ceiling(precision=precision)
        for index, model in enumerate(asked):
            rows += _measure(model, how, ceiling, unmeasured, _part(tell, index, len(asked)))
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


def _measure(model: _Asked, how: _How, ceiling: Ceiling, unmeasured: Unmeasured, tell: Progress) -> list[Row]:
    """All rows of one model; what cannot be measured goes into `unmeasured`."""
    if "torch-compile" in how.engines:
        # What was compiled for one network does not serve the next, and torch limits how much it keeps.
        torch.compiler.reset()
    tell(f"{model.label}: exporting", 0.0)
    try:
        network = create_model(model.name)
        shake(network)
        programs = make_programs(
            network,
            label=model.label,
            against=how.against,
            engines=how.engines,
            precision=how.precision,
            threads=how.threads,
            size=model.size,
            unmeasured=unmeasured,
        )
    except EffnetsError as error:
        # The others took minutes perhaps, and are worth as much without this one.
        unmeasured.failed.append(f"{model.label}: {str(error).removeprefix(f'{model.spec.name}: ')}")
        return []
    contest = Contest(network, model.label, model.size, programs, unmeasured)
    if how.memory:
        contest.measure_memory(max(how.batches))
    rows: list[Row] = []
    for turn, batch in enumerate(how.batches):
        part = partial(_part(tell, turn, len(how.batches)), f"{model.label}, {batch}")
        rows += contest.hold(batch, ceiling, rounds=how.rounds, processor_time=how.processor_time, progress=part)
    return rows


def _part(tell: Progress, index: int, count: int) -> Progress:
    """What tells of part `index` of `count` equal ones."""
    return lambda what, share: tell(what, (index + share) / count)
