"""A pool of replicas behind one bounded queue: batches are put together here, and lost replicas started again."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from effnets.errors import EffnetsError
from effnets.inference.image import PhotoResult
from effnets.serving.metrics import Metrics
from effnets.serving.replica import EncodedImage, Replica, ServedModel

# Batches that a replica has at a time: it works on one while the other comes, or its answers go.
_IN_FLIGHT = 2
_LONGEST_PAUSE = 30.0  # seconds between two attempts to start a replica

log = logging.getLogger(__name__)


class BusyError(EffnetsError):
    """The queue is full, or the answer took too long: ask again later."""


class ReplicaLostError(EffnetsError):
    """The process that worked on the request has ended; another replaces it."""


@dataclass(slots=True)
class _Waiting:
    image: EncodedImage
    topk: int
    result: asyncio.Future[PhotoResult]


class ReplicaPool:
    """Classify images on several replicas.

    Args:
        replicas: not yet started.
        max_batch: images in a batch.
        batch_wait: seconds to wait for more images where fewer are there.
        max_queue: images waiting and in work.
        timeout: seconds for an answer; a batch that takes twice as long has its replica killed.

    Attributes:
        model: what the replicas have loaded.
        ready: number of replicas that can work.
        queued: number of images waiting and in work.
    """

    model: ServedModel

    def __init__(
        self,
        replicas: Sequence[Replica],
        metrics: Metrics,
        *,
        max_batch: int,
        batch_wait: float,
        max_queue: int,
        timeout: float,
    ) -> None:
        self._replicas = replicas
        self._metrics = metrics
        self._max_batch, self._batch_wait = max_batch, batch_wait
        self._max_queue, self._timeout = max_queue, timeout
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._alive: set[Replica] = set()
        self._threads = ThreadPoolExecutor(_IN_FLIGHT * len(replicas))
        self._idle = 0  # how many would take a batch
        self._timers: dict[Replica, asyncio.TimerHandle] = {}
        self._batches: Counter[Replica] = Counter()  # that each replica has
        self._tasks: list[asyncio.Task[None]] = []
        self.queued = 0
        metrics.queue.set_function(lambda: self.queued)
        metrics.replicas.set_function(lambda: self.ready)

    @property
    def ready(self) -> int:
        return len(self._alive)

    async def start(self) -> None:
        """Start all replicas; raises what the first that fails raises."""
        await asyncio.gather(*map(self._start, self._replicas))
        self._tasks = [asyncio.create_task(self._serve(replica)) for replica in self._replicas]

    async def close(self) -> None:
        """End the replicas, at work, starting or at rest; what waits is not answered."""
        for replica in self._alive:
            asyncio.get_running_loop().remove_reader(replica.sentinel)
        for task in self._tasks:
            task.cancel()
        # Python waits for these at its end, and they ignore SIGTERM.
        for replica in self._replicas:
            replica.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown()

    async def classify(self, images: Sequence[EncodedImage], topk: int) -> list[PhotoResult]:
        """Return predictions or an error for each image, in order.

        Raises:
            BusyError: if the queue has no room for them, or the answer takes longer than the timeout.
            ReplicaLostError: if the replica that worked on one of them has ended.
            Exception: if the model fails.
        """
        if self.queued + len(images) > self._max_queue:
            raise BusyError(f"the server is busy: {self.queued} images are in its queue; ask again later")
        loop = asyncio.get_running_loop()
        entries = [_Waiting(image, topk, loop.create_future()) for image in images]
        for entry in entries:
            self.queued += 1
            entry.result.add_done_callback(self._answered)
        self._waiting.extend(entries)
        self._wake.set()
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.gather(*(entry.result for entry in entries))
        except TimeoutError:
            raise BusyError(f"no answer within {self._timeout:g} seconds; ask again later") from None
        finally:
            unanswered = [entry.result.cancel() for entry in entries]
            if any(unanswered):  # they would hold their images until a replica comes to them
                self._waiting = deque(entry for entry in self._waiting if not entry.result.done())

    def _answered(self, result: asyncio.Future[PhotoResult]) -> None:
        self.queued -= 1
        if not result.cancelled():
            result.exception()  # one of a request's images is enough to report

    async def _start(self, replica: Replica) -> None:
        loop = asyncio.get_running_loop()
        self.model = await loop.run_in_executor(self._threads, replica.start)
        self._alive.add(replica)
        loop.add_reader(replica.sentinel, self._ended, replica)

    def _ended(self, replica: Replica) -> None:
        asyncio.get_running_loop().remove_reader(replica.sentinel)
        status = replica.wait()
        self._alive.discard(replica)
        self._wake.set()
        log.error("a replica has ended with status %s; starting another", status)

    async def _serve(self, replica: Replica) -> None:
        """Give batches to a replica, and start it again when it has ended."""
        while True:
            async with asyncio.TaskGroup() as group:
                for _ in range(_IN_FLIGHT):
                    group.create_task(self._feed(replica))
            await self._restart(replica)

    async def _feed(self, replica: Replica) -> None:
        """Give batches to a replica, one after the other, until it has ended."""
        while replica in self._alive:
            self._idle += 1
            try:
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                if len(self._waiting) < self._max_batch:
                    await asyncio.sleep(self._batch_wait)
                batch = self._next_batch() if replica in self._alive else []
            finally:
                self._idle -= 1
            if batch:
                await self._classify(replica, batch)

    def _next_batch(self) -> list[_Waiting]:
        """Take a fair share of what waits, so that no replica rests while another has two batches."""
        size = min(self._max_batch, -(-len(self._waiting) // self._idle))
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < size:
            entry = self._waiting.popleft()
            if not entry.result.done():  # its client was told to come back later
                batch.append(entry)
        return batch

    async def _classify(self, replica: Replica, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        self._batches[replica] += 1
        if self._batches[replica] == 1:
            self._watch(replica)
        images, topk = [entry.image for entry in batch], max(entry.topk for entry in batch)
        try:
            results = await loop.run_in_executor(self._threads, replica.classify, images, topk)
        except (EOFError, OSError):
            self._fail(batch, ReplicaLostError("the process that worked on this has ended; ask again"))
            replica.kill()  # where only the connection broke; `_ended` follows
            while replica in self._alive:
                self._wake.clear()
                await self._wake.wait()
        except Exception as error:
            log.exception("a batch of %d failed", len(batch))
            self._fail(batch, error)
        else:
            self._metrics.batch_size.observe(len(batch))
            for entry, result in zip(batch, results, strict=True):
                result.predictions = result.predictions[: entry.topk]
                if not entry.result.done():
                    entry.result.set_result(result)
        finally:
            self._batches[replica] -= 1
            self._watch(replica)  # the next has the same time from now on

    def _watch(self, replica: Replica) -> None:
        """Kill a replica that needs too long for its batch; without one, do not."""
        if (timer := self._timers.pop(replica, None)) is not None:
            timer.cancel()
        if self._batches[replica]:
            # Its clients have given up by then; an honest batch of very large images has not been interrupted.
            loop = asyncio.get_running_loop()
            self._timers[replica] = loop.call_later(2 * self._timeout, replica.kill)

    def _fail(self, batch: list[_Waiting], error: Exception) -> None:
        for entry in batch:
            if not entry.result.done():
                entry.result.set_exception(error)

    async def _restart(self, replica: Replica) -> None:
        pause = 0.5
        while True:
            self._metrics.restarts.inc()
            try:
                return await self._start(replica)
            except Exception as error:
                log.error("a replica cannot be started: %s; trying again in %g s", error, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
