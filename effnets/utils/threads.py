"""Map a function over items in threads, in order, with bounded memory; and contexts that threads share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from threading import Lock
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int, ahead: int
) -> Iterator[_Result]:
    """Yield ``function(item)`` for each item, in order.

    Threads compute at most `ahead` results before they are taken; items are taken in the caller's thread. What the
    function raises is raised here, in its turn. When the iteration is given up, what is running is waited for.

    Args:
        function: called in several threads at once.
        items: also endless ones.
        workers: threads. With one, the function is called here, when a result is asked for.
        ahead: results in memory at a time, at least `workers` to keep all of them at work.
    """
    if workers == 1:
        yield from map(function, items)
        return
    pending = iter(items)
    futures: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            futures.extend(threads.submit(function, item) for item in islice(pending, ahead))
            while futures:
                result = futures.popleft().result()
                futures.extend(threads.submit(function, item) for item in islice(pending, 1))
                yield result
        finally:
            threads.shutdown(wait=True, cancel_futures=True)


def shared_context(
    enter: Callable[_Arguments, AbstractContextManager[None]],
) -> Callable[_Arguments, AbstractContextManager[None]]:
    """Return a context that threads which are in it at a time share: the first enters it, the last exits it.

    Of a setting of the whole process, each would otherwise restore what another one had set.
    """
    lock, entered, inside = Lock(), ExitStack(), 0

    @contextmanager
    def joined(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Iterator[None]:
        nonlocal inside
        with lock:
            if not inside:
                entered.enter_context(enter(*args, **kwargs))
            inside += 1
        try:
            yield
        finally:
            with lock:
                inside -= 1
                if not inside:
                    entered.close()

    return joined
