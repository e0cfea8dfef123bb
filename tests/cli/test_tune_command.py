"""``effnets tune`` and ``effnets export --tune``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from support import shake

import effnets
from effnets.cli import main
from effnets.weights.save import save_weights

TABLE = """
tiny:
  stem: 8
  num_classes: 12
  blocks: [dsa_r1_k3_s1_c8, ir_r1_k3.5_a1.1_p1.1_s2_e3_c16_nre]
"""


def run(*arguments, status=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


@pytest.fixture
def files(tmp_path):
    table, weights = tmp_path / "tiny.yaml", tmp_path / "tiny.safetensors"
    table.write_text(TABLE)
    save_weights(shake(effnets.create_model(table), size=64), weights)
    return table, weights


def test_tune_prints_and_keeps_what_it_found(files, tmp_path):
    report = tmp_path / "kept.tune.json"
    options = ["--weights", "random", "--image-size", 32, "--budget", 2, "--report", report]
    output = run("tune", files[0], *options).stdout
    assert "onnxruntime, preset" in output
    assert json.loads(report.read_text())["conditions"]["image_size"] == [32, 32]
    assert "measured earlier on this machine" in run("tune", files[0], *options).stdout


def test_an_export_is_tuned(files, tmp_path):
    target = tmp_path / "out.onnx"
    run("export", files[0], target, "--weights", files[1], "--image-size", 32, "--tune", "--budget", 2)
    found = json.loads((tmp_path / "out.tune.json").read_text())
    chosen = found["candidates"][found["choice"]]["candidate"]["rewrites"]
    assert effnets.load_engine(target).description.rewrites["depthwise"] == chosen["depthwise"]


def test_contradictions_are_told_before_the_work(tmp_path):
    target = tmp_path / "out.onnx"
    assert "leave one of them out" in run("export", "x", target, "--tune", "--no-optimize", status=2).output
    assert "--tune chooses an engine" in run("export", "x", target, "--tune", "--engine", "openvino", status=2).output
    assert "add --tune" in run("export", "x", target, "--budget", 5, status=2).output
