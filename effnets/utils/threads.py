"""Map a function over items in threads, in order, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

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
