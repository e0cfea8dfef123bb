"""Serve a folder of static files to browsers on this machine, with the headers that WebAssembly's threads need."""

from __future__ import annotations

import errno
import io
import os
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

from effnets.errors import ArgumentError

_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


# Not the system's table, which on some machines calls scripts text/plain.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
}


class StaticServer(ThreadingHTTPServer):
    """Serves the files of a folder on 127.0.0.1: no listing of folders, and nothing outside, also not through links.

    Attributes:
        url: of the folder.

    Raises:
        ArgumentError: if the port is taken or forbidden.
    """

    daemon_threads = True  # browsers keep connections open
    allow_reuse_address = os.name == "posix"  # on Windows two programs would share the port

    def __init__(self, folder: Path, port: int) -> None:
        try:
            super().__init__(("127.0.0.1", port), partial(_Handler, directory=str(folder.resolve())))
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror or error})"
            raise ArgumentError(f"port {port} {reason}; choose another, --port N") from None
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a browser that went away is no error
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    def send_head(self) -> io.BytesIO | BinaryIO | None:
        root, path = Path(self.directory), Path(self.translate_path(self.path)).resolve()
        if not path.is_relative_to(root) or (path.is_dir() and path != root):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def list_directory(self, path: str | os.PathLike[str]) -> io.BytesIO | None:
        del path
        self.send_error(HTTPStatus.NOT_FOUND)
        return None

    def guess_type(self, path: str | os.PathLike[str]) -> str:
        return _TYPES.get(Path(path).suffix.lower(), "application/octet-stream")

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: what is served is no news."""
