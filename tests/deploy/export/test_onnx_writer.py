"""The networks of the zoo are written operator by operator; what is unknown there goes through torch's own exporter."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.export import ExportedProgram

import effnets
from effnets.deploy.export import base
from effnets.deploy.export.graph import export_graph
from effnets.deploy.export.metadata import describe
from effnets.deploy.export.onnx_writer import write_onnx
from effnets.deploy.export.program import Float64Interpreter, trace_network
from effnets.deploy.optimize.rewrites import PRESETS, Rewrites
from effnets.errors import VerificationError
from tests.support import images
from tests.support.tiny_network import REXNET_TABLE, TABLE, tiny

FOR_ONNX = ("onnxruntime", "onnxruntime-web", "openvino", "none")


def graph_of(network, rewrites=None, size=(64, 64)):
    module = effnets.optimize(network, rewrites) if rewrites else network.eval()
    return export_graph(module, describe(network, size=size, input_kind="normalised", rewrites=rewrites))


@pytest.mark.parametrize("preset", FOR_ONNX)
@pytest.mark.parametrize("table", [TABLE, REXNET_TABLE])
@pytest.mark.parametrize("size", [(64, 64), None])
def test_every_operator_is_known(preset, table, size, tmp_path):
    graph = graph_of(tiny(tmp_path, table=table), PRESETS[preset], size)
    assert isinstance(graph.program, fx.GraphModule)
    assert graph.model.producer_name == "effnets"


@pytest.mark.full
@pytest.mark.parametrize("size", [(64, 64), None])
@pytest.mark.parametrize("name", effnets.list_models())
def test_every_operator_of_the_zoo_is_known(name, size):
    for rewrites in (None, PRESETS["onnxruntime"]):
        assert isinstance(graph_of(effnets.create_model(name), rewrites, size).program, fx.GraphModule)


@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_other_pooling(pool, tmp_path):
    model = tiny(tmp_path)
    model.reset_classifier(5, pool)
    assert isinstance(graph_of(model).program, fx.GraphModule)
    report = effnets.export_onnx(model.eval(), tmp_path / "m.onnx", image_size=48)
    assert max(report.errors.values()) < 1e-4


def test_sizes_are_constants_where_they_are_known(tmp_path):
    kinds = [
        {node.op_type for node in graph_of(tiny(tmp_path), size=size).model.graph.node} for size in ((48, 64), None)
    ]
    assert {"Shape", "Gather", "Div"} & kinds[0] == set()
    assert {"Shape", "Gather", "Div"} <= kinds[1]


def test_nodes_are_named_after_their_modules(tmp_path):
    names = [node.name for node in graph_of(tiny(tmp_path)).model.graph.node]
    assert len(set(names)) == len(names)
    assert {"stem.conv/Pad", "stem.conv/Conv", "stem.bn/BatchNormalization", "stem.act/Clip", "/Flatten"} <= set(names)
    assert "classifier/Gemm" in names


def test_tracing_changes_neither_the_network_nor_what_it_computes(tmp_path):
    model = tiny(tmp_path).double()
    before = copy.deepcopy(model)
    program, pixels = trace_network(model), images(2, 3, 56, 64)
    assert all(module.inplace for module in model.modules() if isinstance(module, nn.ReLU6))
    assert repr(model) == repr(before)
    values = {}

    def watch(name, value):
        values[name] = (value, value.clone())
        return value

    with torch.inference_mode():
        found = Float64Interpreter(program, watch)(pixels)
        assert torch.equal(found, before(pixels.double()))
    assert all(torch.equal(*pair) for pair in values.values()), "an operator wrote into a value"


class Scaled(nn.Module):
    def forward(self, x):
        return torch.special.erf(x)


def test_unknown_operators_go_through_torchs_exporter(tmp_path):
    model = tiny(tmp_path)
    model.classifier = nn.Sequential(nn.Linear(24, 12), Scaled())
    assert isinstance(graph_of(model).program, ExportedProgram)
    report = effnets.export_onnx(model.eval(), tmp_path / "m.onnx", image_size=48)
    assert max(report.errors.values()) < 1e-4
    pixels = images(2, 3, 48, 48)
    with torch.inference_mode():
        expected = model(pixels).numpy()
    found = effnets.load_engine(tmp_path / "m.onnx")(pixels.numpy())
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("shortcut", ["inplace", "pad"])
def test_faults_of_a_rewrite_are_caught_whoever_exports(shortcut, tmp_path, monkeypatch):
    def wrong(network, rewrites):
        rewritten = effnets.optimize(network, rewrites)
        with torch.no_grad():
            rewritten.classifier.bias[1] += 1e-5
        return rewritten

    rewrites = Rewrites(shortcut=shortcut)
    program = graph_of(tiny(tmp_path, table=REXNET_TABLE), rewrites).program
    assert isinstance(program, fx.GraphModule if shortcut == "pad" else ExportedProgram)
    monkeypatch.setattr(base, "rewrite", wrong)
    with pytest.raises(VerificationError, match="tiny: not exported: a rewrite changed it: logits of im"):
        effnets.export_onnx(tiny(tmp_path, table=REXNET_TABLE), tmp_path / "m.onnx", image_size=48, optimize=rewrites)
    assert not (tmp_path / "m.onnx").exists()


def test_a_program_that_is_not_the_network_is_caught(tmp_path, monkeypatch):
    from effnets.deploy.export import graph

    def wrong(network):
        program = trace_network(network)
        name = next(node.target for node in program.graph.nodes if node.op == "call_module")
        program.set_submodule(name, nn.ReLU())
        return program

    monkeypatch.setattr(graph, "trace_network", wrong)
    with pytest.raises(VerificationError, match="tiny: not exported: tracing changed the function"):
        effnets.export_onnx(tiny(tmp_path), tmp_path / "m.onnx", image_size=48)


def test_weights_are_rounded_once(tmp_path):
    model = tiny(tmp_path).double()
    with torch.no_grad():
        model.classifier.weight *= 1 / 3
    program = trace_network(model.eval())
    graph = write_onnx(program, ["N", 3, 48, 48], 12, "tiny")
    (weight,) = (entry for entry in graph.graph.initializer if entry.name == "classifier.weight")
    assert weight.raw_data == model.classifier.weight.detach().float().numpy().tobytes()
