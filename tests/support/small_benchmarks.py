"""Benchmarks that take no time: one round of small networks on small images, and latency that is made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnets.bench.bench import bench
from effnets.bench.choose import Network
from effnets.bench.latency import LatencyProfiler
from effnets.bench.report import BenchReport
from effnets.spec.cost import count
from effnets.utils.timing import Timing

__all__ = ["make_up_latency", "quick", "write_table"]


def make_up_latency(patch: pytest.MonkeyPatch, home: Path, power: float = 1.0) -> list[Network]:
    """Let latency be 1 ms for 100 M multiply-adds, to that power; return a list of what is measured from now on."""
    patch.setenv("EFFNETS_HOME", str(home))
    networks: list[Network] = []

    def measure(_, network: Network) -> Timing:
        networks.append(network)
        return Timing(((count(network.spec or network.name, network.size).madds / 1e8) ** power,) * 3)

    patch.setattr(LatencyProfiler, "measure", measure)
    return networks


def quick(*models: str, **arguments) -> BenchReport:
    quickly = {"image_size": 32, "rounds": 1, "batches": (1,), "threads": 1, "memory": False}
    return bench(models, **{**quickly, **arguments})


def write_table(folder: Path, name: str, kernel: int = 3) -> str:
    """A YAML file of that name with a network of one block."""
    path = folder / f"{name}.yaml"
    path.write_text(f"{name}: {{stem: 8, num_classes: 4, blocks: [dsa_r1_k{kernel}_s1_c8]}}\n")
    return str(path)
