"""Measure how long whole processes take from start to end, here and in timm, interleaved.

uv run scripts/cold_start.py [ROUNDS]
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

PEER = "timm: create_model"
PROGRAMS = {
    PEER: ["-c", "import timm; timm.create_model('mixnet_m')"],
    "effnets: create_model": ["-c", "import effnets; effnets.create_model('mixnet_m')"],
    "torch: import alone": ["-c", "import torch"],
    "effnets: list_models()": ["-c", "import effnets, sys; effnets.list_models(); assert 'torch' not in sys.modules"],
    "effnets list (command)": ["-m", "effnets", "list"],
}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for arguments in PROGRAMS.values():  # fill the disk's cache
        run(arguments)
    for _ in range(rounds):
        for name, arguments in PROGRAMS.items():
            seconds[name].append(run(arguments))
    peer = statistics.median(seconds[PEER])
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {version('torch')}, timm {version('timm')}")
    print(f"{rounds} interleaved rounds, whole processes\n")
    print("| process | median (s) | fastest to slowest (s) | ratio to timm |")
    print("|---|---:|---:|---:|")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"| {name} | {median:.2f} | {min(times):.2f} to {max(times):.2f} | {median / peer:.2f} |")


def run(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
