"""What clients send, and the status and sentence that they get."""

from __future__ import annotations

import io
import json
import re
import struct
import time
import zlib

import httpx
import jsonschema
import numpy as np
import pytest
from PIL import Image

import effnets
from effnets.inference.image import PhotoResult
from tests.support.exported import describe, write
from tests.support.serving import photo, serving

LIMITS = ("--max-body-mb", 1, "--max-pixels", 1_000_000, "--max-images", 3, "--max-queue", 40)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "mean.onnx", describe())


@pytest.fixture(scope="module")
def server(model):
    with serving(model, *LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def hurried(model):
    with serving(model, *LIMITS, "--timeout-s", 1) as running:
        yield running


@pytest.fixture(scope="module")
def expect(model):
    engine = effnets.load_engine(model, threads=1)

    def rows(data, topk=5):
        return PhotoResult("", effnets.predict(engine, data, topk)[0]).to_dict()["predictions"]

    return rows


def close(found, expected):
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    assert [one["probability"] for one in found] == pytest.approx([one["probability"] for one in expected], abs=1e-5)


def error_of(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (message,) = response.json().values()
    assert list(response.json()) == ["error"]
    return message


def oriented(seed):
    exif = Image.Exif()
    exif[0x0112] = 6
    return photo(seed, suffix="jpeg", exif=exif)


def sixteen_bits():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 30).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "IMAGE/JPEG; a=b"])
@pytest.mark.parametrize(
    "data", [photo(1), photo(2, suffix="webp"), oriented(3), sixteen_bits()], ids=["png", "webp", "turned", "16-bit"]
)
def test_a_body_is_answered_as_predict_does(server, expect, data, kind):
    (row,) = server.post(data, kind).json()
    assert row["path"] == "body"
    close(row["predictions"], expect(data))


def test_files_of_a_form_are_answered_in_order_under_their_names(server, expect):
    data = [photo(seed) for seed in range(3)]
    names = ["../../etc/passwd", "ü %.png", "c"]
    files = [(field, (name, one)) for field, name, one in zip(["x", "y", "x"], names, data, strict=True)]
    rows = server.client.post("/predict", params={"topk": 2}, files=files).json()
    assert [row["path"] for row in rows] == ["../../etc/passwd", "ü %.png", "c"]
    for row, one in zip(rows, data, strict=True):
        close(row["predictions"], expect(one, 2))


def test_an_unreadable_image_among_several_has_its_reason(server, expect):
    files = [("a", ("a.png", photo())), ("b", ("notes.txt", b"not an image")), ("c", ("empty.png", b""))]
    good, bad, empty = server.client.post("/predict", files=files).json()
    close(good["predictions"], expect(photo()))
    assert bad == {
        "path": "notes.txt",
        "error": "notes.txt is not an image that Pillow can read; convert it to JPEG or PNG",
    }
    assert empty == {"path": "empty.png", "error": "empty.png is empty (0 bytes); send it again"}


def bomb():
    """A PNG that claims to have 4 megapixels."""
    header = struct.pack(">IIBBBBB", 2000, 2000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "body is not an image"),
        (b"", "body is empty"),
        (photo()[:300], "may be damaged or cut short"),
        (bomb(), r"not decoded: Image size \(4000000 pixels\) exceeds limit of 1000000.* Scale it down$"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "body is not an image"),  # Ghostscript's
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "body is not an image"),
    ],
    ids=["text", "empty", "cut", "bomb", "eps", "svg"],
)
def test_a_single_unreadable_image_has_status_422(server, data, reason):
    assert re.search(reason, error_of(server.post(data), 422))


FORM = {"Content-Type": "multipart/form-data; boundary=x"}
PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + photo() + b"\r\n"


@pytest.mark.parametrize(
    ("status", "reason", "request_"),
    [
        (404, "nothing at this path", {"url": "/elsewhere"}),
        (405, "does not take this method", {"method": "GET"}),
        (400, "topk is '0'", {"params": {"topk": 0}}),
        (400, "topk is '٣'", {"params": {"topk": "٣"}}),
        (400, "topk is '9999999'", {"params": {"topk": 9999999}}),
        (400, "'top_k' is unknown", {"params": {"top_k": 3}}),
        (415, "image/svg\\+xml is not read", {"headers": {"Content-Type": "image/svg+xml"}}),
        (415, "a body without Content-Type", {"headers": {}}),
        (415, "text/plain is not read", {"headers": {"Content-Type": "text/plain"}}),
        (415, "Content-Encoding gzip is not", {"headers": {"Content-Type": "image/png", "Content-Encoding": "gzip"}}),
        (403, "not fetched by their address", {"json": {"url": "file:///etc/passwd"}, "content": None}),
        (400, "boundary", {"headers": {"Content-Type": "multipart/form-data"}}),
        (400, "the form", {"headers": {"Content-Type": "multipart/form-data; boundary=x"}}),
        (400, "cut short", {"headers": FORM, "content": PART + PART}),
        (400, "cut short", {"headers": FORM, "content": PART + PART[:-9]}),
        (400, "field 'a' is not a file", {"files": {"a": (None, b"text")}, "content": None}),
        (413, "more than 3 images", {"files": [("a", (f"{i}", b"x")) for i in range(4)], "content": None}),
        (413, "larger than 1 MB", {"content": bytes(1_000_001)}),
        (413, "larger than 1 MB", {"files": {"a": ("a", bytes(1_000_001))}, "content": None}),
        (413, "larger than 1 MB", {"content": (bytes(1000) for _ in range(1001))}),
    ],
)
def test_errors_have_their_status_and_say_what_to_do(server, status, reason, request_):
    options = {
        "method": "POST",
        "url": "/predict",
        "headers": {"Content-Type": "image/png"},
        "content": b"x",
        **request_,
    }
    if options["content"] is None:
        options.pop("headers")
    response = server.client.request(**options)
    assert re.search(reason, error_of(response, status))
    if status == 405:
        assert response.headers["allow"] == "POST"


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + bytes([65]) * 100_000, b"400"),  # a head without end
        (HEAD + b"Content-Length: 1000000000\r\n\r\n", b"413"),
        (HEAD + b"Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n", b"413"),
        (HEAD + b"Content-Length: 10\r\n\r\nabc", b"408"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nnumber\r\n", b"400"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (HEAD[:40], b""),
        (b"", b""),
    ],
    ids=[
        "nonsense",
        "endless head",
        "announced",
        "expect",
        "slow body",
        "bad chunk",
        "two lengths",
        "slow head",
        "silent",
    ],
)
def test_bad_and_slow_connections_are_ended(hurried, sent, expected):
    began = time.monotonic()
    with hurried.connect() as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
    assert time.monotonic() - began < 10  # 2 on a machine at rest
    assert answer[9:12] == expected
    if answer:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"connection: close" in head.lower()
        assert json.loads(body)["error"]


