"""Versions of installed packages, also of those that are installed under another name. Free of torch."""

from __future__ import annotations

import importlib
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
    """The version of what `import module` gives, ``unknown`` if nothing states it; None if there is no such module."""
    for distribution in _DISTRIBUTIONS.get(module, (module,)):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    if not find_spec(module):
        return None
    return str(getattr(importlib.import_module(module), "__version__", "unknown"))


# Running processes at the beginning and at the end of a measurement; None where the system does not tell.
Load = tuple[float, float] | None

_PACKAGES = ("torch", "onnxruntime", "openvino", "onnx", "timm", "torchvision", "numpy")


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor and programs. Measurements hold for a machine, and are not reused on another.

    Attributes:
        processor: its name as it calls itself. cores: those that this process may use.
        features: of its instructions, those that matter for networks (avx2, avx512f, …, amx_bf16).
        system: operating system and architecture.
        versions: of the packages that are installed, Python's among them.
    """

    processor: str
    cores: int
    features: tuple[str, ...]
    system: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        return {**asdict(self), "features": list(self.features)}

    def __str__(self) -> str:
        features = ", ".join(self.features) or "no vector instructions known"
        return f"{self.processor}, {self.cores} core{'s' if self.cores > 1 else ''} ({features})"


def describe_machine() -> Machine:
    """This machine."""
    facts = _cpu_facts()
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
    return Machine(
        processor=facts.get("model name") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        features=tuple(flag for flag in wanted if flag in flags),
        system=f"{platform.system()} {platform.machine()}",
        versions=_versions(),
    )


def load_average() -> float | None:
    """Running processes, on average over the last minute; None where the system does not tell, as Windows."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def load_since(begin: float | None) -> Load:
    """What `load_average` said at the beginning, and what it says now."""
    end = load_average()
    return None if begin is None or end is None else (begin, end)


def _cpu_facts() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _versions() -> dict[str, str]:
    found = {name: version_of(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}
