"""Every fault in an exported graph is found, and said where."""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import effnets
from effnets.deploy.export import graph as graph_module
from effnets.deploy.export.graph import NetworkGraph, export_graph
from effnets.deploy.export.metadata import describe
from effnets.deploy.export.program import trace_network
from effnets.deploy.export.verify import Reference, normalized, probe_images, verify_rewrites
from effnets.deploy.export.verify_onnx import compare_pixels, find_divergence, find_faulty_node, verify
from effnets.engines.base import load_onnx
from effnets.engines.metadata import ModelMetadata
from effnets.errors import VerificationError
from effnets.inference.image import image_to_array
from tests.support import images
from tests.support.graph_faults import FAULTS, PREPROCESSING_FAULTS, nodes, set_attribute
from tests.support.tiny_network import REXNET_TABLE, TABLE, tiny


class Exported:
    def __init__(self, folder, *, fresh=False, table=TABLE, size=(56, 64), kind="normalised"):
        self.network = tiny(folder, fresh=fresh, table=table).double()
        self.module = copy.deepcopy(self.network)
        self.description = describe(self.network, size=size, input_kind=kind, rewrites=None)
        self.graph = export_graph(self.module.float(), self.description, topk=3)

    def verify(self, graph: NetworkGraph, engines=("onnxruntime",)):
        return verify(graph, self.network, self.module, self.description, engines)

    def with_fault(self, inject) -> NetworkGraph:
        model = onnx.ModelProto()
        model.CopyFrom(self.graph.model)
        inject(model.graph)
        assert model.SerializeToString() != self.graph.model.SerializeToString()
        return NetworkGraph(model, self.graph.program, self.graph.network_input)


@pytest.fixture(scope="module")
def shaken(tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("tiny"))


def test_every_fault_is_caught(shaken):
    assert max(shaken.verify(shaken.graph, ("onnxruntime", "openvino")).values()) < 1e-4
    assert len(FAULTS) >= 30
    unseen = []
    for name, inject in FAULTS.items():
        graph = shaken.with_fault(inject)
        with contextlib.suppress(VerificationError):
            shaken.verify(graph)
            unseen.append(name)
    assert unseen == []


@pytest.mark.parametrize(
    ("table", "size", "fewest"), [(TABLE, None, 30), (REXNET_TABLE, (56, 64), 18), (REXNET_TABLE, None, 18)]
)
def test_every_fault_of_other_graphs_is_caught(table, size, fewest, tmp_path):
    """Of any size, and of ReXNet's blocks, which have no place for some of the faults."""
    exported = Exported(tmp_path, table=table, size=size)
    exported.verify(exported.graph)
    unseen, injected = [], 0
    for name, inject in FAULTS.items():
        try:
            graph = exported.with_fault(inject)
        except (IndexError, StopIteration):
            continue
        injected += 1
        with contextlib.suppress(VerificationError):
            exported.verify(graph)
            unseen.append(name)
    assert unseen == []
    assert injected >= fewest


def test_every_fault_in_preprocessing_is_caught(tmp_path):
    exported = Exported(tmp_path, kind="uint8")
    exported.verify(exported.graph)
    unseen = []
    for name, inject in PREPROCESSING_FAULTS.items():
        graph = exported.with_fault(inject)
        with contextlib.suppress(VerificationError):
            exported.verify(graph)
            unseen.append(name)
    assert unseen == []


def halves_up(nodes, side, factor, divisor):
    doubled = nodes.add("Add", nodes.add("Mul", side, 2 * factor), divisor)
    return nodes.add("Div", doubled, nodes.add("Mul", divisor, 2))


@pytest.mark.full
def test_widths_that_are_rounded_otherwise_are_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_module, "_rounded_share", halves_up)
    exported = Exported(tmp_path, size=(64, 96), kind="uint8")
    with pytest.raises(VerificationError, match=r"preprocessing of images \[\d, 146, 221, 3\] is wrong"):
        exported.verify(exported.graph)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("size", "photo"), [((64, 96), photo) for photo in ((146, 221), (146, 219), (160, 221))] + [((96, 64), (221, 146))]
)
def test_halves_are_rounded_as_pillow_is_told_to(engine, size, photo):
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("images", "out")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["images"], ["out"])], "g", values[:1], values[1:]
    )
    preprocess = effnets.PreprocessSpec(crop_pct=0.875)
    facts = {"model": "g", "family": "g", "labels": (), "input_kind": "uint8"}
    description = ModelMetadata(**facts, preprocess=preprocess, size=size)
    graph_module.prepend_preprocessing(graph, "images", "normalised", description)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    images = probe_images(1, *photo, 3, seed=0)
    (found,) = load_onnx(model.SerializeToString(), description, engine).run(images).values()
    expected = image_to_array(Image.fromarray(images[0]), preprocess, size)
    assert (abs(found[0] - expected) > 1e-4).mean() < 0.01


