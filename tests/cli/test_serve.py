"""``effnets serve``: what stops it from starting, and that it serves what `effnets predict` takes."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from effnets.cli import main
from tests.support.exported import describe, write
from tests.support.serving import photo, serving


def run(*arguments, status):
    result = CliRunner().invoke(main, ["serve", *map(str, arguments)])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result.stderr


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "mean.onnx", describe())


def test_a_network_in_torch_answers_as_predict_does(tmp_path):
    image = tmp_path / "photo.png"
    image.write_bytes(photo(size=(48, 64)))
    name = "mixnet_xs_32px.cifar10"
    with serving("mixnet_xs_32px") as server:
        (row,) = server.client.post("/predict", files={"image": (str(image), image.read_bytes())}).json()
        assert name.startswith(server.client.get("/ready").json()["model"])
    (expected,) = json.loads(CliRunner().invoke(main, ["predict", str(image), "--json"]).stdout)
    for found, wanted in zip(row.pop("predictions"), expected.pop("predictions"), strict=True):
        assert found.pop("probability") == pytest.approx(wanted.pop("probability"), abs=1e-5)
        assert found == wanted
    assert row == expected


def test_an_engine_executes_a_file(model):
    with serving(model, "--engine", "openvino") as server:
        assert server.client.get("/ready").json()["engine"] == "openvino"
        assert server.post(photo()).status_code == 200


def test_a_port_in_use_is_an_error(model):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = run(model, "--port", port, status=1)
    assert f"port {port} of 127.0.0.1 cannot be used: another program uses it" in message


def test_a_host_that_is_not_of_this_machine_is_an_error(model):
    assert "give an address of this machine by --host" in run(model, "--host", "203.0.113.9", status=1)


@pytest.mark.parametrize(
    ("name", "reason"), [("mixnet_n", "mixnet_m"), ("gone.onnx", "gone.onnx: no such exported model")]
)
def test_a_model_that_cannot_be_loaded_is_an_error(name, reason):
    assert reason in run(name, "--port", 0, status=1)


def test_a_file_that_is_no_model_is_an_error(tmp_path):
    path = tmp_path / "model.txt"
    path.write_text("hello")
    assert f"{path} is neither an exported model (.onnx, " in run(path, "--port", 0, status=2)


def test_log_handlers_of_the_process_stay_open():
    closed: list[object] = []

    class Kept(logging.Handler):
        def close(self) -> None:
            closed.append(self)
            super().close()

    kept = Kept()
    run("mixnet_n", "--port", 0, status=1)
    assert not closed
    kept.close()


@pytest.mark.parametrize(
    ("name", "engine", "reason"),
    [
        (
            "mixnet_m",
            "onnxruntime",
            "not by onnxruntime; for others export it first: effnets export mixnet_m model.onnx",
        ),
        ("mixnet_m", "tensorflow", "mixnet_m is executed by auto, torch, torch-compile, torch-cuda, not by tensorflow"),
        ("model.onnx", "torch", "model.onnx is executed by auto, onnxruntime, "),
        ("model.pt2", "onnxruntime", "model.pt2 is executed by auto, aotinductor, not by onnxruntime"),
    ],
)
def test_an_engine_that_cannot_execute_the_model_is_an_error(name, engine, reason):
    assert reason in run(name, "--engine", engine, status=2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--weights", "a.pth"), "is a whole model; leave --weights out"),
        (("--max-queue", 3), "--max-queue 3 has no room for the 32 of --max-images"),
        (("--port", 70_000), "70000 is not in the range"),
        (("--replicas", 0), "0 is not in the range"),
        (("--timeout-s", 0), "0.0 is not in the range"),
    ],
)
def test_options_that_do_not_fit_are_errors(model, options, reason):
    assert reason in run(model, *options, status=2)


def test_what_is_not_a_host_is_an_error(model):
    assert "'http://a' is not a host" in run(model, "--port", 0, "--allow-urls", "http://a", status=1)


def test_a_missing_extra_is_an_error(model):
    """In an interpreter that does not find starlette."""
    program = (
        "import sys, importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'starlette' else find(name, *rest)\n"
        "from effnets.cli import main\n"
        "main(['serve', sys.argv[1]])\n"
    )
    result = subprocess.run([sys.executable, "-c", program, model], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "serving needs starlette; install with: pip install 'effnets[serve]'" in result.stderr
