"""Trainings in processes of their own, which start quickly: a server has the heavy imports done and forks.

The server itself computes nothing, so that no thread of torch's is lost by forking.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch", "torchvision.transforms.v2", "timm.optim", "timm.scheduler", "timm.utils", "accelerate"]
)


def start(arguments: list[str], log: Path, **surroundings: Any) -> BaseProcess:
    """Run ``effnets`` with these arguments, output into `log`; `surroundings` as of `_run`."""
    process = CONTEXT.Process(target=_run, args=([str(argument) for argument in arguments], log), kwargs=surroundings)
    process.start()
    return process


def run(arguments: list[str], log: Path, **surroundings: Any) -> int:
    """Likewise, to its end; returns the exit status."""
    process = start(arguments, log, **surroundings)
    process.join(240)
    assert process.exitcode is not None, log.read_text()
    return process.exitcode


def start_together(arguments: list[str], logs: list[Path]) -> list[BaseProcess]:
    """As many processes as `logs` that train together, as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        start(
            arguments,
            log,
            environment={
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(len(logs)),
                "LOCAL_WORLD_SIZE": str(len(logs)),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "ACCELERATE_USE_CPU": "true",
            },
        )
        for rank, log in enumerate(logs)
    ]


def _run(
    arguments: list[str], log: Path, environment: dict[str, str] | None = None, largest_file: int | None = None
) -> None:
    """In the child, which leads a group of processes: `largest_file` in bytes is all that the disk has room for."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # of a process that was started by itself
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment or {})
    if largest_file is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    import torch

    torch.set_num_threads(1)
    from effnets.cli import main

    main(arguments)
