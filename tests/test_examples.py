"""Every program in examples/ runs, offline, as its first lines say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.drawn_classes import draw_data

EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return draw_data(tmp_path_factory.mktemp("photos"))


def test_classify(data):
    lines = run("classify.py", data / "test" / "disc" / "000.png").splitlines()
    assert len(lines) == 3
    shares = [float(line.split("%")[0]) for line in lines]
    assert shares == sorted(shares, reverse=True)


def test_finetune(data, tmp_path):
    output = run("finetune.py", data, tmp_path / "run", "mixnet_xs_32px", 1)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert f"test top-1: {metrics['test_top1']}" in output
    assert "classes: disc, frame, stripes" in output
    assert (tmp_path / "run" / "report.html").exists()


def test_segmentation():
    output = run("segmentation.py")
    losses = [float(line.split()[-1]) for line in output.splitlines() if line.startswith("step")]
    assert losses == sorted(losses, reverse=True)
    assert "output: (2, 21, 128, 160)" in output


def test_export(data, tmp_path):
    image = data / "test" / "disc" / "000.png"
    output = run("export.py", image, tmp_path / "model.onnx").splitlines()
    assert output[-3:] == run("classify.py", image).splitlines()


def test_own_network():
    assert "logits: (2, 12)" in run("own_network.py")


def test_all_are_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "classify",
        "export",
        "finetune",
        "own_network",
        "segmentation",
    }
