"""`scale`: a network of the zoo at the width and input size that fit a budget. Free of torch but for latency."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import yaml

from effnets.errors import ArgumentError, ExportError
from effnets.spec.entries import encode_entry, is_model_name
from effnets.spec.models import list_models, load_spec
from effnets.spec.scaling import (
    COST_UNITS,
    ENOUGH,
    ScaledModel,
    ScaleLimits,
    check_sizes,
    choose_scaled,
    scale_candidates,
    smallest,
    wider,
)
from effnets.spec.specs import ModelSpec
from effnets.utils.arguments import check_integer
from effnets.utils.atomic_file import write_whole

# Latency as a power of multiply-adds, where only one network is measured.
_POWER = 0.85
_ROUNDS = 8
# A new network is to take this share of the limit, since a measurement varies.
_AIM = 0.95
_YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleReport:
    """A network scaled to a budget.

    Attributes:
        original: what was scaled. limits: the budget.
        chosen: the network that was taken. candidates: the widest within the budget for each input size, it among them.
        engine: that latency was measured on; None if it was not.
        notes: what else is to be said, such as why less than 90 % of the tightest limit is used.
    """

    original: ModelSpec
    limits: ScaleLimits
    chosen: ScaledModel
    candidates: tuple[ScaledModel, ...]
    engine: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def tightest(self) -> tuple[str, float]:
        """The limit that is used most, such as ``max_madds``, and its share that is."""
        return max(self.limits.shares(self.chosen).items(), key=lambda pair: pair[1])

    def __str__(self) -> str:
        limit, share = self.tightest
        costs = ", ".join(
            describe(getattr(self.chosen, name))
            for name, describe in COST_UNITS.items()
            if getattr(self.chosen, name) is not None
        )
        return (
            f"{self.original.name} with α = {self.chosen.width:g} at {self.chosen.input_size}×{self.chosen.input_size} "
            f"(ρ = {self.chosen.resolution:.3g}): {costs}; {100 * share:.1f} % of {limit}"
        )


Measure = Callable[[ScaledModel], float]


def scale(
    model: str | os.PathLike[str] | ModelSpec,
    *,
    max_params: float | None = None,
    max_madds: float | None = None,
    max_memory: float | None = None,
    max_latency: float | None = None,
    sizes: Sequence[int] | None = None,
    num_classes: int | None = None,
    output: str | os.PathLike[str] | None = None,
    measure: bool = False,
    engine: str = "auto",
    threads: int | None = None,
    progress: Callable[[str, float], object] | None = None,
) -> ScaleReport:
    """Scale a network to a budget by width multiplier α and resolution multiplier ρ (arXiv:1704.04861, 3.3 and 3.4).

    For each input size the widest network within all limits is found, by arithmetic; of these
    `effnets.spec.scaling.choose_scaled` takes the one with the most multiply-adds, of about equal ones the one that
    shrinks α and ρ most alike. At least 90 % of the tightest limit is used, unless rounded channels prevent it, which
    `notes` then say. Latency is measured, with random weights, and brought near its limit by a few measurements.

    Args:
        model: a name of the zoo, a YAML file, or a spec.
        max_params: parameters. max_madds: multiply-adds for one image.
        max_memory: bytes that feature maps of one image take at most in float32 (`effnets.spec.cost.peak_memory`).
        max_latency: milliseconds of one call with one image.
        sizes: sides of the input in pixels; None: multiples of 32 up to the model's own, and that.
        num_classes: outputs of the classifier, whose parameters count; None: the model's.
        output: a new YAML file to write, which `effnets.create_model` builds.
        measure: measure the latency of all candidates, also without a limit.
        engine: as of ``effnets choose``. threads: of the engine; None leaves them to it.
        progress: called with what is measured, and the share of the measurements.

    Raises:
        ArgumentError: no limit is given, one is no positive number, or nothing fits: the message says what the smallest
            candidate needs. UnknownModelError, ConfigError: as `effnets.load_spec`.
        ExportError: `output` cannot be written, or exists. EngineError: no engine to measure on.
    """
    limits = ScaleLimits(max_params=max_params, max_madds=max_madds, max_memory=max_memory, max_latency=max_latency)
    if not limits.given:
        names = ", ".join(field.name for field in fields(limits))
        raise ArgumentError(f"no limit is given; give at least one of {names}")
    path = None if output is None else _check_output(Path(output))
    original = load_spec(model)
    if num_classes is not None:
        original = replace(original, num_classes=check_integer("num_classes", num_classes, 1, "it must be at least 1"))
    possible = check_sizes(sizes, original)
    clock = None
    if max_latency is not None or measure:
        from effnets.search.latency import LatencyMeter

        clock = LatencyMeter(engine, threads, progress)
    arithmetic = replace(limits, max_latency=None)
    candidates = scale_candidates(original, arithmetic, possible)
    if not candidates:
        raise ArgumentError(_unsatisfiable(original, limits, smallest(original, possible)))
    if clock is not None and max_latency is not None:
        candidates = _fit_latency(original, limits, possible, clock)
    if clock is not None and measure:
        candidates = [_timed(candidate, clock) for candidate in candidates]
    timed = [candidate for candidate in candidates if max_latency is None or candidate.latency is not None]
    chosen = choose_scaled(timed, limits, original)
    if chosen is None:
        raise ArgumentError(_unsatisfiable(original, limits, min(timed, key=lambda one: one.latency or 0.0)))
    report = ScaleReport(
        original=original,
        limits=limits,
        chosen=chosen,
        candidates=tuple(candidates),
        engine=None if clock is None else clock.engine,
        notes=_notes(original, limits, chosen),
    )
    if path is not None:
        _write(path, report)
    return report


def _timed(model: ScaledModel, clock: Measure) -> ScaledModel:
    return model if model.latency is not None else replace(model, latency=clock(model))


def _fit_latency(original: ModelSpec, limits: ScaleLimits, sizes: Sequence[int], clock: Measure) -> list[ScaledModel]:
    """Return candidates of about the multiply-adds that the latency allows, those measured among them.

    A limit of latency becomes one of multiply-adds, between the nearest measured networks below and above it.
    """
    arithmetic = replace(limits, max_latency=None)
    bounded = bool(arithmetic.given)
    within_multiply_adds = arithmetic if bounded else replace(arithmetic, max_madds=_own_madds(original, sizes))
    measured: dict[tuple[float, int], ScaledModel] = {}
    limit = limits.max_latency or math.inf
    for number in range(_ROUNDS):
        candidates = scale_candidates(original, within_multiply_adds, sizes)
        model = choose_scaled(candidates, within_multiply_adds, original) or smallest(original, sizes)
        key = model.width, model.input_size
        if key in measured:
            break
        model = measured[key] = _timed(model, clock)
        latency = model.latency or math.inf
        if ENOUGH * limit <= latency <= limit or (bounded and not number and latency <= limit):
            break
        madds = min(_madds_for(_AIM * limit, list(measured.values())), arithmetic.max_madds or math.inf)
        within_multiply_adds = replace(arithmetic, max_madds=madds)
    by_key = {(model.width, model.input_size): model for model in (*candidates, *measured.values())}
    return sorted(by_key.values(), key=lambda model: (model.input_size, model.width))


def _own_madds(original: ModelSpec, sizes: Sequence[int]) -> int:
    from effnets.spec.cost import count

    return count(original, max(sizes)).madds


def _madds_for(latency: float, measured: Sequence[ScaledModel]) -> float:
    """Foretell the multiply-adds that take `latency`: between two measured networks, or from the nearest one."""
    known = sorted((float(model.madds), model.latency or 0.0) for model in measured)
    below = [pair for pair in known if pair[1] <= latency]
    # The largest that is fast enough, and the next that is not: on a busy machine latencies are not in order.
    above = [pair for pair in known if pair[1] > latency and (not below or pair[0] > below[-1][0])]
    if below and above:
        (few, fast), (many, slow) = below[-1], above[0]
        share = math.log(latency / fast) / math.log(slow / fast)
        return few * (many / few) ** share
    madds, near = below[-1] if below else above[0]
    return madds * (latency / near) ** (1 / _POWER)


def _unsatisfiable(original: ModelSpec, limits: ScaleLimits, model: ScaledModel) -> str:
    shares = limits.shares(model)
    broken = [
        f"{COST_UNITS[name.removeprefix('max_')](getattr(model, name.removeprefix('max_')))} ({name} is "
        f"{getattr(limits, name):,.10g})"
        for name, share in shares.items()
        if share > 1
    ]
    advice = "raise the limit, or choose a smaller model"
    if "max_params" in shares and shares["max_params"] > 1:
        advice += "; the classifier has fewer parameters with fewer classes (num_classes)"
    return (
        f"{original.name}: no width and input size keep all limits: the smallest candidate, α = {model.width:g} at "
        f"{model.input_size}×{model.input_size}, needs {' and '.join(broken) or 'more at any width'}; {advice}"
    )


def _notes(original: ModelSpec, limits: ScaleLimits, chosen: ScaledModel) -> tuple[str, ...]:
    """Say why less than 90 % of the tightest limit is used, if so."""
    limit, share = max(limits.shares(chosen).items(), key=lambda pair: pair[1])
    if share >= ENOUGH:
        return ()
    text = f"only {100 * share:.1f} % of {limit} is used: "
    following = wider(chosen, original)
    if following is None:
        return (f"{text}α = {chosen.width:g} is the widest that is tried",)
    shares = limits.shares(following)
    if all(value <= 1 for value in shares.values()):  # of latency alone, which varies
        return (f"{text}measurements came no nearer; on a busy machine they vary",)
    name, value = max(shares.items(), key=lambda pair: pair[1])
    return (
        f"{text}channels are rounded to multiples of {original.divisor}, and the next wider network, "
        f"α = {following.width:g}, takes {100 * value:.1f} % of {name}",
    )


def _check_output(path: Path) -> Path:
    if path.suffix.lower() not in _YAML:
        raise ArgumentError(f"output is {str(path)!r}; give the file the suffix .yaml")
    if path.exists():
        raise ExportError(f"{path}: exists; name another file, or delete this one")
    if not path.parent.is_dir():
        raise ExportError(f"{path}: cannot be written: {path.parent} is not a folder; make it first")
    if not os.access(path.parent, os.W_OK):
        raise ExportError(f"{path}: cannot be written there; choose another place")
    return path


def _write(path: Path, report: ScaleReport) -> None:
    spec, original = report.chosen.spec, report.original
    name = path.stem if is_model_name(path.stem) and path.stem not in list_models() else "scaled"
    if original.name in list_models() and replace(original, num_classes=0) == replace(
        load_spec(original.name), num_classes=0
    ):
        entry = {"base": original.name, "width": spec.width, "input_size": spec.input_size}
        if spec.num_classes != load_spec(original.name).num_classes:
            entry["num_classes"] = spec.num_classes
    else:
        entry = encode_entry(spec)
    text = f"# {report}\n" + yaml.safe_dump({name: entry}, sort_keys=False, allow_unicode=True)
    try:
        write_whole(path, text.encode(), read_back=True)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from None
