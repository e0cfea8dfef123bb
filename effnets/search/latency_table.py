"""Foretell the latency of a network as the sum of its blocks', each measured once on this machine's engine.

A block alone says little of what it takes within a network: ONNX Runtime, for one, keeps feature maps in blocks of
channels between convolutions, and converts them at the borders of the graph. So a block's time is the difference
between a short network with and without it, both with the same borders; stem and first block are measured together.
A shared machine's speed changes within minutes: every round also times a reference network, in whose terms all is said.
With one thread the processor's time is counted, which no other program takes a part of.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from effnets.bench.choose import Network, architecture_of
from effnets.bench.latency import LatencyProfiler, pick_engine
from effnets.errors import ArgumentError
from effnets.spec.block_string import decode_block
from effnets.spec.models import load_spec
from effnets.spec.plan import BlockPlan, NetworkPlan, make_plan, unroll_blocks
from effnets.spec.specs import BlockSpec, ModelSpec
from effnets.utils.arguments import check_integer
from effnets.utils.timing import MeasurementCache, Timing, interleave

# The block of short networks that is in both: its output, like any block's, lies in the engine's own layout.
_BASE = decode_block("cn_r1_k1_s1_c8")
_REFERENCE = "mixnet_xs_32px"
_ROUNDS = 11
_TOGETHER = 16  # pieces that are timed in turns, and kept when they are done
_LEAST = 1e-6  # milliseconds; a block cannot take less than nothing, though a difference may
_FIT_LEAST = 3  # networks, for a line

Progress = Callable[[str, float], object]


@dataclass(frozen=True, slots=True)
class Piece:
    """What is measured: the time of `longer` less that of `shorter`; `shorter` None: all of it.

    Attributes:
        name: for progress, such as ``block 3 at 16``. key: JSON of all that its time depends on, beside the engine.
        longer, shorter: networks. size: side of their input in pixels.
    """

    name: str
    key: str
    longer: ModelSpec
    shorter: ModelSpec | None
    size: int


def split_network(spec: ModelSpec, size: int) -> list[Piece]:
    """Split a network at an input of `size` into pieces: stem with first block, every other block, head.

    Pooling and classifier are in all short networks, so that what the pieces have too much of them cancels in the sum.
    """
    plan = make_plan(spec)
    rows = [block for stage in unroll_blocks(spec) for _, block in stage]
    pieces = []
    side = -(-size // plan.stem.stride)
    for number, (row, block) in enumerate(zip(rows, plan.blocks, strict=True), start=1):
        row = replace(row, repeats=1, channels=block.out_channels)
        name = f"block {number} at {side}"
        pieces.append(
            _stem_piece(spec, plan, row, block, size) if number == 1 else _block_piece(spec, row, block, side, name)
        )
        side = -(-side // block.stride)
    if plan.head or plan.hidden_channels:
        pieces.append(_head_piece(spec, plan, block.out_channels, side))
    return pieces


def _stem_piece(spec: ModelSpec, plan: NetworkPlan, row: BlockSpec, block: BlockPlan, size: int) -> Piece:
    longer = _short(spec, plan.stem.out_channels, (row,), stem_stride=plan.stem.stride)
    key = _key(spec, size, stem=asdict(plan.stem), block=_block_key(block))
    return Piece(f"stem at {size}", key, longer, None, size)


def _block_piece(spec: ModelSpec, row: BlockSpec, block: BlockPlan, side: int, name: str) -> Piece:
    base = replace(_BASE, channels=block.in_channels)
    longer, shorter = (_short(spec, block.in_channels, rows) for rows in ((base, row), (base,)))
    return Piece(name, _key(spec, side, block=_block_key(block)), longer, shorter, side)


def _head_piece(spec: ModelSpec, plan: NetworkPlan, channels: int, side: int) -> Piece:
    head = plan.head.out_channels if plan.head else 0
    base = replace(_BASE, channels=channels)
    longer = _short(spec, channels, (base,), head=head, head_hidden=plan.hidden_channels)
    key = _key(spec, side, channels=channels, head=head, hidden=plan.hidden_channels)
    return Piece(f"head at {side}", key, longer, _short(spec, channels, (base,)), side)


def _short(
    spec: ModelSpec,
    stem: int,
    blocks: tuple[BlockSpec, ...],
    *,
    stem_stride: int = 1,
    head: int = 0,
    head_hidden: int = 0,
) -> ModelSpec:
    """A short network of `spec`'s layers; all numbers of channels are final."""
    return replace(
        spec,
        name="part",
        stem=stem,
        stem_stride=stem_stride,
        stem_scaling="fixed",
        blocks=blocks,
        channels=None,
        head=head,
        head_scaling="fixed",
        head_hidden=head_hidden,
        width=1.0,
        depth=1.0,
    )


