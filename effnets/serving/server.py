"""Run the application on a port, until SIGTERM or SIGINT; then answer what has arrived, and return."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from effnets.errors import ArgumentError
from effnets.serving.app import create_app
from effnets.serving.fetch import Fetcher
from effnets.serving.metrics import Metrics
from effnets.serving.pool import ReplicaPool
from effnets.serving.replica import Load, Replica, ServedModel
from effnets.serving.request import Limits, RequestReader

_MAX_CONNECTIONS = 1024
_GRACE = 3.0  # seconds, at most, for the answer that the body was late, before the connection is closed without one


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How the server works.

    Attributes:
        replicas: number of processes that hold the model. threads: of each, that decode.
        max_batch: images in a batch. batch_wait: seconds to wait for them.
        limits: what clients may ask for.
        hosts: from which images are fetched by their address; none refuses all.
    """

    replicas: int
    threads: int
    max_batch: int
    batch_wait: float
    limits: Limits
    hosts: Sequence[str] = ()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; port 0 takes a free one.

    Raises:
        ArgumentError: if the port is in use, not permitted, or the host is not an address of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        hint = {
            errno.EADDRINUSE: "another program uses it; stop that, or choose another --port",
            errno.EACCES: "only the administrator may use it; choose a --port above 1023",
        }.get(error.errno or 0, f"{error.strerror}; give an address of this machine by --host")
        raise ArgumentError(f"port {port} of {host} cannot be used: {hint}") from None
    return bound


def serve(
    load: Load, listener: socket.socket, options: ServerOptions, started: Callable[[ServedModel], object]
) -> None:
    """Serve the model that `load` returns on a socket of `bind`, until SIGTERM or SIGINT.

    `started` is called once requests are answered. Raises what `load` raises in the replica, ArgumentError if a host is
    not one, and OSError if the address has been taken in the meantime. Linux and macOS.
    """
    asyncio.run(_serve(load, listener, options, started))


async def _serve(
    load: Load, listener: socket.socket, options: ServerOptions, started: Callable[[ServedModel], object]
) -> None:
    limits, metrics = options.limits, Metrics()
    fetcher = Fetcher(options.hosts) if options.hosts else None
    pool = ReplicaPool(
        [Replica(load, options.threads, limits.pixels) for _ in range(options.replicas)],
        metrics,
        max_batch=options.max_batch,
        batch_wait=options.batch_wait,
        max_queue=limits.queue,
        timeout=limits.timeout,
    )
    app = create_app(pool, RequestReader(limits, fetcher), limits, metrics, urls=fetcher is not None)
    config = uvicorn.Config(
        app,
        http=_protocol(limits.timeout + min(_GRACE, limits.timeout)),
        ws="none",
        lifespan="off",
        log_config=None,  # uvicorn's own closes every handler of the process, absl's with standard error in it
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(2 * limits.timeout) + 1,
    )
    server = _Server(config, lambda: started(pool.model))
    try:
        await pool.start()
        # uvicorn sends itself the signal again once it has ended; the status is to be 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        await server.serve([listener])
    finally:
        await pool.close()
        if fetcher is not None:
            await fetcher.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()


def _protocol(deadline: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with what it lacks: a request must arrive within `deadline` seconds, head and body.

    Otherwise its connection is closed. Connections are bounded in number, and errors are JSON.
    """

    class Protocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()
            if len(self.connections) > _MAX_CONNECTIONS:
                self._refuse(503, f"the server has {_MAX_CONNECTIONS} connections already; ask again later")

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            self._watch()
            super().data_received(data)
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._unwatch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def shutdown(self) -> None:
            if self.cycle is not None:  # so that its client does not send another request on this connection
                self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]
            super().shutdown()

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's is the same for all)
            self._refuse(400, "this is not a valid HTTP request; see /docs for how to ask")

        def _watch(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(deadline, self.transport.close)

        def _unwatch(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _refuse(self, status: int, message: str) -> None:
            body = json.dumps({"error": message}).encode()
            headers: list[tuple[str, str]] = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            if status == 503:
                headers.append(("Retry-After", "1"))
            events: list[Any] = [
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ]
            with suppress(h11.LocalProtocolError):  # the request has its answer already
                for event in events:
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Protocol
