"""Measure LitServe, Ray Serve and `effnets serve` at the same task, interleaved, and what they do when things go wrong.

uv run --with litserve --with 'ray[serve]' scripts/serve_peers.py FILE.onnx FOLDER [ROUNDS]

The task: a JPEG in, the five likeliest classes out; two replicas of one thread, batches of up to 8 within 2 ms, 16
clients in this process. All three run at the same time and are asked in turn. LitServe takes JSON with the image in
base64, as its documentation has it. Linux only.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

REQUESTS, CLIENTS, REPLICAS, BATCH, WAIT = 300, 16, 2, 8, 0.002


def main() -> None:
    if sys.argv[1] in PROGRAMS:
        PROGRAMS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
        return
    model, folder, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 5
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:REQUESTS]
    photos = [path.read_bytes() for path in paths]
    servers = [Server(kind, model) for kind in PROGRAMS]
    for server in servers:
        server.start(photos[0])
        server.burst(photos[:64])
        print(f"{server.kind}: first answer after {server.seconds:.1f} s, memory {server.memory():.0f} MB", flush=True)
    speeds: dict[str, list[float]] = {server.kind: [] for server in servers}
    late: dict[str, list[float]] = {server.kind: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            seconds, each, _ = server.burst(photos)
            speeds[server.kind].append(len(photos) / seconds)
            late[server.kind] += each
    for kind, values in speeds.items():
        each = sorted(late[kind])
        middle, last = (1000 * each[int(share * len(each))] for share in (0.5, 0.99))
        print(
            f"{kind}: {statistics.median(values):.1f} images/s, latency {middle:.0f} ms, 99th percentile {last:.0f} ms"
        )
    for server in servers:
        server.go_wrong(photos)


class Server:
    """One of the programs below, in a process."""

    def __init__(self, kind: str, model: str) -> None:
        self.kind, self.model = kind, model
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def start(self, photo: bytes) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (until the end)
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.kind, self.model, str(self.port)], stdout=self.log, stderr=self.log
        )
        while self.ask(self.connect(), photo) != "200":
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(self.log.read())
            time.sleep(0.05)
        self.seconds = time.perf_counter() - began

    def processes(self) -> list[int]:
        """The program's and those that it and its children have started."""
        found, parents = {self.process.pid}, {pid: parent(pid) for pid in pids()}
        while more := {pid for pid, above in parents.items() if above in found} - found:
            found |= more
        return sorted(found)

    def memory(self) -> float:
        """Proportional set size in MB."""
        total = 0
        for pid in self.processes():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(text.partition("\nPss:")[2].split()[0])
            except (OSError, IndexError):
                continue
        return total / 1000

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)

    def ask(self, connection: http.client.HTTPConnection, photo: bytes) -> str:
        body, kind = photo, "image/jpeg"
        if self.kind == "litserve":
            body, kind = json.dumps({"image": base64.b64encode(photo).decode()}).encode(), "application/json"
        try:
            connection.request("POST", "/predict", body, {"Content-Type": kind})
            response = connection.getresponse()
            response.read()
            return str(response.status)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return type(error).__name__

    def burst(self, photos: list[bytes]) -> tuple[float, list[float], Counter[str]]:
        waiting: SimpleQueue[bytes] = SimpleQueue()
        for photo in photos:
            waiting.put(photo)
        seconds: list[float] = []
        outcomes: Counter[str] = Counter()

        def client() -> None:
            connection = self.connect()
            while True:
                try:
                    photo = waiting.get_nowait()
                except Empty:
                    return
                began = time.perf_counter()
                outcomes[self.ask(connection, photo)] += 1
                seconds.append(time.perf_counter() - began)

        began = time.perf_counter()
        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began, seconds, outcomes

    def go_wrong(self, photos: list[bytes]) -> None:
        """A replica is killed, half a head is sent, 400 MB are, and SIGTERM comes."""
        victim = self._replicas()[-1]
        threading.Timer(1, os.kill, (victim, signal.SIGKILL)).start()
        seconds, each, outcomes = self.burst(photos)
        print(f"{self.kind}: a replica killed: {dict(outcomes)} in {seconds:.1f} s, the slowest {max(each):.1f} s")
        with socket.create_connection(("127.0.0.1", self.port), timeout=40) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nX: ")
            began = time.perf_counter()
            try:
                connection.recv(100)
                print(f"{self.kind}: half a head: closed after {time.perf_counter() - began:.0f} s")
            except TimeoutError:
                print(f"{self.kind}: half a head: open after 40 s")
        before = peak = self.memory()
        with socket.create_connection(("127.0.0.1", self.port), timeout=40) as connection:
            kind = b"application/json" if self.kind == "litserve" else b"image/jpeg"
            head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 400000000\r\nContent-Type: " + kind
            try:
                connection.sendall(head + b"\r\n\r\n")
                for _ in range(39):
                    connection.sendall(bytes(10_000_000))
                    peak = max(peak, self.memory())
            except OSError:
                pass
            print(f"{self.kind}: 390 of 400 MB: memory {before:.0f} → {peak:.0f} MB")
        lines = {pid: command_line(pid) for pid in self.processes()}
        threading.Timer(1, self.process.send_signal, (signal.SIGTERM,)).start()
        outcomes = self.burst(photos)[2]
        try:
            status = str(self.process.wait(60))
        except subprocess.TimeoutExpired:
            status = "none within 60 s"
        time.sleep(5)
        left = [pid for pid, line in lines.items() if line and command_line(pid) == line]
        print(f"{self.kind}: SIGTERM after 1 s: {dict(outcomes)}, exit status {status}, {len(left)} processes left")
        for pid in left:
            os.kill(pid, signal.SIGKILL)

    def _replicas(self) -> list[int]:
        self.log.seek(0)
        stated = [int(line.split("REPLICA ")[1].split()[0]) for line in self.log if "REPLICA " in line]
        return stated or [pid for pid in self.processes() if b"spawn_main" in command_line(pid)]


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def load(model: str) -> Any:
    import effnets
    from effnets.inference.predictor import create_predictor

    print("REPLICA", os.getpid(), flush=True)
    return create_predictor(effnets.load_engine(model, threads=1))


