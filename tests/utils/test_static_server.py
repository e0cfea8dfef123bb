"""What StaticServer hands out, and what it keeps to itself."""

from __future__ import annotations

import http.client
from threading import Thread

import pytest

from effnets.errors import ArgumentError
from effnets.utils.static_server import StaticServer


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "site"
    (folder / "ort").mkdir(parents=True)
    for name in ("index.html", "app.js", "ort/a.mjs", "ort/a.wasm", "model.json", "style.css", "model.onnx"):
        (folder / name).write_text(name)
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    with StaticServer(folder, 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def request(server, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/ort/a.mjs", "text/javascript; charset=utf-8"),
        ("/ort/a.wasm?v=1", "application/wasm"),
        ("/model.json", "application/json"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/model.onnx", "application/octet-stream"),
    ],
)
def test_files_have_their_types_and_the_headers_that_threads_need(server, path, kind):
    response, body = request(server, path)
    assert response.status == 200
    assert body.decode() == (path.partition("?")[0][1:] or "index.html")
    assert response.headers["Content-Type"] == kind
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/ort/../../secret.txt",
        "/..%2fsecret.txt",
        "//secret.txt",
        "/link.txt",  # leads outside
        "/ort/",  # no listing
        "/ort",
        "/missing.js",
    ],
)
def test_nothing_else_is_found(server, path):
    response, body = request(server, path)
    assert response.status == 404
    assert b"secret\n" not in body
    assert b"a.wasm" not in body


def test_head_sends_no_body_and_post_is_refused(server):
    response, body = request(server, "/app.js", "HEAD")
    assert (response.status, body, response.headers["Content-Length"]) == (200, b"", "6")
    assert request(server, "/app.js", "POST")[0].status == 501


def test_a_port_in_use_is_an_error_that_names_it(server, tmp_path):
    with pytest.raises(ArgumentError, match=rf"^port {server.server_port} is in use; choose another, --port N$"):
        StaticServer(tmp_path, server.server_port)


def test_only_this_machine_is_served(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"
