"""Work on chunks in the processes of a Ray cluster, with Ray Data: each has the model, and takes chunk after chunk."""

from __future__ import annotations

import logging
import os
import pickle
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
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
_RESTARTS = -1  # of lost workers: without limit
_RETRIES = 8  # of a chunk whose worker is lost: if every one of them is, the chunk is what kills it


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
        timing: seconds of a worker's threads. seconds: of the whole chunk, by the clock.
        worker: its process and machine.
    """

    number: int
    result: Any
    timing: Timing
    seconds: float
    worker: str


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
    job = ray.put(pickle.dumps((__version__, work, model)))
    rows = [{"number": number, "chunk": pickle.dumps(chunk)} for number, chunk in chunks]
    workers = min(workers, len(rows))
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=_AHEAD),
        num_cpus=_CORES,
        ray_remote_args_fn=_persistence,
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


class _Worker:
    """A process with a model."""

    def __init__(self, job: Any) -> None:
        import ray

        version, work, model = pickle.loads(ray.get(job))
        self._problem: EffnetsError | None = None
        if version != __version__:
            self._problem = EngineError(f"the cluster has effnets {__version__}, and this process {version}")
            return
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
        begin = time.perf_counter()
        timing = Timing()
        result: Any = self._problem
        if result is None:
            pipeline = Pipeline(self._predictor, workers=1)
            timing = pipeline.timing
            try:
                result = self._work(pipeline, number, pickle.loads(chunk))
            except EffnetsError as error:
                result = error
        worker = f"{os.getpid()} at {os.uname().nodename}"
        return Done(number, result, timing, time.perf_counter() - begin, worker)


def _resources(ray: Any) -> Mapping[str, float]:
    found: Mapping[str, float] = ray.cluster_resources()
    return found


def _persistence() -> dict[str, Any]:
    """Return how a lost worker is replaced."""
    return {"max_restarts": _RESTARTS, "max_task_retries": _RETRIES}


def _silence(ray: Any) -> None:
    """Keep Ray Data's bars, plans and warnings from the terminal, where this package shows its own."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    with suppress(ImportError, AttributeError):  # which only writes log files and the terminal's lines
        from ray.data._internal.logging import configure_logging

        configure_logging()
    for name in ("ray", "ray.data"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL)