def classify(predictor: Any, bodies: list[bytes]) -> list[Any]:
    from effnets.inference.labels import rank

    logits = predictor.logits([predictor.prepare(body) for body in bodies])
    return [[(one.index, one.probability) for one in found] for found in rank(logits, predictor.class_names, 5)]


if sys.argv[1:2] == ["litserve"]:  # not in a function: LitServe pickles the class by its name
    import litserve

    class API(litserve.LitAPI):
        """The task, for LitServe."""

        def setup(self, device: str) -> None:  # noqa: ARG002
            self.predictor = load(sys.argv[2])

        def decode_request(self, request: dict[str, str]) -> bytes:
            return base64.b64decode(request["image"])

        def batch(self, inputs: list[bytes]) -> list[bytes]:
            return inputs

        def predict(self, batch: list[bytes]) -> list[Any]:
            return classify(self.predictor, batch)

        def unbatch(self, output: list[Any]) -> list[Any]:
            return output

        def encode_response(self, output: Any) -> Any:
            return output


def run_litserve(_model: str, port: int) -> None:
    server = litserve.LitServer(
        API(max_batch_size=BATCH, batch_timeout=WAIT),
        accelerator="cpu",
        workers_per_device=REPLICAS,
        restart_workers=True,
        timeout=30,
        max_payload_size=20_000_000,
    )
    server.run(port=port, host="127.0.0.1", num_api_servers=1, generate_client_file=False, log_level="warning")


def run_ray(model: str, port: int) -> None:
    import asyncio

    import ray
    from ray import serve
    from starlette.requests import Request

    class API:
        def __init__(self) -> None:
            self.predictor = load(model)

        @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT)
        async def classify(self, bodies: list[bytes]) -> list[Any]:
            return await asyncio.to_thread(classify, self.predictor, bodies)

        async def __call__(self, request: Request) -> Any:
            return await self.classify(await request.body())

    API.__call__.__annotations__["request"] = Request
    deployment = serve.deployment(
        API, num_replicas=REPLICAS, max_ongoing_requests=32, max_queued_requests=64, ray_actor_options={"num_cpus": 1}
    )
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(deployment.bind(), route_prefix="/predict", blocking=True)


def run_effnets(model: str, port: int) -> None:
    options = ["--replicas", str(REPLICAS), "--threads", "1", "--max-batch", str(BATCH), "--timeout-s", "10"]
    os.execv(sys.executable, [sys.executable, "-m", "effnets", "serve", model, "--port", str(port), *options])


PROGRAMS = {"litserve": run_litserve, "ray": run_ray, "effnets": run_effnets}


if __name__ == "__main__":
    main()
