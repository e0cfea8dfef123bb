"""``effnets tune`` and ``effnets export --tune``."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import effnets
from effnets.cli import main
from effnets.deploy import tune
from effnets.deploy.export import export as export_module
from effnets.deploy.optimize.rewrites import preset
from effnets.deploy.quantize import quantize
from effnets.deploy.tune import Measured, TuneCandidate, TuneReport
from effnets.weights.save import save_weights
from tests.support import shake

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


def test_a_report_is_of_a_model_that_was_written(files, tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise effnets.VerificationError("another network")

    target = tmp_path / "out.onnx"
    monkeypatch.setattr(export_module, "export", refuse)
    monkeypatch.setattr(tune.TuneSearch, "run", lambda *_arguments: report_of("openvino"))
    options = ["--weights", files[1], "--image-size", 32, "--tune"]
    assert "another network" in run("export", files[0], target, *options, status=1).stderr
    assert not (tmp_path / "out.tune.json").exists()


def test_engines_may_have_spaces_between(files, monkeypatch):
    asked = []

    def remember(_network, *, engines, **_options):
        asked.extend(engines)
        return report_of("torch")

    monkeypatch.setattr(tune, "tune", remember)
    run("tune", files[0], "--weights", "random", "--engines", "onnxruntime, torch")
    assert asked == ["onnxruntime", "torch"]


def test_a_tuned_int8_file_states_the_engine(files, tmp_path, monkeypatch):
    said = {}

    def remember(_network, _target, _photos, **options):
        said.update(options)
        return SimpleNamespace(lines=lambda: ["done"])

    monkeypatch.setattr(quantize, "quantize", remember)
    monkeypatch.setattr(tune, "tune", lambda *_arguments, **_options: report_of("openvino"))
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(100):  # counted beforehand, and not read here
        (photos / f"{number}.jpg").touch()
    options = ["--weights", files[1], "--tune", "--int8", "--calibration", photos]
    run("export", files[0], tmp_path / "out.onnx", *options)
    assert (said["engine"], said["optimize"], said["seed"]) == ("openvino", preset("openvino"), 0)
    assert json.loads((tmp_path / "out.tune.json").read_text())["chosen"] == "openvino, preset"


def report_of(engine):
    candidate = TuneCandidate(name=f"{engine}, preset", engine=engine, precision="float32", rewrites=preset(engine))
    measured = (Measured(candidate=candidate, milliseconds=1.0, quartiles=(1.0, 1.0), rounds=3),)
    return TuneReport(conditions={"margin": 0.03}, candidates=measured, choice=0, load=(0.0, 0.0), seconds=1.0)


def test_contradictions_are_told_before_the_work(tmp_path):
    target = tmp_path / "out.onnx"
    assert "leave one of them out" in run("export", "x", target, "--tune", "--no-optimize", status=2).output
    assert "--tune chooses an engine" in run("export", "x", target, "--tune", "--engine", "openvino", status=2).output
    assert "--seed is for the photos of --int8" in run("export", "x", target, "--seed", 0, status=2).output
    assert "add --tune" in run("export", "x", target, "--budget", 5, status=2).output
