"""The networks of the zoo are written operator by operator; what is unknown there goes through torch's own exporter."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.export import ExportedProgram

import effnets
from effnets.deploy.export import base, onnx_writer
from effnets.deploy.export.graph import export_graph
from effnets.deploy.export.metadata import describe
from effnets.deploy.export.onnx_writer import write_onnx
from effnets.deploy.export.program import Float64Interpreter, UntraceableError, trace_network
from effnets.deploy.optimize.rewrites import PRESETS, Rewrites
from effnets.errors import ArgumentError, VerificationError
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


class Head(nn.Module):
    """A classifier that maps its input by a function, and what a linear map makes of it by another."""

    def __init__(self, before=lambda x: x, after=lambda x: x):
        super().__init__()
        self.linear, self.before, self.after = nn.Linear(24, 12), before, after

    def forward(self, x):
        return self.after(self.linear(self.before(x)))


def parts_twice(x):
    parts = torch.split(x, [8, 16], 1)
    return torch.cat([parts[1], parts[0]], 1) + torch.cat([parts[0], parts[1]], 1)


def last_part(x):
    parts = torch.split(x, [8, 16], 1)
    return torch.cat([parts[-1], parts[0]], 1)


WHOLE = {
    "parts as they are": Head(lambda x: torch.cat(torch.split(x, [8, 16], 1), dim=1)),
    "parts twice": Head(parts_twice),
    "a part from the end": Head(last_part),
    "padded vectors": Head(after=lambda x: F.pad(x, (1, -1))),
    "the largest of one dimension": Head(lambda x: x + x[:, :, None, None].amax(2)[:, :, 0]),
}
SCALED = {
    "size": Head(lambda x: x * x.shape[1]),
    "share of the size": Head(lambda x: x * (x.shape[1] * 0.5)),
    "size of the batch": Head(lambda x: x * x.shape[0]),
}


@pytest.mark.parametrize("head", [pytest.param(head, id=name) for name, head in (WHOLE | SCALED).items()])
@pytest.mark.parametrize("size", [(48, 48), None])
def test_what_cannot_be_written_is_left_to_torchs_exporter(head, size, tmp_path):
    model = tiny(tmp_path)
    model.classifier = head.eval()
    known = size and head in (SCALED["size"], SCALED["share of the size"])
    try:
        written = write_onnx(trace_network(model), ["N", 3, *(size or "HW")], 12, "tiny")
    except UntraceableError:
        assert not known
        return
    assert known
    session = onnxruntime.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = images(2, 3, 48, 48)
    with torch.no_grad():
        expected = model(pixels).numpy()
    np.testing.assert_allclose(session.run(None, {"images": pixels.numpy()})[0], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["parts as they are", "parts twice", "padded vectors"])
def test_what_is_left_to_torchs_exporter_is_right(name, tmp_path):
    model = tiny(tmp_path)
    model.classifier = WHOLE[name].eval()
    report = effnets.export_onnx(model, tmp_path / "m.onnx", image_size=48, engines=["onnxruntime"])
    assert max(report.errors.values()) < 1e-4


def test_a_part_may_be_the_output(tmp_path):
    model = tiny(tmp_path)
    model.classifier = nn.Sequential(nn.Linear(24, 20), Part()).eval()
    assert isinstance(graph_of(model).program, fx.GraphModule)
    report = effnets.export_onnx(model, tmp_path / "m.onnx", image_size=48, engines=["onnxruntime"])
    assert max(report.errors.values()) < 1e-4


class Part(nn.Module):
    def forward(self, x):
        return torch.split(x, [12, 8], 1)[0]


def test_hooks_are_part_of_the_file(tmp_path):
    model = tiny(tmp_path).eval()
    model.stages[0][0].depthwise.act.register_forward_hook(lambda *values: values[-1] * 2)
    report = effnets.export_onnx(model, tmp_path / "m.onnx", image_size=48, optimize=False, engines=["onnxruntime"])
    assert max(report.errors.values()) < 1e-4


def test_faults_of_writers_are_not_hidden(tmp_path, monkeypatch):
    def wrong(*_):
        return None + 1

    monkeypatch.setitem(onnx_writer._OPERATORS, nn.ReLU6, wrong)
    with pytest.raises(TypeError, match="unsupported operand"):
        graph_of(tiny(tmp_path))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_other_outputs_than_stated_are_refused(suffix, tmp_path):
    model = tiny(tmp_path)
    for classifier in (nn.Linear(24, 5), nn.Sequential(nn.Linear(24, 5))):
        model.classifier = classifier.eval()
        with pytest.raises(ArgumentError, match=r"model returns \[1, 5\], not \[1, 12\]; use reset_classifier"):
            effnets.export(model, tmp_path / f"m{suffix}", image_size=48)
    assert not list(tmp_path.glob("m.*"))
