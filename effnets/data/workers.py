"""Worker processes that prepare batches: how they start, and that they end with their parent. Knows torch."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import TypeVar

from torch.utils.data import DataLoader

Item = TypeVar("Item")


class WorkerShutdown:
    """Ends the worker processes of a DataLoader when their parent says so, or ends in whatever way.

    Workers ignore SIGTERM and SIGINT: a signal to the whole process group asks the training to save, which needs the
    batches on their way. But SIGTERM is also what multiprocessing sends to workers at exit before it joins them, so
    they wait for a message on a pipe instead, or for its end: when the parent was killed, nobody can write to it any
    more. (Not an Event: setting one hangs once a waiting process was killed.)
    """

    def __init__(self) -> None:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        self.worker_init_fn = partial(_initialize_worker, receiver, sender)
        # Called at exit before multiprocessing terminates and joins its children, or when this object is collected.
        self.end_workers = Finalize(self, sender.send_bytes, args=(b"end",), exitpriority=10)


@atexit.register
def _forget_workers() -> None:
    """Let workers that are still starting be terminated at exit without an error of torch's handler for SIGCHLD."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def start_workers(loader: DataLoader[Item]) -> Iterator[Item]:
    """Start the workers with the signals blocked that they ignore later: one might come while they are starting."""
    if not hasattr(signal, "pthread_sigmask"):
        return iter(loader)
    if loader.num_workers and start_method() == "spawn":
        resource_tracker.ensure_running()  # or it would be started below, and unblock the signals
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def start_method() -> str:
    """Return how workers are started: as Python does on this system, but by no fork server.

    A signal to the whole process group ends the fork server, and workers exit when their parent is gone.
    """
    method = multiprocessing.get_start_method()
    return "spawn" if method == "forkserver" else method


def _initialize_worker(receiver: Connection, sender: Connection, _worker: int) -> None:
    sender.close()  # the worker's copy, or the pipe would not end with the parent
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_when_readable, args=(receiver,), daemon=True).start()


def _exit_when_readable(receiver: Connection) -> None:
    wait([receiver])  # a message, which nobody reads, so that every worker sees it, or the end of the pipe
    os._exit(0)
