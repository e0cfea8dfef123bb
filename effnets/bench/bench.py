"""`bench`: our variants of networks and other libraries' against each other, in one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from effnets.bench.baselines import check_baselines
from effnets.bench.comparison import Comparison
from effnets.bench.memory import UNKNOWN_PEAK, measures_peak
from effnets.bench.report import BenchReport, Row
from effnets.bench.roofline import measure_ceiling
from effnets.bench.variants import Unmeasured, check_engines, make_variants, shake
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
class _Model:
    """A model, by the name that was resolved for, and what its rows are called."""

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

    All variants of a network at one batch size take turns, so that ratios hold on a busy machine too. Before it is
    timed, the logits of each are compared with our network's in float64. A network that cannot be exported or rewritten
    costs only itself.

    Args:
        models: names of the zoo, with or without a tag, or YAML files; each is measured once.
        against: peers, of ``timm`` and ``torchvision``; a network that a peer has not is measured without it.
        engines: of ``torch``, ``torch-compile``, ``onnxruntime``, ``openvino``.
        batches: images at a time, each once. threads: None takes all cores. precision: ``float32`` or ``bfloat16``.
        rounds: samples of each variant. image_size: side in pixels, None for each network's own.
        memory: also start a process for each variant and take its peak, at the largest batch, where the system
            tells it.
        processor_time: see `effnets.utils.timing.interleave`.
        progress: called with what is being done and the share that is done, 0 to 1.

    Raises:
        ArgumentError: an argument out of range. EngineError: an engine or a peer is not installed, or all fail.
        VerificationError: one of our variants computes something else.
        UnknownModelError, MissingFileError, ConfigError: as `effnets.load_spec`, before anything is measured.
    """
    check_baselines(tuple(against))
    check_engines(engines, precision)
    if not models or not engines or not batches:
        raise ArgumentError("nothing to measure; name at least one model, one engine and one batch size")
    batches = list(dict.fromkeys(check_integer("batch", batch, 1, "a batch has at least 1 image") for batch in batches))
    resolved = _look_up(models, image_size)
    machine = describe_machine()
    threads = check_integer("threads", machine.cores if threads is None else threads, 1, "it must be at least 1")
    check_integer("rounds", rounds, 1, "it must be at least 1")
    report_progress = progress or (lambda _what, _share: None)
    untold = (UNKNOWN_PEAK,) if memory and not measures_peak() else ()
    conditions = {"against": against, "engines": engines, "precision": precision, "threads": threads}
    before, load = torch.get_num_threads(), load_average()
    torch.set_num_threads(threads)
    rows: list[Row] = []
    unmeasured = Unmeasured()
    try:
        ceiling = measure_ceiling(precision=precision)
        for index, model in enumerate(resolved):
            of_model = _part(report_progress, index, len(resolved))
            of_model(f"{model.label}: exporting", 0.0)
            comparison = _prepare(model, unmeasured, **conditions)
            if comparison is None:
                continue
            if memory and not untold:
                comparison.measure_memory(max(batches))
            for turn, batch in enumerate(batches):
                of_batch = partial(_part(of_model, turn, len(batches)), f"{model.label}, {batch}")
                rows += comparison.run(batch, ceiling, rounds=rounds, processor_time=processor_time, progress=of_batch)
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
        image_size={model.label: model.size for model in resolved},
        load=load_since(load),
        rows=tuple(rows),
        missing=missing,
        absent=tuple(unmeasured.absent),
        untold=untold,
    )


def _look_up(models: Sequence[str], image_size: int | None) -> list[_Model]:
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
        _Model(
            name=name,
            label=name if used[labels[name]] > 1 else labels[name],
            spec=spec,
            size=check_size(spec.input_size if image_size is None else image_size, "image_size"),
        )
        for name, spec in specs.items()
    ]


def _prepare(model: _Model, unmeasured: Unmeasured, **conditions: Any) -> Comparison | None:
    """The model's variants, ready to run; None if there are none, and the reason goes into `unmeasured`."""
    if "torch-compile" in conditions["engines"]:
        # What was compiled for one network does not serve the next, and torch limits how much it keeps.
        torch.compiler.reset()
    try:
        network = create_model(model.name)
        shake(network)
        variants = make_variants(network, label=model.label, size=model.size, unmeasured=unmeasured, **conditions)
    except EffnetsError as error:
        # The others took minutes perhaps, and are worth as much without this one.
        unmeasured.failed.append(f"{model.label}: {str(error).removeprefix(f'{model.spec.name}: ')}")
        return None
    return Comparison(network, model.label, model.size, variants, unmeasured)


def _part(report_progress: Progress, index: int, count: int) -> Progress:
    """What tells of part `index` of `count` equal ones."""
    return lambda what, share: report_progress(what, (index + share) / count)