def _block_key(block: BlockPlan) -> dict[str, Any]:
    return asdict(replace(block, row=0))


def _key(spec: ModelSpec, size: int, **part: Any) -> str:
    shared = {"padding": spec.padding, "activation": spec.activation, "num_classes": spec.num_classes}
    return json.dumps({**part, **shared, "size": size}, sort_keys=True)


class LatencyTable:
    """Latencies of blocks on an engine of this machine, measured when they are first asked for, and kept.

    Args:
        engine: as of `effnets.bench.latency.pick_engine`.
        threads: of the engine; None leaves them to it. With 1 other programs disturb the measurements least.
        size: side of the networks' input in pixels.
        path: a folder for measurements; None: the user's, that ``effnets choose`` has as well.
        progress: called with what is measured, and the share of the measurements that is done.

    Attributes:
        engine: its name. size: as given.
        correction: (a, b): a network is foretold to take a + b · the sum of its pieces, in milliseconds; see `fit`.
        measured: how many pieces and whole networks were measured rather than read.

    Raises:
        ArgumentError, EngineError: as `pick_engine`; or if `size` or `threads` is out of range.
    """

    def __init__(
        self,
        engine: str = "auto",
        threads: int | None = None,
        size: int = 224,
        path: Path | None = None,
        *,
        progress: Progress | None = None,
    ) -> None:
        self.size = check_integer("size", size, 8, "an input has at least 8 pixels on a side")
        self.engine = pick_engine(engine)
        self.correction = (0.0, 1.0)
        self.measured = 0
        self._profiler = LatencyProfiler(self.engine, threads=threads)
        self._store = MeasurementCache.default() if path is None else MeasurementCache(path)
        self._progress = progress or (lambda _what, _share: None)
        self._known: dict[str, float] = {}

    def predict(self, spec: ModelSpec) -> float:
        """Return the latency of one image in milliseconds, as the pieces say; measures those that are missing.

        Raises:
            ExportError, EngineError: if a block cannot be measured.
        """
        offset, factor = self.correction
        return offset + factor * self.total([spec])[0]

    def total(self, specs: Sequence[ModelSpec]) -> list[float]:
        """Return the sums of the pieces of several networks in milliseconds, without correction; raises as `predict`.

        What is missing of all of them is measured together, which takes less time.
        """
        parts = [split_network(spec, self.size) for spec in specs]
        self._measure([piece for pieces in parts for piece in pieces])
        return [sum(self._known[piece.key] for piece in pieces) for pieces in parts]

    def measure(self, spec: ModelSpec) -> float:
        """Return the latency of the whole network in milliseconds, measured or kept; raises as `predict`."""
        return self.measure_all([spec])[0]

    def measure_all(self, specs: Sequence[ModelSpec]) -> list[float]:
        """Return the latencies of several whole networks, as `measure`; the missing ones are measured in turns."""
        pieces = [_whole(spec, self.size) for spec in specs]
        self._measure(pieces)
        return [self._known[piece.key] for piece in pieces]

    def fit(self, specs: Sequence[ModelSpec]) -> tuple[float, float]:
        """Fit `correction` to the whole latencies of some networks, by least squares of relative errors; return it.

        Raises:
            ArgumentError: if there are fewer than three different sums. As `predict`.
        """
        sums, whole = np.array(self.total(specs)), np.array(self.measure_all(specs))
        if len(set(sums)) < _FIT_LEAST:
            raise ArgumentError(f"a line is fitted to {len(set(sums))} different networks; give at least {_FIT_LEAST}")
        (offset, factor), *_ = np.linalg.lstsq(np.stack([1 / whole, sums / whole], axis=1), np.ones(len(sums)))
        self.correction = float(offset), float(factor)
        return self.correction

    def _measure(self, pieces: Sequence[Piece]) -> None:
        """Look pieces up, and time the missing ones in turns, those with the same base together."""
        missing: dict[str, Piece] = {}
        for piece in pieces:
            if piece.key not in self._known:
                timing = self._read(piece.key)
                if timing is None:
                    missing[piece.key] = piece
                else:
                    self._known[piece.key] = timing.median
        ordered = sorted(missing.values(), key=lambda piece: (piece.size, str(piece.shorter), piece.key))
        for start in range(0, len(ordered), _TOGETHER):
            group = ordered[start : start + _TOGETHER]
            timings = self._time(group, start / len(ordered), len(group) / len(ordered))
            for piece, timing in zip(group, timings, strict=True):
                self._known[piece.key] = timing.median
                self._write(piece.key, timing)
                self.measured += 1

    def _time(self, group: Sequence[Piece], done: float, share: float) -> list[Timing]:
        reference = load_spec(_REFERENCE)
        networks = {_name(reference, reference.input_size): self._runner(reference, reference.input_size)}
        for number, piece in enumerate(group):
            self._progress(f"preparing {piece.name}", done + 0.5 * share * number / len(group))
            for spec in (piece.longer, piece.shorter):
                if spec is not None and (name := _name(spec, piece.size)) not in networks:
                    networks[name] = self._runner(spec, piece.size)

        def progress(part: float) -> None:
            self._progress(f"timing {len(networks)} networks", done + share * (0.5 + 0.5 * part))

        timings = interleave(networks, rounds=_ROUNDS, progress=progress, processor_time=self._profiler.threads == 1)
        scales = self._scales(timings[_name(reference, reference.input_size)])
        found = []
        for piece in group:
            longer = timings[_name(piece.longer, piece.size)].samples
            shorter = timings[_name(piece.shorter, piece.size)].samples if piece.shorter else (0.0,) * len(longer)
            rounds = zip(longer, shorter, scales, strict=True)
            found.append(Timing(tuple(max(_LEAST, (one - other) * scale) for one, other, scale in rounds)))
        return found

    def _scales(self, reference: Timing) -> list[float]:
        """By what each round's durations are multiplied, so that the reference takes as long as it first did."""
        key = json.dumps({"reference": _REFERENCE})
        first = self._read(key)
        if first is None:
            first = reference
            self._write(key, first)
        return [first.median / sample for sample in reference.samples]

    def _conditions(self, key: str) -> dict[str, Any]:
        clock = "processor" if self._profiler.threads == 1 else "wall"
        return {**self._profiler.shared_conditions, "clock": clock, "piece": json.loads(key)}

    def _read(self, key: str) -> Timing | None:
        return self._store.read(self._conditions(key))[0]

    def _write(self, key: str, timing: Timing) -> None:
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._store.write(self._conditions(key), timing, when=when)

    def _runner(self, spec: ModelSpec, size: int) -> Callable[[], object]:
        engine = self._profiler.load(Network(spec.name, size, architecture_of(spec), spec))
        images = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
        return partial(engine, images)


def _whole(spec: ModelSpec, size: int) -> Piece:
    key = json.dumps({"network": architecture_of(spec), "size": size})
    return Piece(spec.name, key, spec, None, size)


def _name(spec: ModelSpec, size: int) -> str:
    return f"{architecture_of(spec)} at {size}"
