"""Measure the peak memory of a variant: the resident set of a process that does nothing else.

Free of torch, which would count in where a variant needs none.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from effnets.bench.variants import Variant
from effnets.errors import EngineError

# Reasons for a missing result, in a report.
UNKNOWN_PEAK = "peak memory, which this system does not tell of a process"

_STATUS = Path("/proc/self/status")


def measures_peak() -> bool:
    """Whether this system tells the peak memory of a process in one of the ways that are known here."""
    return _STATUS.exists() or find_spec("resource") is not None


def peak_memory(variant: Variant, shape: tuple[int, ...]) -> float:
    """Peak resident memory in MB (10⁶ bytes) of a process that loads a variant and executes images of `shape` twice.

    Interpreter and libraries are counted in: they are what a user's process takes.

    Raises:
        EngineError: the process fails.
    """
    # Standard input carries our own objects alone.
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=pickle.dumps((variant, shape)), capture_output=True, check=False
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise EngineError(f"{variant.name}: {lines[-1][:300]}")
    return float(done.stdout.split()[-1])


def _peak() -> float:
    """Of this process. What getrusage says may include the process that started it."""
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    """The child: a variant and a shape from standard input, the peak to standard output."""
    variant, shape = pickle.load(sys.stdin.buffer)
    call = variant.load()
    images = np.zeros(shape, np.float32)
    for _ in range(2):
        call(images)
    sys.stdout.write(f"\n{_peak():.1f}\n")


if __name__ == "__main__":
    main()
