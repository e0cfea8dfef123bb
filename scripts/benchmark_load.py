"""Measure create_model from a cached safetensors file, here and in timm, interleaved in one process.

uv run scripts/benchmark_load.py [MODEL] [ROUNDS]

The cache is a temporary one that holds weights of timm's own network, freshly initialised; nothing is fetched.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

COMMIT = "0" * 40


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "mixnet_m.ft_in1k"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 21
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(HF_HOME=folder, EFFNETS_HOME=f"{folder}/effnets", HF_HUB_OFFLINE="1")
        measure(name, rounds, Path(folder) / "hub")


def measure(name: str, rounds: int, cache: Path) -> None:
    import timm  # here, as huggingface_hub reads its environment when it is imported
    import torch
    from safetensors.torch import save

    import effnets
    from effnets.spec.weights import find_weights

    weights = find_weights(name)
    architecture = str(weights.repo).removeprefix("timm/")
    fill(cache, str(weights.repo), weights.file, save(timm.create_model(architecture).state_dict()))
    programs: dict[str, Callable[[], object]] = {
        "timm": lambda: timm.create_model(architecture, pretrained=True),
        "effnets": lambda: effnets.create_model(name, pretrained=True),
    }
    seconds: dict[str, list[float]] = {program: [] for program in programs}
    for create in programs.values():  # imports, and the file's hash
        create()
    for _ in range(rounds):
        for program, create in programs.items():
            start = time.perf_counter()
            create()
            seconds[program].append(time.perf_counter() - start)
    peer = statistics.median(seconds["timm"])
    print(f"{name}, cached; torch {torch.__version__} on {torch.get_num_threads()} threads, timm {timm.__version__}")
    print(f"{rounds} interleaved rounds\n")
    print("| create_model | median (ms) | ratio to timm |")
    print("|---|---:|---:|")
    for program, times in seconds.items():
        median = statistics.median(times)
        print(f"| {program} | {1000 * median:.1f} | {median / peer:.2f} |")


def fill(cache: Path, repo: str, file: str, content: bytes) -> None:
    """Put a file where huggingface_hub would have put it."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    link = folder / "snapshots" / COMMIT / file
    for path in (blob, link, folder / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.symlink_to(blob)
    (folder / "refs" / "main").write_text(COMMIT, encoding="ascii")


if __name__ == "__main__":
    main()
