"""torch's own engines under the interface of the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import effnets
from effnets.deploy.export.torch_package import export_package
from effnets.deploy.optimize.rewrites import preset
from effnets.deploy.optimize.torch_layers import OneDNNConv, can_fuse
from effnets.deploy.tune import tune
from effnets.errors import ArgumentError, EngineError, ExportError, MissingFileError
from tests.support import images
from tests.support.tiny_network import tiny


@pytest.fixture
def model(tmp_path):
    return tiny(tmp_path)


def _compare(engine, model, tolerance=1e-4):
    pixels = images(3, 3, 48, 64)
    with torch.inference_mode():
        expected = model(pixels).numpy()
    assert np.abs(engine(pixels.numpy()) - expected).max() / np.abs(expected).max() < tolerance


def test_torch(model):
    engine = effnets.load_engine(model, "torch")
    _compare(engine, model)
    assert engine.description.model == "tiny"
    with torch.no_grad():
        next(model.parameters()).zero_()
    with pytest.raises(AssertionError):
        _compare(engine, model)


def test_torch_in_bfloat16(model):
    _compare(effnets.load_engine(model, "torch", precision="bfloat16"), model, tolerance=0.1)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_fused_convolutions_compute_in_the_precision_asked_for(precision, dtype, model):
    engine = effnets.load_engine(model, "torch", precision=precision)
    found: list[torch.dtype] = []
    fused = [module for module in engine._forward.modules() if isinstance(module, OneDNNConv)]
    for module in fused:
        module.register_forward_hook(lambda _module, _inputs, output: found.append(output.dtype))
    engine(images(1, 3, 48, 64).numpy())
    assert found == [dtype] * len(fused)
    assert len(fused) > 10 or not can_fuse()


@pytest.mark.parametrize("name", ["torch", "torch-compile"])
def test_each_engine_has_its_own_rewrites(name, model, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **_options: module)
    assert effnets.load_engine(model, name).description.rewrites == preset(name).to_dict()


def test_a_compiler_that_is_missing_is_reported_in_one_line(model, monkeypatch):
    def fail(_images):
        raise RuntimeError("No working C++ compiler found\n  a traceback")

    monkeypatch.setattr(torch, "compile", lambda *_arguments, **_options: fail)
    with pytest.raises(EngineError, match=r"^torch-compile failed: No working C\+\+ compiler found$"):
        effnets.load_engine(model, "torch-compile")(images(1, 3, 48, 64).numpy())
    found = tune(model, image_size=32, engines=["torch", "torch-compile"], precisions=["float32"], budget=1e-6)
    notes = {one.candidate.engine: one.note for one in found.candidates if one.candidate.name.endswith("preset")}
    assert notes == {"torch": "", "torch-compile": "torch-compile failed: No working C++ compiler found"}


@pytest.mark.full
def test_torch_compile(model):
    _compare(effnets.load_engine(model, "torch-compile"), model)


@pytest.mark.full
def test_a_package(model, tmp_path):
    path = export_package(model, tmp_path / "tiny.pt2", image_size=(48, 64)).path
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["tiny.pt2", "tiny.yaml"]
    engine = effnets.load_engine(path)
    assert (engine.name, engine.description.size, len(engine.labels)) == ("aotinductor", (48, 64), 12)
    assert engine.description.rewrites == preset("aotinductor").to_dict()
    _compare(engine, model)


def test_mistakes(model, tmp_path):
    with pytest.raises(
        ArgumentError, match="a model in memory is executed by torch or torch-compile or torch-cuda, not by openvino"
    ):
        effnets.load_engine(model, "openvino")
    with pytest.raises(ExportError, match="gone is not a folder; make it first"):  # before it is compiled
        export_package(model, tmp_path / "gone" / "tiny.pt2")
    with pytest.raises(ArgumentError, match=r"give the file the suffix \.pt2"):
        export_package(model, tmp_path / "t.onnx")
    with pytest.raises(MissingFileError, match="no such exported model"):
        effnets.load_engine(tmp_path / "gone.pt2")
    (tmp_path / "bad.pt2").write_bytes(b"no package")
    with pytest.raises(EngineError, match=r"bad\.pt2: torch cannot load it"):
        effnets.load_engine(tmp_path / "bad.pt2")