def test_a_slow_body_that_drips_is_ended_too(hurried):
    with hurried.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        began = time.monotonic()
        connection.settimeout(0.2)
        answer = b""
        while not answer and time.monotonic() - began < 9:
            connection.sendall(b"x")
            try:
                answer = connection.recv(1000)
            except TimeoutError:
                continue
        assert b"did not arrive within 1 seconds" in answer


def test_memory_is_bounded_whatever_is_sent(server):
    """Bodies of 50 MB in chunks, 16 at a time, with a limit of 1 MB."""
    server.post(photo())
    before = server.memory()
    connections = [server.connect() for _ in range(16)]
    for connection in connections:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    piece = b"%x\r\n%s\r\n" % (1 << 20, bytes(1 << 20))
    most = 0.0
    for _ in range(50):
        for connection in list(connections):
            try:
                connection.sendall(piece)
            except OSError:
                connections.remove(connection)
                connection.close()
        most = max(most, server.memory())
    for connection in connections:
        connection.close()
    assert most - before < 60
    assert server.post(photo()).status_code == 200


def test_answers_and_errors_fit_the_openapi_document(server):
    api = server.client.get("/openapi.json").json()
    jsonschema.Draft202012Validator.check_schema(api["components"]["schemas"]["Result"])
    responses = api["paths"]["/predict"]["post"]["responses"]

    def check(response):
        schema = responses[str(response.status_code)]["content"]["application/json"]["schema"]
        jsonschema.validate(response.json(), {**schema, "components": api["components"]})

    check(server.post(photo()))
    check(server.client.post("/predict", files=[("a", ("a", photo())), ("a", ("b", b"x"))]))
    for response in (server.post(b"x"), server.post(bytes(2_000_000)), server.post(b"x", "text/plain")):
        check(response)
    assert "application/json" not in api["paths"]["/predict"]["post"]["requestBody"]["content"]
    for path, methods in api["paths"].items():
        if "get" in methods:
            response = server.client.get(path)
            assert response.headers["content-type"].partition(";")[0] in methods["get"]["responses"]["200"]["content"]


def test_the_page_loads_nothing(server):
    page = server.client.get("/docs").text
    assert "POST /predict" in page
    assert not re.search(r"<script|<link|<img|//", page.removeprefix("<!doctype html>"))


def metric(server, name):
    (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", server.client.get("/metrics").text, re.MULTILINE) or ["0"]
    return float(value)


def test_metrics_count(server):
    names = [
        *('effnets_requests_total{status="200"}', 'effnets_requests_total{status="422"}'),
        *('effnets_images_total{outcome="classified"}', 'effnets_images_total{outcome="unreadable"}'),
        *("effnets_request_seconds_count", "effnets_batch_size_sum"),
    ]
    before = [metric(server, name) for name in names]
    server.client.post("/predict", files=[("a", ("a", photo())), ("a", ("b", b"x"))])
    server.post(b"x")
    assert [metric(server, name) - old for name, old in zip(names, before, strict=True)] == [1, 1, 1, 2, 2, 3]
    assert metric(server, "effnets_queue_images") == 0
    assert metric(server, "effnets_replicas_ready") == 1


def test_it_is_alive_and_ready(server):
    assert server.client.get("/health").json() == {"status": "alive"}
    ready = server.client.get("/ready").json()
    assert ready == {"status": "ready", "model": "mean", "engine": "onnxruntime", "replicas": 1}


def test_a_connection_is_kept_for_further_requests(server):
    with httpx.Client(base_url=server.address, limits=httpx.Limits(max_connections=1)) as client:
        for seed in range(3):
            response = client.post("/predict", content=photo(seed), headers={"Content-Type": "image/png"})
            assert response.status_code == 200
            assert "connection" not in response.headers
