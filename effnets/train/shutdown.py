"""Requests to end, noticed between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

from effnets.errors import TrainingInterruptedError

_Item = TypeVar("_Item")


class StopSignals:
    """While entered, SIGTERM and SIGINT are noted in `received` instead of ending the process.

    A second one of the same kind ends it as usual. Only a program's main thread receives signals; in others this does
    nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def interruption(self, message: str) -> TrainingInterruptedError:
        """The error to end with; where another process was asked to end, as if by SIGTERM."""
        return TrainingInterruptedError(message, self.received or signal.SIGTERM)

    def heed(self, doing: str) -> None:
        """End now if that was asked for, where nothing needs saving.

        Raises:
            TrainingInterruptedError: it was, while `doing` this.
        """
        if self.received is not None:
            raise self.interruption(f"training was asked to end while {doing}; it goes on with --resume")

    def between(self, items: Iterable[_Item], doing: str) -> Iterator[_Item]:
        """The `items`, ending by `heed` after the one that is at work when a request comes."""
        for item in items:
            yield item
            self.heed(doing)

    def until_asked(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The `items`, none any more after the one that is at work when a request comes."""
        for item in items:
            yield item
            if self.received is not None:
                return

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before.get(number) or signal.SIG_DFL)
