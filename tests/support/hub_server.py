"""A server on this machine that answers the Hub's questions about files, and serves some by URL."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.support.local_server import local_server

COMMIT = "89abcdef01" * 4


@dataclass
class Hub:
    """`files` by ``org/repo/name`` on the Hub, `plain` ones and `moved` addresses by path."""

    files: dict[str, bytes] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0].removeprefix("/")
            if path.startswith("api/models/"):
                self.answer_api(path.removeprefix("api/models/"))
            elif "/resolve/" in path:
                repo, _, rest = path.partition("/resolve/")
                self.answer(hub.files.get(f"{repo}/{rest.partition('/')[2]}"), linked=True)
            elif path in hub.moved:
                self.send_response(301)
                self.send_header("Location", f"{hub.url}/{hub.moved[path]}")
                self.end_headers()
            else:
                self.answer(hub.plain.get(path))

        do_HEAD = do_GET  # noqa: N815

        def answer_api(self, repo: str) -> None:
            name = hub.renamed.get(repo, repo)
            known = any(file.startswith(f"{name}/") for file in hub.files)
            self.answer(json.dumps({"id": name, "sha": COMMIT}).encode() if known else None)

        def answer(self, content: bytes | None, linked: bool = False) -> None:
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound" if linked else "RepoNotFound")
            elif linked:
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

    with local_server(Handler) as hub.url:
        yield hub
