"""Measure effnets.optimize against timm's eager model and effnets' own, interleaved in one process.

uv run scripts/benchmark_rewrite.py [--models mixnet_m,rexnet_100] [--batches 1,16] [--rounds 15] [--threads 2]
    [--size 224] [--compile] [--cpu-time]

Every round runs each program once, so that other load on the machine affects all of them. With ``--compile`` timm's
and the optimized network are also compiled by torch.compile. ``--cpu-time`` measures the process's processor time
instead of the clock's: a busy machine disturbs it less, but it does not show how well threads share the work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

import effnets
from effnets.deploy.optimize.rewrites import Rewrites

MODELS = "mixnet_m,rexnet_100,mobilenetv2_100,mobilenetv1_100"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    what = "processor time" if arguments.cpu_time else "time"
    print(f"torch {torch.__version__} on {arguments.threads} threads, timm {timm.__version__}; {arguments.size} pixels")
    print(f"medians of {arguments.rounds} interleaved rounds, {what}\n")
    print("| model | batch | program | ms / image | quartiles | over timm |")
    print("|---|---:|---|---:|---:|---:|", flush=True)
    for name in arguments.models.split(","):
        programs = make_programs(name, arguments.compile)
        for batch in map(int, arguments.batches.split(",")):
            x = torch.randn(batch, 3, arguments.size, arguments.size)
            report(name, batch, measure(programs, x, arguments.rounds, clock))


def make_programs(name: str, compiled: bool) -> dict[str, nn.Module]:
    theirs, ours = timm.create_model(name).eval(), effnets.create_model(name).eval()
    programs: dict[str, nn.Module] = {
        "timm": theirs,
        "effnets": ours,
        "by hand": effnets.optimize(ours, Rewrites(shortcut="inplace", channels_last=True)),
        "optimize": effnets.optimize(ours),
    }
    if compiled:
        plain = Rewrites(shortcut="pad", channels_last=True)
        programs["timm, compiled"] = torch.compile(theirs)
        programs["optimize, compiled"] = torch.compile(effnets.optimize(ours))
        programs["optimize without fuse, compiled"] = torch.compile(effnets.optimize(ours, plain))
    return programs


@torch.inference_mode()
def measure(
    programs: dict[str, nn.Module], x: Tensor, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of every program in every round."""
    seconds: dict[str, list[float]] = {program: [] for program in programs}
    for _ in range(2):
        for model in programs.values():
            model(x)
    for _ in range(rounds):
        for program, model in programs.items():
            start = clock()
            model(x)
            seconds[program].append(clock() - start)
    return seconds


def report(name: str, batch: int, seconds: dict[str, list[float]]) -> None:
    peer = statistics.median(seconds["timm"])
    for program, times in seconds.items():
        low, median, high = statistics.quantiles([1000 * one / batch for one in times], n=4)
        ratio = 1000 * peer / batch / median
        print(f"| {name} | {batch} | {program} | {median:.2f} | {low:.2f}–{high:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
