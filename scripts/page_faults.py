"""What large batches cost on a CPU: time and page faults of an image, eager, rewritten, and rewritten in parts.

    uv run scripts/page_faults.py [mobilenetv1_100 …] [--batch 16] [--rounds 5] [--threads 2]

Each variant runs in processes of its own, in turns, since what malloc keeps depends on what a process did before;
"kept" is the same with `effnets.utils.machine.keep_freed_memory`, which commands that train call. Prints medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace

MODELS = ["mixnet_m", "rexnet_100", "mobilenetv1_100", "mobilenetv2_100"]
VARIANTS = ["timm", "rewritten, whole", "rewritten, in parts", "timm, kept", "rewritten, whole, kept"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variant", help="measure this one alone, and print it as JSON")
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments.models[0], arguments.variant, arguments.batch, arguments.threads)))
        return
    print(f"| ms an image (page faults), batch {arguments.batch} | {' | '.join(VARIANTS)} |")
    print("| --- |" + " ---: |" * len(VARIANTS))
    for model in arguments.models:
        found: dict[str, list[list[float]]] = {variant: [] for variant in VARIANTS}
        for _ in range(arguments.rounds):
            for variant, rows in found.items():
                command = [sys.executable, __file__, model, "--variant", variant]
                command += ["--batch", str(arguments.batch), "--threads", str(arguments.threads)]
                rows.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        cells = [[statistics.median(column) for column in zip(*rows, strict=True)] for rows in found.values()]
        print(f"| {model} | {' | '.join(f'{ms:.1f} ({faults:,.0f})' for ms, faults in cells)} |", flush=True)


def measure(model: str, variant: str, batch: int, threads: int) -> tuple[float, float]:
    """Return the median milliseconds and the page faults of an image."""
    import timm
    import torch

    import effnets
    from effnets.deploy.optimize.rewrites import PRESETS
    from effnets.utils.machine import keep_freed_memory

    if variant.endswith("kept"):
        keep_freed_memory()
    torch.set_num_threads(threads)
    if variant.startswith("timm"):
        network = timm.create_model(model).eval()
    else:
        megabytes = PRESETS["torch"].micro_batch_mb if "parts" in variant else 0
        rewrites = replace(PRESETS["torch"], micro_batch_mb=megabytes)
        network = effnets.optimize(effnets.create_model(model), rewrites)
    images, times = torch.randn(batch, 3, 224, 224), []
    with torch.inference_mode():
        for _ in range(2):
            network(images)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(max(6, 64 // batch)):
            start = time.perf_counter()
            network(images)
            times.append(time.perf_counter() - start)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return 1000 * statistics.median(times) / batch, faults / batch / len(times)


if __name__ == "__main__":
    main()
