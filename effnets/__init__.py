"""effnets: efficient image classifiers, exact to their publications and ready to ship.

Names are imported at their first use, from the modules that `__init__.pyi` lists: ``import effnets`` takes no time, and
what does not need torch does not load it.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from effnets._version import __version__ as __version__


@functools.cache
def _read_stub() -> dict[str, str]:
    """Return the module of each public name."""
    import ast
    from pathlib import Path

    stub = ast.parse(Path(__file__).with_name("__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__all__":
        value = sorted(_read_stub().keys() - {"__version__"})
    elif name in _read_stub():
        value = getattr(importlib.import_module(_read_stub()[name]), name)
    else:
        raise AttributeError(f"module 'effnets' has no attribute {name!r}")
    # `search` is a room as well, which the import above has put here: it is callable, and stays.
    return globals().setdefault(name, value)


def __dir__() -> list[str]:
    return sorted(_read_stub())
