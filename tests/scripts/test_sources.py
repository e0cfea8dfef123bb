"""The programs that pin weights and check their sources, against a server on this machine."""

from __future__ import annotations

import hashlib
import runpy
from dataclasses import replace

import pytest

from effnets.spec.weights import find_weights as find_registered
from effnets.spec.weights import read_pins
from tests.support import ROOT
from tests.support.hub_server import COMMIT, serve

CONTENT = b"weights of mixnet_s"
SHA = hashlib.sha256(CONTENT).hexdigest()
REPO = "timm/mixnet_s.ft_in1k"
NAMES = ["mixnet_s.ft_in1k", "tf_mobilenetv1_025.keras_r128_in1k"]


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with serve() as hub:
        hub.files[f"{REPO}/model.safetensors"] = CONTENT
        yield hub


@pytest.fixture
def run(hub, monkeypatch, capsys, tmp_path):
    """Run a script on two entries: one on the Hub, one by URL, both of this server."""
    monkeypatch.setenv("EFFNETS_PINS", str(tmp_path / "pins.yaml"))
    path = f"models/mobilenet-{SHA[:8]}.h5"
    hub.plain.setdefault(path, CONTENT)

    def find_weights(name):
        read_pins.cache_clear()
        weights = find_registered(name)
        if weights.repo is None:
            return replace(weights, source=f"{hub.url}/{path}", file="", sha256_prefix=SHA[:8])
        return weights

    def run(script, *arguments):
        main = runpy.run_path(str(ROOT / "scripts" / script))["main"]
        replaced = {
            "find_weights": find_weights,
            "list_models": lambda _pattern, pretrained: NAMES if pretrained else [],
        }
        for name, value in replaced.items():
            monkeypatch.setitem(main.__globals__, name, value)
        monkeypatch.setattr("sys.argv", [script, *arguments, "--endpoint", hub.url])
        status = None
        try:
            main()
        except SystemExit as stop:
            status = stop.code
        read_pins.cache_clear()
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    yield run
    read_pins.cache_clear()


def test_pins_come_from_the_hub_and_from_the_file_itself(run, hub, tmp_path):
    status, output, _ = run("pin_weights.py")
    assert status is None
    assert output.splitlines() == [f"pinned  {name}: {SHA}" for name in NAMES]
    pins = read_pins(tmp_path / "pins.yaml")
    assert (pins[NAMES[0]].sha256, pins[NAMES[0]].revision) == (SHA, COMMIT)
    assert (pins[NAMES[1]].sha256, pins[NAMES[1]].revision) == (SHA, None)
    assert f"HEAD /{REPO}/resolve/main/model.safetensors" in hub.requests
    assert not [request for request in hub.requests if request.startswith(f"GET /{REPO}/resolve")]


def test_what_is_pinned_is_asked_for_only_again(run, hub, tmp_path):
    run("pin_weights.py")
    before = (tmp_path / "pins.yaml").read_bytes()
    hub.requests.clear()
    assert run("pin_weights.py") == (None, "", "")
    assert hub.requests == []
    hub.files[f"{REPO}/model.safetensors"] = b"new"
    assert run("pin_weights.py", "--again")[0] is None
    assert read_pins(tmp_path / "pins.yaml")[NAMES[0]].sha256 == hashlib.sha256(b"new").hexdigest()
    hub.files[f"{REPO}/model.safetensors"] = CONTENT
    run("pin_weights.py", "--again")
    assert (tmp_path / "pins.yaml").read_bytes() == before


def test_another_file_of_pins(run, tmp_path):
    assert run("pin_weights.py", "--pins", str(tmp_path / "ours.yaml"))[0] is None
    assert set(read_pins(tmp_path / "ours.yaml")) == set(NAMES)


def test_one_failure_stops_no_other(run, hub, tmp_path):
    hub.files.clear()
    status, _, errors = run("pin_weights.py")
    assert status == "1 of 2 could not be pinned"
    assert "failed  mixnet_s.ft_in1k: 404" in errors
    assert set(read_pins(tmp_path / "pins.yaml")) == {NAMES[1]}


def test_a_file_that_is_not_what_its_name_says_is_not_pinned(run, hub, tmp_path):
    hub.plain = dict.fromkeys(hub.plain, b"another file")
    status, _, errors = run("pin_weights.py")
    assert status == "1 of 2 could not be pinned"
    assert f"the file's name says {SHA[:8]}: do not use it" in errors
    assert set(read_pins(tmp_path / "pins.yaml")) == {NAMES[0]}


def test_a_file_of_the_package_is_hashed_and_checked_where_it_lies():
    weights = find_registered("mixnet_xs_32px.cifar10")
    pin_weights, check_sources = (
        runpy.run_path(str(ROOT / "scripts" / name)) for name in ("pin_weights.py", "check_sources.py")
    )
    pin = pin_weights["find_pin"](weights, "http://localhost:9")
    assert (pin.sha256, pin.revision) == (weights.sha256, None)
    assert check_sources["check"](weights, "http://localhost:9") is None
    problem = check_sources["check"](replace(weights, sha256="0" * 64), "http://localhost:9")
    assert "is not the file that effnets came with" in problem


def test_sources_that_are_there(run, hub, tmp_path):
    (tmp_path / "pins.yaml").write_text("{}")
    status, output, _ = run("check_sources.py")
    assert status is None
    assert [line.split()[:2] for line in output.splitlines()] == [["ok", name] for name in NAMES]
    assert all(request.startswith(("HEAD ", "GET /api/models/")) for request in hub.requests)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {}}, "mixnet_s.ft_in1k  404"),
        ({"files": {f"{REPO}/other.bin": b""}}, "mixnet_s.ft_in1k  404"),
        (
            {"files": {"timm/new/model.safetensors": CONTENT}, "renamed": {REPO: "timm/new"}},
            f"moved: {REPO} → timm/new",
        ),
        ({"files": {f"{REPO}/model.safetensors": b"other"}}, "changed: http"),
        ({"plain": {}}, "tf_mobilenetv1_025.keras_r128_in1k  HTTP Error 404"),
        ({"moved": {f"models/mobilenet-{SHA[:8]}.h5": "new.h5"}, "plain": {"new.h5": CONTENT}}, "/new.h5"),
    ],
)
def test_sources_that_have_changed(run, hub, change, message):
    run("pin_weights.py")
    for name, value in change.items():
        setattr(hub, name, value)
    status, output, _ = run("check_sources.py")
    assert status == "1 of 2 sources are not as configs/weights says"
    line = next(line for line in output.splitlines() if line.startswith("NOT OK"))
    assert message in line
