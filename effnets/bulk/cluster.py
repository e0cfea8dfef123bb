"""Work on chunks in the processes of a Ray cluster, with Ray Data: each has the model, and takes chunk after chunk."""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from effnets._version import __version__
from effnets.bulk.model import PackedModel
from effnets.errors import ArgumentError, EffnetsError, EngineError
from effnets.inference.pipeline import Pipeline, Timing
from effnets.utils.machine import cpu_count
from effnets.utils.quiet import quiet_native

LOCAL = "local"
_ADDRESS = re.compile(r"auto|local|ray://[^/\s]+|[\w.\-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")
_AHEAD = 2  # chunks that a worker has: one at work, one waiting
# Whole cores, of which Ray Data would take some for reading: here the workers read, so nothing else asks for any.
_CORES = 1
# Ray Data replaces lost workers and repeats their chunks without limit; a chunk that kills them all is an error here.
_MOST_ATTEMPTS = 5
_TIMEOUT = 10  # s, for a cluster to answer


class Work(Protocol):
    """What is done with a chunk, in another process; it is pickled."""

    def __call__(self, pipeline: Pipeline, number: int, chunk: Any) -> Any:
        """Return the result for the chunk of that number, which is pickled."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """A chunk that was worked on.

    Attributes:
        number: of the chunk. result: of the work.
        timing: seconds of a worker's threads.
        begun: when the work began, in seconds since 1970. seconds: that it took. core_seconds: of the processor.
        worker: its process and machine.
        attempts: 1, and 1 more for each worker that was lost with the chunk.
    """

    number: int
    result: Any
    timing: Timing
    begun: float
    seconds: float
    core_seconds: float
    worker: str
    attempts: int


def check_address(address: str) -> None:
    """Raise ArgumentError if it is not the address of a cluster, or Ray is not installed."""
    if not _ADDRESS.fullmatch(address):
        raise ArgumentError(
            f"--ray {address}: is not the address of a cluster, which is auto, HOST:PORT or ray://HOST:PORT; "
            "write --ray after the data, or --ray=local, for a cluster of this machine"
        )
    if not find_spec("ray"):
        raise EngineError("ray is not installed; install it with: pip install 'effnets[ray]'")


@contextmanager
def joined_cluster(address: str, workers: int | None) -> Iterator[int]:
    """Join a cluster, or start one of this machine's cores that ends with it; give the number of workers.

    A cluster that this process has joined already is used, and left as it is.

    Args:
        address: of a cluster: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; ``local`` starts one.
        workers: processes; None takes one for each core of the cluster.

    Raises:
        EngineError: if the cluster cannot be reached or started.
    """
    local = address == LOCAL
    # Before the import of Ray, which reads them. A cluster of its own reports nothing to anyone.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if local:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    _reach(address)
    import ray

    ours = not ray.is_initialized()
    if ours:
        options: dict[str, Any] = {"address": address}
        if local:
            options |= {"num_cpus": max(cpu_count(), workers or 1), "include_dashboard": False}
        try:
            # Which greets with its log level; what it cannot do, it raises.
            with quiet_native():
                ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # of several kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise EngineError(f"--ray {address}: the cluster cannot be reached ({reason})") from error
    # Ray prints pages there about every worker that is lost, at last when it ends; `Done` says so in a word.
    with redirect_stdout(StringIO()):
        try:
            yield workers or max(1, int(_resources(ray).get("CPU", 1)))
        finally:
            if ours:
                ray.shutdown()


def work_on(work: Work, model: PackedModel, chunks: Sequence[tuple[int, Any]], *, workers: int) -> Iterator[Done]:
    """Yield what became of each chunk, as it is done; within `joined_cluster`.

    A chunk whose worker is lost is given to another, so that work must bear being done twice.

    Args:
        work: to do.
        model: for it.
        chunks: with their numbers.
        workers: processes, each of one thread.

    Raises:
        EffnetsError: what the work raises.
        EngineError: if a chunk's worker is lost again and again, or the cluster fails.
    """
    import ray
    import ray.data

    _silence(ray)
    attempts = ray.remote(num_cpus=0, max_restarts=-1)(_Attempts).remote()
    dump: Any = ray.cloudpickle.dumps  # which has no types, but takes what a script defines
    job = ray.put(dump((__version__, str(Path.cwd()), work, model)))
    rows = [{"number": number, "chunk": pickle.dumps(chunk)} for number, chunk in chunks]
    workers = min(workers, len(rows))
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,
        fn_constructor_args=(job, attempts),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=_AHEAD),
        num_cpus=_CORES,
    )
    try:
        for row in done.iter_rows():
            found = pickle.loads(row["done"])
            if isinstance(found.result, EffnetsError):
                raise found.result
            yield found
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise EngineError(f"the cluster failed: {lines[-1].strip()}") from error


class _Attempts:
    """Counts how often each chunk was begun."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """Return how often this chunk was begun, now included."""
        self._counts[number] += 1
        return self._counts[number]


class _Worker:
    """A process with a model."""

    def __init__(self, job: Any, attempts: Any) -> None:
        import ray

        self._attempts = attempts

        version, folder, work, model = pickle.loads(ray.get(job))
        self._problem: EffnetsError | None = None
        if version != __version__:
            self._problem = EngineError(f"the cluster has effnets {__version__}, and this process {version}")
            return
        with suppress(OSError):  # for relative paths; a machine without this folder takes absolute ones
            os.chdir(folder)
        self._work: Work = work
        try:
            self._predictor = model.open()
        except EffnetsError as error:  # with which a chunk is answered: Ray would start other workers
            self._problem = error

    def __call__(self, batch: Any) -> dict[str, Any]:
        numbers, chunks = batch["number"].to_pylist(), batch["chunk"].to_pylist()
        done = [self._done(number, chunk) for number, chunk in zip(numbers, chunks, strict=True)]
        return {"done": [pickle.dumps(one) for one in done]}

    def _done(self, number: int, chunk: bytes) -> Done:
        import ray

        begun, begin, begin_core = time.time(), time.perf_counter(), time.process_time()
        timing = Timing()
        attempts = ray.get(self._attempts.begin.remote(number))
        result: Any = self._problem
        if attempts > _MOST_ATTEMPTS:
            result = EngineError(
                f"part {number}: {_MOST_ATTEMPTS} workers were lost with it, so that an image in it crashes them, or "
                f"memory is short: {pickle.loads(chunk)!r:.300}"
            )
        elif result is None:
            pipeline = Pipeline(self._predictor, workers=1)
            timing = pipeline.timing
            try:
                result = self._work(pipeline, number, pickle.loads(chunk))
            except EffnetsError as error:
                result = error
        worker = f"{os.getpid()} at {os.uname().nodename}"
        seconds, core_seconds = time.perf_counter() - begin, time.process_time() - begin_core
        return Done(number, result, timing, begun, seconds, core_seconds, worker, attempts)


def _reach(address: str) -> None:
    """Raise EngineError if nothing listens at an address: Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT).close()
    except (OSError, ValueError) as error:  # the latter of names and ports that cannot be
        reason = getattr(error, "strerror", None) or error
        raise EngineError(f"--ray {address}: the cluster cannot be reached ({reason}); check the address") from error


def _resources(ray: Any) -> Mapping[str, float]:
    found: Mapping[str, float] = ray.cluster_resources()
    return found


def _silence(ray: Any) -> None:
    """Keep Ray Data's bars, plans and warnings from the terminal, where this package shows its own."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    with suppress(ImportError, AttributeError, KeyError):  # Ray's own files: what else than noise may they change?
        from ray.data._internal.logging import configure_logging

        configure_logging()
    for name in ("ray", "ray.data"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL)
