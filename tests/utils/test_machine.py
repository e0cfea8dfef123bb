"""Packages have versions, whatever the distribution is called that brought them; memory is kept where asked."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import onnxruntime
import pytest

import effnets
from effnets.bench.choose import Network
from effnets.bench.latency import LatencyProfiler
from effnets.utils import machine as versions
from effnets.utils.machine import describe_machine, version_of


@pytest.fixture
def installed(monkeypatch):
    """The distributions that there are, with their versions."""
    found = dict.fromkeys(("effnets", "torch", "openvino", "onnx", "timm", "torchvision", "numpy"), "0")

    def version(name):
        if name not in found:
            raise PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(versions, "version", version)
    return found


def test_a_build_for_gpus_has_a_distribution_of_its_own(installed):
    installed["onnxruntime-gpu"] = "1.99"
    assert version_of("onnxruntime") == "1.99"
    conditions = LatencyProfiler("onnxruntime").conditions(Network("x", 32, ""))
    assert conditions["versions"] == {"onnxruntime": "1.99", "effnets": effnets.__version__}
    assert describe_machine().versions["onnxruntime"] == "1.99"
    installed["onnxruntime"] = "1.98"
    assert version_of("onnxruntime") == "1.98"


@pytest.mark.usefixtures("installed")
def test_a_build_of_ones_own_states_its_version_itself(monkeypatch):
    assert version_of("onnxruntime") == onnxruntime.__version__
    monkeypatch.delattr(onnxruntime, "__version__")
    assert version_of("onnxruntime") == "unknown"


@pytest.mark.usefixtures("installed")
def test_what_is_not_installed_has_none():
    assert version_of("no_such_module") is None


_FAULTS = """
import resource, sys, torch
from effnets.utils.machine import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(40):
    if step == 20:
        begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_memory_that_is_kept_is_not_mapped_again():
    def faults(way: str) -> int:
        return int(subprocess.run([sys.executable, "-c", _FAULTS, way], check=True, capture_output=True).stdout)

    assert faults("keep") < 100 < faults("return")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu.max": "?"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
    ],
)
def test_a_containers_quota_counts(tmp_path, monkeypatch, files, cores):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(versions, "_CGROUP", tmp_path)
    monkeypatch.setattr(versions.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert versions.cpu_count() == cores


def test_processors_are_counted_in_one_place():
    package = Path(effnets.__file__).parent
    counting = [
        path for path in package.rglob("*.py") if re.search(r"os\.cpu_count|sched_getaffinity", path.read_text("utf-8"))
    ]
    assert counting == [package / "utils" / "machine.py"]
