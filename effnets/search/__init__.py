"""Networks found for a budget and for data: searches, studies of the papers, and networks scaled.

The room is callable, since ``effnets.search(…)`` is also the name of its main function.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any


class _CallableRoom(ModuleType):
    """This package, which calls `effnets.search.search.search`; the name cannot be both otherwise."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from effnets.search.search import search

        return search(*arguments, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        from effnets.search.search import search

        return inspect.signature(search)


sys.modules[__name__].__class__ = _CallableRoom
