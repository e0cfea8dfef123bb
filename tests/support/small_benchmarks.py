"""Benchmarks that take no time: one round of small networks on small images."""

from __future__ import annotations

from pathlib import Path

from effnets.bench.bench import bench
from effnets.bench.report import BenchReport

__all__ = ["quick", "write_table"]


def quick(*models: str, **arguments) -> BenchReport:
    quickly = {"image_size": 32, "rounds": 1, "batches": (1,), "threads": 1, "memory": False}
    return bench(models, **{**quickly, **arguments})


def write_table(folder: Path, name: str, kernel: int = 3) -> str:
    """A YAML file of that name with a network of one block."""
    path = folder / f"{name}.yaml"
    path.write_text(f"{name}: {{stem: 8, num_classes: 4, blocks: [dsa_r1_k{kernel}_s1_c8]}}\n")
    return str(path)