@pytest.mark.parametrize("photo", [(600, 200), (1000, 90)])
def test_tall_photographs_are_resized_across_first(tmp_path, photo):
    exported = Exported(tmp_path, size=(64, 64), kind="uint8")
    model = exported.graph.model
    model.graph.output.append(onnx.helper.make_tensor_value_info("normalised", onnx.TensorProto.FLOAT, None))
    images = probe_images(1, *photo, 3, seed=0)
    for engine in ("onnxruntime", "openvino"):
        inputs = load_onnx(model.SerializeToString(), exported.description, engine).run(images)["normalised"]
        compare_pixels(images, inputs, exported.description, engine)
        with pytest.raises(VerificationError, match=r"is wrong: .* % of the pixels differ, by up to"):
            compare_pixels(images, np.roll(inputs, 1, axis=3), exported.description, engine)
        with pytest.raises(VerificationError, match=r"of the pixels differ, by up to [234].. of 255"):
            compare_pixels(images, with_a_stray(inputs, exported.description), exported.description, engine)


def with_a_stray(inputs, description):
    """One value three levels off."""
    inputs = inputs.copy()
    inputs[0, 0, 5, 5] += 3 / 255 / description.preprocess.std[0]
    return inputs


def test_logits_that_are_all_zero_are_no_difference(tmp_path):
    exported = Exported(tmp_path, fresh=True)
    network = copy.deepcopy(exported.network)
    torch.nn.init.zeros_(network.classifier.weight)
    torch.nn.init.zeros_(network.classifier.bias)
    verify_rewrites(network, copy.deepcopy(network), exported.description)


def test_a_fault_is_placed_at_its_node(shaken):
    node = nodes(shaken.graph.model.graph, "Conv")[5]

    def inject(graph):
        set_attribute(nodes(graph, "Conv")[5], "dilations", [1, 1])
        nodes(graph, "Conv")[5].input[1] = nodes(graph, "Conv")[5].input[1]
        weight = next(entry for entry in graph.initializer if entry.name == node.input[1])
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.01, weight.name))

    found = find_faulty_node(shaken.with_fault(inject), shaken.description)
    assert (found.node, found.operator) == (node.name, "Conv")
    assert node.name.startswith("stages.")
    images = normalized(probe_images(1, 56, 64, 3, seed=0), shaken.description.preprocess)
    place = find_divergence(shaken.with_fault(inject), "onnxruntime", images, images, shaken.description)
    assert f"first at node {node.name} (Conv" in place


def test_faults_in_a_blind_network_are_seen(tmp_path):
    """A fresh network reaches no 6 and hardly reacts to its images."""
    fresh = Exported(tmp_path, fresh=True)
    fresh.verify(fresh.graph)
    unseen = []
    for name in (
        "clip_bound_moved",
        "clip_ceiling_gone",
        "epsilon_changed",
        "one_channel_by_a_thousandth",
        "relu_leaks",
    ):
        if find_faulty_node(fresh.with_fault(FAULTS[name]), fresh.description) is None:
            unseen.append(name)
    assert unseen == []


def test_a_rewrite_that_changes_the_function(shaken):
    changed = copy.deepcopy(shaken.network)
    with torch.no_grad():
        changed.head.bn.bias[0] += 1e-5
    with pytest.raises(VerificationError, match="tiny: not exported: a rewrite changed it: logits of images"):
        verify_rewrites(shaken.network, changed, shaken.description)
    verify_rewrites(shaken.network, copy.deepcopy(shaken.network), shaken.description)


def test_probe_images_are_reproducible_and_use_the_whole_range():
    images = probe_images(3, 40, 50, 3, seed=1)
    assert (images == probe_images(3, 40, 50, 3, seed=1)).all()
    assert images.shape == (3, 40, 50, 3)
    assert (images.min(), images.max()) == (0, 255)
    assert normalized(probe_images(1, 9, 9, 4, seed=0), pytest.importorskip("effnets").PreprocessSpec()).shape[1] == 4


def test_rounding_is_tried_in_optimized_networks(tmp_path):
    """Their layers keep packed weights, which inference mode must not make unusable."""
    network = tiny(tmp_path).eval()
    reference = Reference(trace_network(network), copy.deepcopy(network).double(), effnets.optimize(network))
    error, _ = reference.expect(images(2, 3, 48, 48).numpy()).draws(2)
    assert 0 < error < 1e-4
