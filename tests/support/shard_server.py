"""A server of files that cuts transfers or refuses requests on demand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.support.local_server import local_server


@dataclass
class ShardServer:
    """What is served, and what was asked for.

    Attributes:
        files: by name. address: to put before a name.
        cuts: after how many bytes the next transfers end. refusals: with what status the next requests are answered,
            0 for what was asked.
        asked: how often each name was.
        tokens: what each request showed to be let in; None for nothing.
    """

    files: dict[str, bytes]
    address: str = ""
    cuts: list[int] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    tokens: list[str | None] = field(default_factory=list)


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[ShardServer]:
    """Serve on a port of this machine while entered."""
    state = ShardServer(dict(files))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/").partition("?")[0]
            state.asked[name] += 1
            state.tokens.append(self.headers.get("Authorization"))
            if state.refusals and (status := state.refusals.pop(0)):
                self.send_error(status)
            elif name not in state.files:
                self.send_error(404)
            else:
                self.send_content(state.files[name])

        def send_content(self, content: bytes) -> None:
            begin, _, end = (self.headers.get("Range") or "").removeprefix("bytes=").partition("-")
            part = content[int(begin or 0) : int(end) + 1 if end else None]
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{int(begin) + len(part) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[: state.cuts.pop(0)] if state.cuts else part)
            self.close_connection = True

    with local_server(Handler) as address:
        state.address = f"{address}/"
        yield state
