"""Stop on SIGTERM and SIGINT between two steps instead of in the middle of one, or clean up first."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, TypeVar

from effnets.errors import TrainingInterruptedError

_Item = TypeVar("_Item")


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit meanwhile, in the main thread, so that what is half-written is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class GracefulShutdown:
    """Store SIGTERM and SIGINT in `received` while entered, instead of ending the process.

    A second signal of the same kind ends the process as usual. Python delivers signals to the main thread only, so in
    any other thread this does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> GracefulShutdown:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._store)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def interruption(self, message: str) -> TrainingInterruptedError:
        """Return the error to raise; if another process received the signal, as if this one had received SIGTERM."""
        return TrainingInterruptedError(f"{message}; continue with --resume", self.received or signal.SIGTERM)

    def check(self, doing: str) -> None:
        """Raise if a signal was received, where nothing needs saving.

        Raises:
            TrainingInterruptedError: if a signal was received; the message says while `doing` what.
        """
        if self.received is not None:
            raise self.interruption(f"training was interrupted while {doing}")

    def guard(self, items: Iterable[_Item], doing: str) -> Iterator[_Item]:
        """Yield the `items`, and `check` after each."""
        for item in items:
            yield item
            self.check(doing)

    def take_until_stop(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Yield the `items` until a signal is received."""
        for item in items:
            yield item
            if self.received is not None:
                return

    def _store(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._handlers.get(number) or signal.SIG_DFL)
