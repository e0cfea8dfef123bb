"""What a benchmark found, and how it is printed. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from effnets.bench.roofline import Ceiling
from effnets.bench.variants import OURS
from effnets.utils.machine import Load, Machine

TEXT_COLUMNS = ("model", "engine", "variant")  # the others hold numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant at one batch size.

    Attributes:
        model: as it was asked for, with its tag; of a file the network's name.
        milliseconds, quartiles: for one image: median, and between what half of the rounds lie.
        speedups: how many times faster than each peer's variant of the same engine.
        difference: largest difference of logits from our network's in float64, as a share of the largest (or of 1).
        ceiling_share: of the speed that the machine's ceiling allows (`effnets.bench.roofline`).
        megabytes: peak memory of a process that executes it; None if not measured.
    """

    model: str
    batch: int
    engine: str
    path: str
    milliseconds: float
    quartiles: tuple[float, float]
    speedups: dict[str, float]
    difference: float
    ceiling_share: float
    megabytes: float | None = None

    @property
    def variant(self) -> str:
        """``effnets rewritten on openvino``."""
        return f"{self.path} on {self.engine}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The fastest of our variants against the fastest of all peers', in whichever engine."""

    model: str
    batch: int
    ours: Row
    theirs: Row

    @property
    def speedup(self) -> float:
        """How many times faster ours is."""
        return self.theirs.milliseconds / self.ours.milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """Rows, and what they hold for.

    Attributes:
        load: running processes at the beginning and at the end, on average over a minute: above the number of cores,
            others disturbed the times; None where the system does not tell.
        clock: ``time``, or ``processor time``. image_size: (height, width) in pixels, by `Row.model`.
        missing: what was asked for and not measured, with the reason. absent: those reasons of `missing` that are only
            a peer's lack of the network. untold: those that are only what this system does not tell.
    """

    machine: Machine
    ceiling: Ceiling
    threads: int
    precision: str
    rounds: int
    clock: str
    image_size: dict[str, tuple[int, int]]
    load: Load
    rows: tuple[Row, ...]
    missing: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()

    def verdicts(self) -> list[Verdict]:
        """For each model and batch, where both sides have a variant."""
        found = []
        for model, batch in dict.fromkeys((row.model, row.batch) for row in self.rows):
            rows = [row for row in self.rows if (row.model, row.batch) == (model, batch)]
            ours = [row for row in rows if row.path in OURS]
            theirs = [row for row in rows if row.path not in OURS]
            if ours and theirs:
                found.append(Verdict(model=model, batch=batch, ours=_fastest(ours), theirs=_fastest(theirs)))
        return found

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        values = asdict(self) | {"machine": self.machine.to_dict()}
        values["best"] = [
            {
                "model": verdict.model,
                "batch": verdict.batch,
                "speedup": verdict.speedup,
                "ours": verdict.ours.variant,
                "theirs": verdict.theirs.variant,
            }
            for verdict in self.verdicts()
        ]
        return values

    def size_of(self, model: str) -> str:
        """The size of a model's images as text, ``224×224``."""
        height, width = self.image_size[model]
        return f"{height}×{width}"

    def sizes(self) -> list[str]:
        """All sizes of images among the rows."""
        return list(dict.fromkeys(self.size_of(row.model) for row in self.rows))

    def columns(self) -> list[str]:
        """Headings of `cells`; sizes are a column where there are several, and else stand in the heading."""
        return list(self._table())

    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [[text(row) for text in self._table().values()] for row in self.rows]

    def _table(self) -> dict[str, Callable[[Row], str]]:
        """Column → the text of a row in it."""
        input_size = {"input": lambda row: self.size_of(row.model)} if len(self.sizes()) > 1 else {}
        peak = {"peak MB": lambda row: f"{row.megabytes:.0f}" if row.megabytes else ""}
        return {
            "model": lambda row: row.model,
            **input_size,
            "batch": lambda row: str(row.batch),
            "engine": lambda row: row.engine,
            "variant": lambda row: row.path,
            "ms/image": lambda row: f"{row.milliseconds:.2f}",
            "quartiles": lambda row: "{:.2f}–{:.2f}".format(*row.quartiles),
            **{f"over {peer}": partial(_speedup, peer) for peer in self.peers()},
            "difference": lambda row: f"{row.difference:.0e}",
            "ceiling": lambda row: f"{100 * row.ceiling_share:.0f} %",
            **(peak if any(row.megabytes for row in self.rows) else {}),
        }

    def peers(self) -> list[str]:
        """Those that a row compares with."""
        return list(dict.fromkeys(peer for row in self.rows for peer in row.speedups))

    def heading(self) -> list[str]:
        """What the rows hold for, in lines."""
        versions = ", ".join(f"{name} {version}" for name, version in self.machine.versions.items())
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        load = "" if self.load is None else f"; load {self.load[0]:.1f} to {self.load[1]:.1f}"
        sizes = self.sizes()
        images = f"images of {sizes[0]}" if len(sizes) == 1 else "images of several sizes"
        return [
            str(self.machine),
            versions,
            f"{threads}, {self.precision}, {images}, medians of {self.rounds} interleaved rounds in {self.clock}{load}",
            f"ceiling: {self.ceiling.gflops:.0f} GFLOP/s (matrix product), {self.ceiling.bandwidth:.1f} GB/s (copy)",
        ]

    def best_lines(self) -> list[str]:
        """The verdicts as text."""
        return [
            f"{verdict.model}, batch {verdict.batch}: {verdict.ours.variant} is {verdict.speedup:.2f} times as fast "
            f"as the peers' best, {verdict.theirs.variant}"
            for verdict in self.verdicts()
        ]

    def markdown(self) -> str:
        """Everything as Markdown."""
        columns = self.columns()
        rule = _line("---" if column in TEXT_COLUMNS else "---:" for column in columns)
        lines = [*self.heading(), "", _line(columns), rule]
        lines += [_line(cells) for cells in self.cells()]
        lines += ["", *(f"- {line}" for line in self.best_lines())]
        return "\n".join([*lines, *(f"- not measured: {reason}" for reason in self.missing)]) + "\n"


def _fastest(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: row.milliseconds)


def _speedup(peer: str, row: Row) -> str:
    return f"{row.speedups[peer]:.2f}" if peer in row.speedups else ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
