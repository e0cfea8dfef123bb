"""Measure `effnets serve` beside `effnets.predict`, interleaved, and what it does with a lost replica and bad clients.

uv run scripts/benchmark_serve.py FILE.onnx FOLDER [ROUNDS [OPTION_OF_SERVE…]]

FOLDER holds JPEGs; the first 500 of them are sent, each in a request of its own, by 16 clients of this process, which
share the cores with the server. Every answer is compared with that of `effnets.predict`. Memory is the proportional set
size (Pss) of the server's processes. Linux only.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from PIL import Image

import effnets

Answer = list[tuple[int, float]]  # index and probability of each prediction
REQUESTS, CLIENTS, TIMEOUT = 500, 16, 10


def main() -> None:
    model, folder, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 5
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:REQUESTS]
    bodies = [path.read_bytes() for path in photos]
    engine = effnets.load_engine(model)
    expected = [[(one.index, one.probability) for one in found] for found in effnets.predict(engine, photos)]
    started = time.perf_counter()
    with Server(model, sys.argv[4:]) as server:
        print(f"start, until it listens: {time.perf_counter() - started:.1f} s")
        server.ask(bodies[:CLIENTS], expected[:CLIENTS])
        print(f"memory, idle: {server.memory():.0f} MB in {len(server.processes())} processes")
        compare(server, engine, photos, bodies, expected, rounds)
        lose_a_replica(server, bodies, expected)
        abuse(server, bodies[0], expected[0])
        drain(server, bodies, expected)


class Server:
    """`effnets serve` as a process, on a free port."""

    def __init__(self, model: str, options: Sequence[str]) -> None:
        arguments = ["-m", "effnets", "serve", model, "--port", "0", "--timeout-s", str(TIMEOUT), *options]
        self.process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        if "http://" not in line:
            sys.exit(line + self.process.stderr.read())
        self.port = int(line.partition("http://127.0.0.1:")[2].partition("/")[0])
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()

    def processes(self) -> list[int]:
        """Its process and those it has started."""
        children = " ".join(path.read_text() for path in Path(f"/proc/{self.process.pid}/task").glob("*/children"))
        return [self.process.pid, *map(int, children.split())]

    def replicas(self) -> list[int]:
        return [pid for pid in self.processes() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def memory(self) -> float:
        """In MB."""
        total = 0
        for pid in self.processes():
            with suppress(OSError):  # it may have ended
                total += int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("\nPss:")[2].split()[0])
        return total / 1000

    def get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        return connection.getresponse().status

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def ask(
        self, bodies: Sequence[bytes], expected: Sequence[Answer], meanwhile: Callable[[], object] = lambda: None
    ) -> tuple[float, list[float], Counter[str]]:
        """Send each body in a request of its own; return seconds, seconds of each, and what became of them."""
        waiting: SimpleQueue[int] = SimpleQueue()
        for number in range(len(bodies)):
            waiting.put(number)
        seconds: list[float] = []
        outcomes: Counter[str] = Counter()

        def client() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            while True:
                try:
                    number = waiting.get_nowait()
                except Empty:
                    return
                began = time.perf_counter()
                try:
                    connection.request("POST", "/predict", bodies[number], {"Content-Type": "image/jpeg"})
                    response = connection.getresponse()
                    outcome = judge(response.status, response.read(), expected[number])
                except (OSError, http.client.HTTPException) as error:
                    outcome = type(error).__name__
                    connection.close()
                seconds.append(time.perf_counter() - began)
                outcomes[outcome] += 1

        began = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            tasks = [pool.submit(client) for _ in range(CLIENTS)] + [pool.submit(meanwhile)]
        for task in tasks:
            task.result()
        return time.perf_counter() - began, sorted(seconds), outcomes


def judge(status: int, body: bytes, expected: Answer) -> str:
    if status != 200:
        return str(status)
    (result,) = json.loads(body)
    found = [(one["index"], one["probability"]) for one in result["predictions"]]
    same = [index for index, _ in found] == [index for index, _ in expected]
    near = all(abs(ours - theirs) <= 1e-5 for (_, ours), (_, theirs) in zip(found, expected, strict=False))
    return "right" if same and near else "WRONG"


def compare(
    server: Server, engine: effnets.Engine, photos: list[Path], bodies: list[bytes], expected: list[Answer], rounds: int
) -> None:
    speeds: dict[str, list[float]] = {"predict": [], "serve": []}
    latencies: list[float] = []
    outcomes: Counter[str] = Counter()
    for _ in range(rounds):
        began = time.perf_counter()
        effnets.predict(engine, photos)
        speeds["predict"].append(len(photos) / (time.perf_counter() - began))
        seconds, each, found = server.ask(bodies, expected)
        speeds["serve"].append(len(bodies) / seconds)
        latencies += each
        outcomes += found
    latencies.sort()
    for name, values in speeds.items():
        print(f"{name}: median {statistics.median(values):.1f} images/s ({min(values):.1f} to {max(values):.1f})")
    ratio = statistics.median(speeds["serve"]) / statistics.median(speeds["predict"])
    print(f"serve / predict: {ratio:.2f}, {rounds} interleaved rounds of {len(bodies)}, answers {dict(outcomes)}")
    middle, late = (1000 * latencies[int(share * len(latencies))] for share in (0.5, 0.99))
    print(f"latency with {CLIENTS} clients: median {middle:.0f} ms, 99th percentile {late:.0f} ms")
    print(f"memory after that: {server.memory():.0f} MB")


def lose_a_replica(server: Server, bodies: list[bytes], expected: list[Answer]) -> None:
    victim = server.replicas()[-1]

    def kill() -> None:
        time.sleep(1)
        os.kill(victim, signal.SIGKILL)

    seconds, each, outcomes = server.ask(bodies, expected, kill)
    print(f"a replica killed after 1 s: {dict(outcomes)} in {seconds:.1f} s, the slowest {each[-1]:.1f} s")
    while victim in server.replicas() or server.get("/ready") != 200:
        time.sleep(0.05)
    print(f"requests after that: {dict(server.ask(bodies[:64], expected)[2])}")


def abuse(server: Server, photo: bytes, expected: Answer) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    before = server.memory()
    began = time.perf_counter()
    halves = [server.connect() for _ in range(500)]
    for number, connection in enumerate(halves):
        connection.sendall(head[:60] if number % 2 else head % len(photo) + photo[:1000])
    print(f"500 half requests: answer to a whole one {server.ask([photo], [expected])[0] * 1000:.0f} ms", end="; ")
    answers = Counter(connection.recv(1000)[9:12].decode() or "closed" for connection in halves)
    print(f"{dict(answers)} after {time.perf_counter() - began:.1f} s, memory {before:.0f} → {server.memory():.0f} MB")

    def flood(number: int) -> str:
        piece, length = bytes(1 << 20), b"Content-Length: %d"
        start = head % 10**9
        if number % 2:
            start, piece = head.replace(length, b"Transfer-Encoding: chunked"), b"%x\r\n%s\r\n" % (len(piece), piece)
        with server.connect() as connection:
            with suppress(OSError):
                connection.sendall(start)
                for _ in range(500):
                    connection.sendall(piece)
            try:
                return connection.recv(1000)[9:12].decode()
            except OSError:
                return "closed"

    def post(body: bytes) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/predict", body, {"Content-Type": "image/png"})
        return str(connection.getresponse().status)

    buffer = io.BytesIO()
    Image.new("RGB", (7000, 7000)).save(buffer, "png")
    for name, send in {
        "bodies of 500 MB": flood,
        "bodies of 19 MB that are no images": lambda _: post(bytes(19_000_000)),
        f"images of 49 megapixels in {buffer.tell() / 1e6:.1f} MB": lambda _: post(buffer.getvalue()),
    }.items():
        before = peak = server.memory()
        with ThreadPoolExecutor(32) as pool:
            tasks = [pool.submit(send, number) for number in range(32)]
            while not all(task.done() for task in tasks):
                peak = max(peak, server.memory())
                time.sleep(0.02)
        statuses = Counter(task.result() for task in tasks)
        print(f"32 {name} at a time: {dict(statuses)}, memory {before:.0f} → at most {peak:.0f} MB")


def drain(server: Server, bodies: list[bytes], expected: list[Answer]) -> None:
    while set(server.ask(bodies[:CLIENTS], expected)[2]) != {"right"}:  # until the large images are done
        time.sleep(0.5)

    def terminate() -> None:
        time.sleep(1)
        server.process.terminate()

    outcomes = server.ask(bodies[:200], expected, terminate)[2]
    print(f"SIGTERM after 1 s: {dict(outcomes)}, exit status {server.process.wait(60)}")


if __name__ == "__main__":
    main()
