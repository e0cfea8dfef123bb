"""A Hub on this machine that answers as the real one does, until it is told to misbehave."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.support.local_server import local_server

COMMIT = "0123456789" * 4
TOKEN = "hf_good"


@dataclass
class Fault:
    """What goes wrong with requests of `method` for names that end with `path`, `times` times.

    `kind` is a status (500), or ``cut``, ``flip``, ``short``, ``stall``. `headers` go with a status.
    """

    kind: int | str
    times: int = 1_000_000
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    path: str = ""


@dataclass
class Hub:
    """`files` by ``org/repo/name`` on the Hub and by path as plain URLs; `private` repositories want the token.

    `files` are those of `commit`, where the branch is; `history` has those of earlier ones. What `after` has for the
    end of a path is done once a GET for it has been answered.

    `xet` is announced as the hash of every file in Xet's storage, of which there is none here.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    private: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    commit: str = COMMIT
    history: dict[str, dict[str, bytes]] = field(default_factory=dict)
    after: dict[str, Callable[[], object]] = field(default_factory=dict)
    slowness: float = 0.0
    xet: str = ""
    url: str = ""

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that this request has to suffer; what the client asks for beside files (who it is) has none."""
        if method != "POST" and path.startswith("/api/"):
            return None
        for fault in self.faults:
            if fault.method == method and path.endswith(fault.path) and fault.times > 0:
                fault.times -= 1
                return fault
        return None


def _repository(created: dict[str, str]) -> str:
    return f"{created.get('organization') or 'user'}/{created['name']}"


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            hub.requests.append(f"{self.command} {self.path}")
            fault = hub.fault(self.command, self.path)
            if fault is not None and isinstance(fault.kind, int):
                self.refuse(fault.kind, fault.headers)
                return
            path = self.path.partition("?")[0].removeprefix("/")
            repo, resolve, rest = path.partition("/resolve/")
            if repo in hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.refuse(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
                return
            revision, _, name = rest.partition("/")
            files = hub.history.get(revision, hub.files)
            commit = revision if revision in hub.history else hub.commit
            content = files.get(f"{repo}/{name}" if resolve else path)
            if re.fullmatch("[0-9a-f]{40}", revision) and revision != commit:
                self.refuse(404, {"X-Error-Code": "RevisionNotFound"})
            elif content is None:
                known = any(name.startswith(f"{repo}/") for name in files)
                lacks = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
                self.refuse(404, (lacks if known else {"X-Error-Code": "RepoNotFound"}) if resolve else {})
            else:
                self.send(content, fault.kind if fault else None, commit if resolve else None)
                for end, action in hub.after.items():
                    if self.command == "GET" and path.endswith(end):
                        action()

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            """An upload: a repository is made, every file is announced, and one commit brings them all."""
            self.close_connection = True
            hub.requests.append(f"{self.command} {self.path}")
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = hub.fault(self.command, self.path)
            if fault is not None and isinstance(fault.kind, int):
                self.refuse(fault.kind, fault.headers)
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.refuse(401, {"X-Error-Message": "Invalid username or password."})
            elif self.path == "/api/repos/create":
                self.answer({"url": f"{hub.url}/{_repository(json.loads(content))}"})
            elif self.path == "/api/validate-yaml":  # of the model card
                self.answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                names = [file["path"] for file in json.loads(content)["files"]]
                self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
            else:
                repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                for line in map(json.loads, content.splitlines()):
                    if line["key"] == "file":
                        data = base64.b64decode(line["value"]["content"])
                        hub.files[f"{repo}/{line['value']['path']}"] = data
                self.answer({"success": True, "commitOid": hub.commit, "commitUrl": f"{hub.url}/{repo}"})

        def answer(self, content: dict[str, object]) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def refuse(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", "Connection": "close", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def send(self, content: bytes, fault: int | str | None, commit: str | None) -> None:
            # The Hub knows small files by git's sha1, and large ones by their sha256.
            is_text = self.path.endswith((".json", ".yaml", ".md"))
            git_sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            announced = git_sha1 if is_text else hashlib.sha256(content).hexdigest()
            length, start = len(content), 0
            asked = self.headers.get("Range", "")
            if fault == "flip":
                content = content[:-1] + bytes([content[-1] ^ 1])
            if fault == "short":
                content = content[: length // 2]
            if asked.startswith("bytes="):
                start = int(asked.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if asked else 200)
            if commit is not None:
                self.send_header("X-Repo-Commit", commit)
                self.send_header("ETag" if is_text else "X-Linked-Etag", f'"{announced}"')
                if not is_text:
                    self.send_header("X-Linked-Size", str(length))
                if hub.xet and not is_text:
                    self.send_header("X-Xet-Hash", hub.xet)
                    self.send_header("X-Xet-Refresh-Route", f"{hub.url}/xet")
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{length - 1}/{length}")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command == "GET":
                self.send_body(content[start:], fault)

        def send_body(self, content: bytes, fault: int | str | None) -> None:
            try:
                if fault == "stall":
                    closing.wait(60)
                elif fault == "cut":
                    self.wfile.write(content[: len(content) // 2])
                else:
                    time.sleep(hub.slowness)
                    self.wfile.write(content)
            except OSError:
                pass  # the client has gone

    with local_server(Handler) as hub.url:
        try:
            yield hub
        finally:
            closing.set()
