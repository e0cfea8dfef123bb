"""Check and measure effnets on one GPU, within a limit of time: GPU.md with tables, gpu.json with every figure.

uv run scripts/gpu_report.py [--output gpu_report] [--seconds 480] [--models mixnet_m,…] [--dry-run]

First what must be right: the Triton kernels at every layer shape of MixNet-S, M and L, and whole networks, against
float64. Then what is measured, beside timm's networks with the same weights: inference, training steps, single layers,
engines, and at last, since it takes longest, what torch.compile makes of them. What the time does not suffice for is
listed as left out; so is what needs a package that is not installed. The exit status is 1 if anything was wrong or
failed.

--dry-run rehearses all of it on a CPU, with small networks and images, and the kernels in Triton's interpreter: its
times say nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from gpu_report_rows import SECTIONS, Report

MODELS = "mixnet_m,mobilenetv2_100,mobilenetv1_100,rexnet_100,mixnet_s,mixnet_l,rexnet_150"
DRY_MODELS = "mixnet_s,mobilenetv2_035"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu_report"), help="a folder, made if missing")
    parser.add_argument("--seconds", type=float, default=480, help="that all may take [default: 480]")
    parser.add_argument("--models", help=f"with commas [default: {MODELS}]")
    parser.add_argument("--parts", help="of these alone: " + ", ".join(SECTIONS) + ", compiled [default: all]")
    parser.add_argument("--dry-run", action="store_true", help="rehearse on a CPU, with small networks")
    options = parser.parse_args(arguments)
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    from gpu_report_parts import PARTS, Bench

    names = list(PARTS) if options.parts is None else options.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts {','.join(unknown)}: choose from {', '.join(PARTS)}")
    bench = Bench.open(dry=options.dry_run)
    if bench is None:
        print("torch finds no GPU; --dry-run rehearses the report on a CPU", file=sys.stderr)
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    report = Report(options.output, options.seconds, options.dry_run, bench.facts())
    models = (options.models or (DRY_MODELS if options.dry_run else MODELS)).split(",")
    for name in names:
        PARTS[name](report, bench, models)
    report.facts["seconds"] = f"{time.perf_counter() - report.begin:.0f} of {options.seconds:g}"
    report.save()
    print(f"{options.output / 'GPU.md'}: {len(report.rows)} rows, {len(report.wrong)} wrong or failed")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # a compilation that was cut off may go on in threads, which an ordinary exit waits for
