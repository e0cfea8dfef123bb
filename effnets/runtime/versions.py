"""Versions of installed packages, also of those that are installed under another name. Free of torch."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

__all__ = ["version_of"]

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
