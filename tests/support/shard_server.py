"""A server of files that can be told to fail: to cut transfers, to refuse, to know nothing of ranges."""

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
        ranges: whether parts can be asked for. misplaced: how many of them begin a byte too late.
        redirects: where names are sent on to, with their status.
        asked: how often each name was; resumed: how often from the middle on. sent: bytes of contents.
        tokens: what each request showed to be let in; None for nothing.
    """

    files: dict[str, bytes]
    address: str = ""
    cuts: list[int] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    ranges: bool = True
    misplaced: int = 0
    redirects: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    sent: int = 0
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
            elif name in state.redirects:
                status, address = state.redirects[name]
                self.send_response(status)
                self.send_header("Location", address)
                self.end_headers()
            elif name not in state.files:
                self.send_error(404)
            else:
                self.send_content(state.files[name])

        def send_content(self, content: bytes) -> None:
            etag, start = f'"{hash(content)}"', 0
            asked = self.headers.get("Range")
            if asked and state.ranges and self.headers.get("If-Range") == etag:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                state.resumed += 1
                if state.misplaced:
                    state.misplaced -= 1
                    start += 1
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", etag)
            self.end_headers()
            end = start + state.cuts.pop(0) if state.cuts else len(content)
            self.wfile.write(content[start:end])
            state.sent += len(content[start:end])
            self.close_connection = True

    with local_server(Handler) as address:
        state.address = f"{address}/"
        yield state
