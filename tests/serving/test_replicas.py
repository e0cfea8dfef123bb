"""Replicas: batches, a full queue, processes that end or hang, and the end of the server."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

import effnets
from effnets.serving.replica import EncodedImage, Replica
from tests.support import SHARED, needs_shared
from tests.support.exported import describe, write
from tests.support.serving import photo, serving


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "mean.onnx", describe())


@pytest.fixture(scope="module")
def large():
    """A small file that takes long: 25 megapixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (5000, 5000), (200, 10, 10)).save(buffer, "png")
    return buffer.getvalue()


def ask_all(server, bodies, clients=16):
    """The answers, in order."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda body: server.post(body, params={"topk": 1}), bodies))


def check(responses, bodies, expected):
    """Right answers and 503, nothing else; return how many of each."""
    for response, body in zip(responses, bodies, strict=True):
        if response.status_code == 200:
            (prediction,) = response.json()[0]["predictions"]
            assert prediction["index"] == expected[body].index
            assert prediction["probability"] == pytest.approx(expected[body].probability, abs=1e-5)
        else:
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
    return Counter(response.status_code for response in responses)


def test_batches_that_overlap_get_their_own_answers(model):
    images = [EncodedImage(f"{seed}.png", photo(seed)) for seed in range(60)]
    answered = effnets.predict(effnets.load_engine(model), [image.data for image in images], 1)
    expected = [found[0].probability for found in answered]
    assert len(set(expected)) == len(images)
    batches = [images[start : start + 3] for start in range(0, 60, 3)]
    replica = Replica(partial(effnets.load_engine, model, threads=1), 1, 1_000_000)
    replica.start()
    try:
        with ThreadPoolExecutor(2) as threads:
            answers = [one for batch in threads.map(lambda batch: replica.classify(batch, 1), batches) for one in batch]
    finally:
        replica.close()
    assert [answer.path for answer in answers] == [image.name for image in images]
    assert [answer.predictions[0].probability for answer in answers] == pytest.approx(expected, abs=1e-5)


def test_many_clients_get_their_own_answers_also_when_a_replica_is_killed(model):
    bodies = [photo(seed) for seed in range(200)]
    engine = effnets.load_engine(model, threads=1)
    expected = {body: effnets.predict(engine, body, 1)[0][0] for body in bodies}
    assert len({one.probability for one in expected.values()}) == len(bodies)
    with serving(model, "--replicas", 2, "--max-batch", 4) as server:
        assert check(ask_all(server, bodies), bodies, expected) == {200: 200}
        metrics = server.client.get("/metrics").text
        count, total = (
            float(metrics.partition(f"effnets_batch_size_{name} ")[2].split()[0]) for name in ("count", "sum")
        )
        assert total == 200
        assert count < 200

        before = server.children
        with ThreadPoolExecutor(1) as pool:
            answers = pool.submit(ask_all, server, bodies)
            time.sleep(0.1)
            os.kill(before[0], signal.SIGKILL)
        assert check(answers.result(), bodies, expected)[503] <= 4  # the batch in work
        deadline = time.monotonic() + 30
        while len(server.children) < 2 or server.client.get("/ready").json().get("replicas") != 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.children != before
        assert check(ask_all(server, bodies), bodies, expected) == {200: 200}
        assert any("a replica has ended" in line for line in server.lines)


def test_without_a_replica_it_is_not_ready_and_requests_wait_for_the_next(model):
    with serving(model) as server:
        os.kill(server.children[0], signal.SIGKILL)
        server.wait_for("/ready", 503)
        assert "no replica is ready" in server.client.get("/ready").json()["error"]
        assert server.client.get("/health").status_code == 200
        assert server.post(photo()).status_code == 200
        server.wait_for("/ready", 200)


def test_a_full_queue_is_refused_and_a_replica_that_hangs_is_replaced(model):
    with serving(model, "--max-images", 1, "--max-queue", 2, "--timeout-s", 1) as server:
        (before,) = server.children
        os.kill(before, signal.SIGSTOP)
        responses = ask_all(server, [photo()] * 8, clients=8)
        errors = Counter(response.json()["error"] for response in responses)
        assert {response.status_code for response in responses} == {503}
        assert errors["the server is busy: 2 images are in its queue; ask again later"] == 6
        assert errors["no answer within 1 seconds; ask again later"] == 2
        deadline = time.monotonic() + 30
        while server.children in ([before], []) or server.post(photo()).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_it_ends_while_a_replica_is_restarted_or_hangs(model, number):
    with serving(model, "--replicas", 2) as server:
        replicas = server.children
        os.kill(replicas[0], number)
        if number == signal.SIGKILL:
            while server.children == replicas or len(server.children) < 2:
                time.sleep(0.001)
        server.process.terminate()
        assert server.process.wait(30) == 0
        assert not any(map(is_running, replicas))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(model, large, number):
    with serving(model, "--max-batch", 1) as server, ThreadPoolExecutor(3) as pool:
        replicas = server.children
        answers = [pool.submit(server.post, large) for _ in range(3)]
        while "effnets_queue_images 3.0" not in server.client.get("/metrics").text:
            time.sleep(0.01)
        for pid in (server.process.pid, *replicas):  # as a terminal does, and a service manager
            os.kill(pid, number)
        for answer in answers:
            assert answer.result().status_code == 200
            assert answer.result().headers["connection"] == "close"
        assert server.process.wait(30) == 0
        assert server.lines[-1] == "stopped\n"
        with pytest.raises(OSError, match="refused"):
            server.connect()
        assert not any(map(is_running, replicas))


def test_replicas_end_with_a_server_that_is_killed(model):
    with serving(model) as server:
        (replica,) = server.children
        server.process.kill()
        deadline = time.monotonic() + 30
        while is_running(replica):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.full
@needs_shared
def test_the_benchmark_holds_what_is_promised(tmp_path):
    """500 photographs from 16 clients with real weights; a lost replica, bad clients, and the end."""
    model = effnets.create_model(
        "mobilenetv2_100", weights=SHARED / "weights" / "tf_mobilenetv2_100_224.timm.safetensors"
    )
    exported = tmp_path / "model.onnx"
    effnets.export_onnx(model, exported, engines=["onnxruntime"])
    subprocess.run(["tar", "xf", SHARED / "data" / "grocery20.tar", "-C", tmp_path], check=True)
    result = subprocess.run(
        [sys.executable, "scripts/benchmark_serve.py", exported, tmp_path, "3", "--replicas", "2"],
        capture_output=True,
        text=True,
        check=True,
    )
    output = result.stdout
    assert "answers {'right': 1500}" in output, output
    assert "WRONG" not in output
    assert float(output.partition("serve / predict: ")[2].partition(",")[0]) >= 0.8
    assert "requests after that: {'right': 64}" in output
    assert "32 bodies of 500 MB at a time: {'413': 32}" in output
    assert "exit status 0" in output
