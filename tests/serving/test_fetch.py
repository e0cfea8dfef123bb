"""Images by their address: from allowed hosts, and nothing else that the server can reach."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler

import httpx
import pytest

import effnets
from effnets.errors import ArgumentError
from effnets.serving.fetch import Fetcher, is_public
from tests.support.exported import describe, write
from tests.support.local_server import local_server
from tests.support.serving import photo, serving

PHOTO = photo()


class Handler(BaseHTTPRequestHandler):
    """Photographs, and what a hostile server may answer instead."""

    def do_GET(self):
        status = {"/moved": 302, "/gone": 404}.get(self.path, 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/photo.png")
        self.end_headers()
        if self.path.startswith("/photo.png"):
            self.wfile.write(PHOTO)
        elif self.path == "/text":
            self.wfile.write(b"not an image")
        elif self.path == "/host":
            self.wfile.write(self.headers["Host"].encode())
        elif self.path == "/slow":
            time.sleep(3)
        elif self.path == "/large":
            try:
                for _ in range(1000):
                    self.wfile.write(bytes(10_000))
            except OSError:
                self.server.refused = True


@pytest.fixture(scope="module")
def files():
    with local_server(Handler) as address:
        yield address


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "mean.onnx", describe())


@pytest.fixture(scope="module")
def server(model, files):
    port = httpx.URL(files).port
    hosts = [option for host in ("127.0.0.1", "localhost") for option in ("--allow-urls", f"{host}:{port}")]
    with serving(model, *hosts, "--max-body-mb", 0.1, "--timeout-s", 2, "--max-images", 3) as running:
        yield running


def ask(server, **body):
    return server.post(json.dumps(body).encode(), "application/json")  # as ASCII: UTF-8 cannot hold all of it


def test_an_address_and_several_are_answered_in_order(server, files, model):
    (row,) = ask(server, url=f"{files}/photo.png").json()
    assert row["path"] == f"{files}/photo.png"
    expected = effnets.predict(effnets.load_engine(model, threads=1), PHOTO)[0]
    assert [one["label"] for one in row["predictions"]] == [one.label for one in expected]
    urls = [f"{files}/photo.png?1", f"{files}/gone", f"{files}/photo.png?2".replace("127.0.0.1", "localhost")]
    rows = ask(server, urls=urls).json()
    assert [row["path"] for row in rows] == urls
    assert ["predictions" in row for row in rows] == [True, False, True]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/gone", "cannot be fetched: the answer has status 404; check the address"),
        ("/moved", "status 302, and redirects are not followed"),
        ("/text", "/text is not an image"),
        ("/empty", "it is empty"),
        ("/large", "it is larger than 0.1 MB"),
        ("/slow", "did not arrive within 2 seconds"),
    ],
)
def test_what_cannot_be_fetched_has_its_reason(server, files, path, reason):
    response = ask(server, url=files + path)
    assert response.status_code == 422
    assert reason in response.json()["error"]


@pytest.mark.parametrize(
    "address",
    [
        *("file:///etc/passwd", "ftp://127.0.0.1/a", "http://127.0.0.1/a", "http://127.0.0.1:1/a", "/etc/passwd"),
        *(
            "http://example.com/",
            "http://localhost.example.com/",
            "http://[::1]/",
            "http://user@localhost/",
            "http://[",
        ),
        *("http://2130706433/", "data:image/png;base64,AAAA", "//localhost/a"),
        *("http://localhost/\ud800", "\ud800", "http://xn--ls8h.com/"),  # UTF-8 and IDNA cannot hold them
    ],
)
def test_other_addresses_are_refused(server, files, address):
    response = ask(server, urls=[f"{files}/photo.png", address])
    assert response.status_code == 403
    assert repr(address) in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no json", 400),
        (b"[" * 100_000, 400),
        (b'{"url": 3}', 400),
        (b'{"url": "a", "urls": []}', 400),
        (b'{"urls": []}', 400),
        (b'{"urls": "http://a"}', 400),
        (b'{"urls": ["a", "b", "c", "d"]}', 413),
        (b"[]", 400),
    ],
)
def test_other_json_is_refused(server, body, status):
    response = server.post(body, "application/json")
    assert response.status_code == status
    assert response.json()["error"]


def test_a_name_of_a_private_address_is_refused_unless_the_address_is_listed(model, files):
    port = httpx.URL(files).port
    with serving(model, "--allow-urls", f"localhost:{port}") as server:
        response = ask(server, url=f"http://localhost:{port}/photo.png")
    assert response.status_code == 422
    assert "the address of localhost is not a public one" in response.json()["error"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("8.8.8.8", True), ("2606:4700::1111", True)),
        *((address, False) for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1")),
        *((address, False) for address in ("::1", "::", "fe80::1%eth0", "fc00::1", "224.0.0.1", "192.168.0.1")),
        *((address, False) for address in ("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1")),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) == public


@pytest.mark.parametrize("host", ["", "http://a", "a/b", "user@a", "a?b", "a:port", "a b", "xn--ls8h.com"])
def test_what_is_not_a_host_is_an_error(host):
    with pytest.raises(ArgumentError, match="is not a host; give its name"):
        Fetcher([host])
