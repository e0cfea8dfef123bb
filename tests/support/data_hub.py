"""A data set on a Hub of this machine, for the Hub's own client: what it lists, states and sends by ranges."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs

import pytest

from tests.support.local_server import local_server

COMMIT, NEXT_COMMIT = "a" * 40, "b" * 40


@dataclass
class HubServer:
    """The repository ``org/set``, and what was asked for.

    Attributes:
        files: by path, at every commit. commit: where the branch is.
        address: of the Hub. token: that must be shown; None for none.
        redirects: addresses that paths are sent on to.
        whole: how often each file was requested as a whole.
        sent: bytes of contents by ranges.
        turned_away: requests without the token.
    """

    files: dict[str, bytes]
    address: str = ""
    commit: str = COMMIT
    token: str | None = None
    redirects: dict[str, str] = field(default_factory=dict)
    whole: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    turned_away: int = 0

    def entry(self, path: str) -> dict[str, object]:
        return {"type": "file", "path": path, "size": len(self.files[path]), "oid": etag(self.files[path])}

    def tree(self, folder: str) -> list[dict[str, object]]:
        below = [path for path in self.files if path.startswith(folder)]
        folders = {folder + path[len(folder) :].partition("/")[0] for path in below if "/" in path[len(folder) :]}
        files = [self.entry(path) for path in below if "/" not in path[len(folder) :]]
        return files + [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)]


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def table(pictures: list[bytes | None], labels: list[int], names: list[str], row_group: int = 3) -> bytes:
    """A parquet file as the `datasets` library writes it, with columns photo and kind."""
    import datasets

    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=names)})
    photos = [None if one is None else {"bytes": one, "path": None} for one in pictures]
    file = io.BytesIO()
    datasets.Dataset.from_dict({"photo": photos, "kind": labels}, features=features).to_parquet(
        file, batch_size=row_group
    )
    return file.getvalue()


def make_the_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the Hub's client, which reads its environment once, take this for the Hub, and be online."""
    import datasets
    import huggingface_hub

    for constants in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)


@contextmanager
def serving_hub(files: Mapping[str, bytes]) -> Iterator[HubServer]:
    """Serve on a port of this machine while entered."""
    hub = HubServer(dict(files))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                hub.turned_away += 1
                self.answer(401, X_Error_Code="RepoNotFound")
            elif re.fullmatch(r"/api/datasets/org/set(/revision/[^/]+)?", path):
                revision = path.partition("/revision/")[2]
                known = revision if len(revision) == 40 else hub.commit
                self.answer(200, json.dumps({"id": "org/set", "sha": known, "siblings": []}).encode())
            elif found := re.fullmatch(r"/api/datasets/org/set/tree/[^/]+/?(.*)", path):
                listed = hub.tree(found[1] + "/" if found[1] else "")
                self.answer(200 if listed else 404, json.dumps(listed).encode(), X_Error_Code="EntryNotFound")
            elif path.startswith("/api/datasets/org/set/paths-info/"):
                asked = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
                self.answer(200, json.dumps([hub.entry(one) for one in asked["paths"] if one in hub.files]).encode())
            elif (found := re.fullmatch(r"/datasets/org/set/resolve/[^/]+/(.*)", path)) and found[1] in hub.files:
                self.send_content(found[1])
            else:
                known = "RepoNotFound" if "org/set" not in path else "EntryNotFound"
                self.answer(404, X_Error_Code=known, X_Repo_Commit=hub.commit)

        do_HEAD = do_POST = do_GET  # noqa: N815 (names of the base class's making)

        def send_content(self, path: str) -> None:
            content = hub.files[path]
            headers = {"ETag": f'"{etag(content)}"', "X_Repo_Commit": hub.commit, "Accept_Ranges": "bytes"}
            begin, _, end = (self.headers.get("Range") or "").removeprefix("bytes=").partition("-")
            if path in hub.redirects:
                headers |= {"X_Linked_Etag": headers["ETag"], "X_Linked_Size": str(len(content))}
                self.answer(302, Location=hub.redirects[path], **headers)
            elif end:
                part = content[int(begin) : int(end) + 1]
                hub.sent["ranges"] += len(part)
                self.answer(206, part, **headers, Content_Range=f"bytes {begin}-{end}/{len(content)}")
            else:
                hub.whole[path] += self.command == "GET" and path.endswith(".parquet")
                self.answer(200, content, **headers)

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    with local_server(Handler) as hub.address:
        yield hub
