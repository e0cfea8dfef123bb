"""The rows of the report on a GPU (`gpu_report.py`): collected within a limit of time, as JSON and Markdown."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_RESERVE = 8  # seconds, to write the report

Row = dict[str, Any]


@dataclass(slots=True)
class Report:
    """The rows so far, saved after each, and the time that is left.

    Attributes:
        folder: of the report. seconds: that all may take.
    """

    folder: Path
    seconds: float
    dry: bool = False
    facts: Row = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    begin: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds until nothing may begin any more."""
        return self.seconds - _RESERVE - (time.perf_counter() - self.begin)

    def attempt(self, section: str, name: Row, work: Callable[[], Row], least: float = 2.0) -> Row:
        """Add a row: its name and what `work` found; or a note if it failed, or fewer than `least` seconds are left."""
        row = {"section": section, **name}
        if self.left < least:
            row |= {"state": "left out", "note": f"{max(0.0, self.left):.0f} s were left"}
        else:
            try:
                with time_limit(self.left):
                    row |= work()
            except TimeoutError:
                row |= {"state": "left out", "note": "cut off when the time was up"}
            except MissingError as error:
                row |= {"state": "missing", "note": str(error)}
            except Exception as error:  # of any library: the rows after it are worth as much without this one
                message = (str(error).strip() or type(error).__name__).splitlines()[0]
                row |= {"state": "failed", "note": f"{type(error).__name__}: {message[:200]}"}
                if self.left <= 0:  # a compiler's own error about the limit
                    row["state"] = "left out"
        row.setdefault("state", "ok")
        self.rows.append(row)
        print(f"{time.perf_counter() - self.begin:5.0f} s  {describe(row)}", flush=True)
        self.save()
        return row

    def save(self) -> None:
        """Write both files."""
        content = {"dry_run": self.dry, "facts": self.facts, "rows": self.rows}
        (self.folder / "gpu.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (self.folder / "GPU.md").write_text(document(self), encoding="utf-8")

    @property
    def wrong(self) -> list[Row]:
        """Rows that failed, or whose result is wrong."""
        return [row for row in self.rows if row["state"] in ("failed", "wrong")]


class MissingError(Exception):
    """A package is not installed, or a library lacks a network or a provider."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread after `seconds`, where the system has an interval timer."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def describe(row: Row) -> str:
    """A row on one line of the terminal."""
    hidden = ("section", "state", "note")
    values = " ".join(shown(value) for key, value in row.items() if key not in hidden)
    return f"{row['section']}: {values} {'' if row['state'] == 'ok' else row['state']} {row.get('note', '')}".rstrip()


def shown(value: object) -> str:
    """A value as tables have it."""
    if isinstance(value, float):
        if value == 0 or not math.isfinite(value):
            return f"{value:g}"
        return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return str(value)


# Section → heading, what a reader must know, and the columns of its table.
SECTIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "ceiling": (
        "Ceilings",
        "Measured in this run, GFLOP/s of a large matrix product and GB/s of a copy, read and written. The roofline of "
        "a network is the time in which every layer, one after another, does its arithmetic at the one or its traffic "
        "at the other, whichever takes longer.",
        ("precision", "gflops", "bandwidth"),
    ),
    "kernels": (
        "The kernels against float64",
        "Largest error relative to the largest value, or 1: output with bias and activation, gradients of input and "
        "weights. Allowed are 1e-4 in float32, 1e-2 in float16 and 3e-2 in bfloat16.",
        ("layer", "precision", "output", "input_gradient", "weight_gradient"),
    ),
    "networks": (
        "Networks against float64",
        "Logits of whole networks in float32 without TF32: largest error relative to the largest logit. Allowed: 1e-3.",
        ("model", "timm", "effnets", "optimized"),
    ),
    "inference": (
        "Inference",
        "Images are on the GPU. Each call is waited for, hence one image is latency. *roofline*: the share of the "
        "speed that the roofline allows.",
        ("model", "precision", "batch", "variant", "ms", "images_per_s", "roofline"),
    ),
    "training": (
        "Training steps",
        "Forward, backward and SGD under autocast to bfloat16, images on the GPU. *roofline*: of three times the "
        "forward pass's.",
        ("model", "batch", "variant", "ms", "images_per_s", "roofline"),
    ),
    "layers": (
        "Single mixed layers",
        "The Triton kernel and PyTorch's convolutions, ms for a batch in bfloat16: forward with bias and activation, "
        "and both gradients.",
        ("layer", "size", "batch", "kernel", "plain", "kernel_gradients", "plain_gradients"),
    ),
    "engines": (
        "Engines",
        "float32 without TF32 from and to the CPU's memory, as `effnets.load_engine` returns them.",
        ("model", "engine", "batch", "ms", "images_per_s"),
    ),
}


def document(report: Report) -> str:
    """The whole report in Markdown."""
    parts = ["# effnets on a GPU"]
    if report.dry:
        parts.append("**A rehearsal on a CPU: no time in it says anything.**")
    parts.append("\n".join(f"- {key}: {value}" for key, value in report.facts.items()))
    for section, (heading, text, columns) in SECTIONS.items():
        if rows := [row for row in report.rows if row["section"] == section and row["state"] in ("ok", "wrong")]:
            parts += [f"## {heading}", text, table(rows, columns)]
    for state, heading in (("wrong", "Wrong"), ("failed", "Failed"), ("missing", "Missing"), ("left out", "Left out")):
        if rows := [row for row in report.rows if row["state"] == state]:
            parts += [f"## {heading}", "\n".join(f"- {describe(row)}" for row in rows)]
    return "\n\n".join(parts) + "\n"


def table(rows: list[Row], columns: tuple[str, ...]) -> str:
    lines = ["| " + " | ".join(column.replace("_", " ") for column in columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(shown(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)
