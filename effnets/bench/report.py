"""What a benchmark found, and how it is printed. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from effnets.bench.roofline import Ceiling
from effnets.bench.variants import OURS
from effnets.utils.machine import Load, Machine

__all__ = ["BenchReport", "Row", "Verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One program at one batch size.

    Attributes:
        model: as it was asked for, with its tag; of a file the network's name.
        milliseconds, quartiles: for one image: median, and between what half of the rounds lie.
        speedups: how many times faster than each peer's program of the same engine.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The fastest of our programs against the fastest of all peers', in whichever engine."""

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
        """For each model and batch, where both sides have a program."""
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
                "ours": _program(verdict.ours),
                "theirs": _program(verdict.theirs),
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
        over = [f"over {peer}" for peer in self.peers()]
        memory = ["peak MB"] if any(row.megabytes for row in self.rows) else []
        model = ["model", *(["input"] if len(self.sizes()) > 1 else [])]
        return [*model, "batch", "engine", "program", "ms/image", "quartiles", *over, "difference", "ceiling", *memory]

    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [self._cells(row) for row in self.rows]

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
            f"{verdict.model}, batch {verdict.batch}: {_program(verdict.ours)} is {verdict.speedup:.2f} times as fast "
            f"as the peers' best, {_program(verdict.theirs)}"
            for verdict in self.verdicts()
        ]

    def markdown(self) -> str:
        """Everything as Markdown."""
        columns = self.columns()
        left = ("model", "engine", "program")
        lines = [*self.heading(), "", _line(columns), _line("---" if column in left else "---:" for column in columns)]
        lines += [_line(cells) for cells in self.cells()]
        lines += ["", *(f"- {line}" for line in self.best_lines())]
        return "\n".join([*lines, *(f"- not measured: {reason}" for reason in self.missing)]) + "\n"

    def _cells(self, row: Row) -> list[str]:
        low, high = row.quartiles
        over = [f"{row.speedups[peer]:.2f}" if peer in row.speedups else "" for peer in self.peers()]
        cells = [row.model, *([self.size_of(row.model)] if "input" in self.columns() else []), str(row.batch)]
        cells += [row.engine, row.path, f"{row.milliseconds:.2f}", f"{low:.2f}–{high:.2f}"]
        cells += [*over, f"{row.difference:.0e}", f"{100 * row.ceiling_share:.0f} %"]
        if "peak MB" in self.columns():
            cells.append(f"{row.megabytes:.0f}" if row.megabytes else "")
        return cells


def _fastest(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: row.milliseconds)


def _program(row: Row) -> str:
    return f"{row.path} on {row.engine}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
