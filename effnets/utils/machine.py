"""Facts about this machine: processor, load, and versions of installed packages. Free of torch."""

from __future__ import annotations

import ctypes
import importlib
import math
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Module → the distributions that may have brought it.
_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "openvino": ("openvino", "openvino-nightly"),
}


def version_of(module: str) -> str | None:
    """Return the version of an importable module, ``unknown`` if nothing states it; None if it is not installed."""
    for distribution in _DISTRIBUTIONS.get(module, (module,)):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    if not find_spec(module):
        return None
    return str(getattr(importlib.import_module(module), "__version__", "unknown"))


# Running processes at the start and at the end of a measurement; None where the system does not report them.
Load = tuple[float, float] | None

_CGROUP = Path("/sys/fs/cgroup")  # as a container sees its own
_PACKAGES = ("torch", "onnxruntime", "openvino", "onnx", "timm", "torchvision", "numpy")


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor and software. Measurements hold for one machine, and are not reused on another.

    Attributes:
        processor: its own name. cores: those that this process may use.
        features: instruction sets that matter for networks (avx2, avx512f, …, amx_bf16).
        system: operating system and architecture.
        versions: of Python and the installed packages.
    """

    processor: str
    cores: int
    features: tuple[str, ...]
    system: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "features": list(self.features)}

    def __str__(self) -> str:
        features = ", ".join(self.features) or "no vector instructions known"
        return f"{self.processor}, {self.cores} core{'s' if self.cores > 1 else ''} ({features})"


def describe_machine() -> Machine:
    """Describe this machine."""
    facts = _cpu_facts()
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
    return Machine(
        processor=facts.get("model name") or platform.processor() or platform.machine(),
        cores=cpu_count(),
        features=tuple(flag for flag in wanted if flag in flags),
        system=f"{platform.system()} {platform.machine()}",
        versions=_versions(),
    )


def cpu_count() -> int:
    """Return the number of processor cores that this process may use: by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _cpu_quota())))


def _cpu_quota() -> float:
    """Return how many processors' time the control group may take, infinity without a limit; versions 2 and 1."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((_CGROUP / name).read_text(encoding="ascii") for name in names).split()
            quota, period = (float(word) for word in words)
            return quota / period if quota > 0 else math.inf
        except (OSError, ValueError, ZeroDivisionError):  # absent, or "max"
            continue
    return math.inf


def load_average() -> float | None:
    """Return the mean number of running processes in the last minute; None where unknown, as on Windows."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def load_since(begin: float | None) -> Load:
    """Return the load average at the `begin` of a measurement and now."""
    end = load_average()
    return None if begin is None or end is None else (begin, end)


def keep_freed_memory() -> bool:
    """Keep memory that this process frees, for every later use of it; return False if malloc is not glibc's.

    For commands only: a library call must not change its caller's process. glibc returns large tensors to the kernel,
    which clears their pages at the next training step: about a third of the step on a CPU.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_threshold = -1, -3  # <malloc.h>
    mallopt = ctypes.CDLL(None).mallopt
    # Older versions of glibc refuse more than half of a heap, 32 MiB, as the size from which blocks are mapped singly.
    return bool(
        (mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 32 << 20)) and mallopt(trim_threshold, 2**31 - 1)
    )


def _cpu_facts() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _versions() -> dict[str, str]:
    found = {name: version_of(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}
