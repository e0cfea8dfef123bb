"""`effnets serve` as a process of its own, as its users start it."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.support.image_bytes import random_array


class ServerProcess:
    """The running server, and a client of it."""

    def __init__(self, process: subprocess.Popen[str], address: str, lines: list[str]) -> None:
        self.process, self.address, self.lines = process, address, lines
        self.client = httpx.Client(base_url=address, timeout=60)

    @property
    def children(self) -> list[int]:
        """The replicas, in the order of their start."""
        texts = [path.read_text() for path in Path(f"/proc/{self.process.pid}/task").glob("*/children")]
        pids = sorted(int(pid) for text in texts for pid in text.split())
        return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def memory(self) -> float:
        """Resident set of the server's own process, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1000

    def post(self, body: bytes, kind: str = "image/png", **options: Any) -> httpx.Response:
        return self.client.post("/predict", content=body, headers={"Content-Type": kind}, **options)

    def connect(self) -> socket.socket:
        """Open a connection to write to by hand."""
        url = httpx.URL(self.address)
        return socket.create_connection((url.host, url.port), timeout=30)

    def wait_for(self, path: str, status: int) -> None:
        """Wait until GET `path` has this status."""
        deadline = time.monotonic() + 30
        while self.client.get(path).status_code != status:
            assert time.monotonic() < deadline, f"{path} has not come to {status}: {self.lines}"
            time.sleep(0.05)


@contextmanager
def serving(model: Path | str, *options: object) -> Iterator[ServerProcess]:
    """Start the server on a free port; end it as `kill` does, unless it has ended."""
    arguments = [
        "-m",
        "effnets",
        "serve",
        str(model),
        "--port",
        "0",
        "--threads",
        "1",
        "--replicas",
        "1",
        *map(str, options),
    ]
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = [process.stderr.readline()]
        assert "http://" in lines[0], lines[0] + process.stderr.read()
        threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True).start()
        server = ServerProcess(process, lines[0].rpartition("see ")[2].strip().removesuffix("/docs"), lines)
        with server.client:
            yield server
    finally:
        process.kill()
        process.wait()


def photo(seed: int = 0, *, size: tuple[int, int] = (40, 50), suffix: str = "png", **options: Any) -> bytes:
    """A file of an image whose channels have means of their own, so that no two seeds get the same answer."""
    tint = np.random.default_rng(seed).integers(0, 200, 3)
    values = (random_array(*size, 3, seed=seed) // 5 + tint).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, suffix, **options)
    return buffer.getvalue()
