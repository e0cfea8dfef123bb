"""Measure how long a verified export to ONNX takes from a cold start, and timm's unverified one.

    uv run scripts/export_time.py [--models …] [--rounds 5] [--before FOLDER] [--processor-time]

Every side is a process of its own, which imports, builds the network with random weights, exports it at its size, and
ends; sides take turns, so that what else the machine does falls on all. timm exports by its own `onnx_export`, with
torch's current exporter, its optimizer and onnx's checker as it does, and by the older exporter, its default.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODELS = "mobilenetv1_100,mobilenetv2_100,mixnet_s,mixnet_m,mixnet_l,rexnet_100"
_OURS = "import effnets, sys; effnets.export_onnx(effnets.create_model(sys.argv[1]), sys.argv[2])"
_TIMM = (
    "import sys, timm; from timm.utils.onnx import onnx_export; "
    "onnx_export(timm.create_model(sys.argv[1]), sys.argv[2], batch_size=1, use_dynamo={dynamo})"
)
_EARLIER, _NOW, _PEER, _OLDER = "before", "effnets", "timm", "timm, TorchScript"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS, help="models that timm has too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version, measured too")
    parser.add_argument(
        "--processor-time", action="store_true", help="of one thread instead of the clock's, for a busy machine"
    )
    arguments = parser.parse_args()
    measure = partial(run, before=arguments.before, processor_time=arguments.processor_time)
    sides = {_EARLIER: _OURS} if arguments.before else {}
    sides |= {_NOW: _OURS, _PEER: _TIMM.format(dynamo=True), _OLDER: _TIMM.format(dynamo=False)}
    measure(_NOW, _OURS, "mobilenetv1_025")  # fills the disk's cache
    print(f"| model | {' | '.join(f'{side} (s)' for side in sides)} | over timm | over TorchScript |")
    print(f"|---|{'---:|' * (len(sides) + 2)}", flush=True)
    for model in arguments.models.split(","):
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(arguments.rounds):
            for side, program in sides.items():
                seconds[side].append(measure(side, program, model))
        median = {side: statistics.median(times) for side, times in seconds.items()}
        cells = [f"{value:.1f}" for value in median.values()]
        cells += [f"{median[_NOW] / median[peer]:.2f}" for peer in (_PEER, _OLDER)]
        print(f"| {model} | {' | '.join(cells)} |", flush=True)


def run(side: str, program: str, model: str, before: Path | None, processor_time: bool) -> float:
    """Return the seconds that a process takes."""
    environment = {**os.environ, "PYTHONPATH": str(before.resolve() if before and side == _EARLIER else ROOT)}
    if processor_time:
        environment["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-c", program, model, str(Path(folder) / "model.onnx")]
        start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, cwd=folder
        )
        taken, now = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime if processor_time else taken


if __name__ == "__main__":
    main()
