"""Exports with the output ``embedding``: verified as the logits are, and what `effnets.embed` takes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import nn

import effnets
from effnets.deploy.export.base import prepare
from effnets.deploy.export.graph import export_graph
from effnets.deploy.export.verify_onnx import verify
from effnets.errors import ArgumentError, VerificationError
from tests.support import images, shake_gently
from tests.support.tiny_network import tiny


@pytest.fixture(scope="module")
def model():
    spec = effnets.load_spec("mobilenetv1_025")
    return shake_gently(effnets.create_model(spec, num_classes=7))


def pictures():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (90, 100, 3), dtype=np.uint8)) for _ in range(2)]


@pytest.mark.parametrize(
    "suffix", [".onnx", *(pytest.param(one, marks=pytest.mark.full) for one in (".xml", ".tflite", ".pte"))]
)
def test_it_is_the_networks(model, tmp_path, suffix):
    if suffix == ".tflite":
        pytest.importorskip("litert_torch")
    if suffix == ".pte":
        pytest.importorskip("executorch")
    path = tmp_path / f"m{suffix}"
    effnets.export(model, path, image_size=64, embedding=True, softmax=True)
    engine = effnets.load_engine(path)
    assert engine.description.embedding == model.num_features
    outputs = engine.run(np.zeros((1, 3, 64, 64), np.float32))
    assert {name: value.shape for name, value in outputs.items()} == {
        "logits": (1, 7),
        "probabilities": (1, 7),
        "embedding": (1, 256),
    }
    for normalize in (True, False):
        expected = effnets.embed(model, pictures(), input_size=64, normalize=normalize)
        found = effnets.embed(engine, pictures(), normalize=normalize)
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert [p.index for p in effnets.predict(engine, pictures()[0], topk=7)[0]] == [
        p.index for p in effnets.predict(model, pictures()[0], topk=7, input_size=64)[0]
    ]


@pytest.mark.parametrize("fault", ["another value", "another scale", "missing"])
def test_a_wrong_embedding_is_not_handed_over(model, tmp_path, fault):
    made = prepare(
        model, tmp_path / "m.onnx", ".onnx", image_size=64, optimize=True, engine="onnxruntime", embedding=True
    )
    graph = export_graph(made.module, made.metadata)
    arguments = made.original, made.module, made.metadata, ["onnxruntime"]
    assert verify(graph, *arguments)["onnxruntime"] < 1e-4
    nodes = graph.model.graph
    identity = next(node for node in nodes.node if "embedding" in node.output)
    if fault == "another value":
        identity.op_type = "Neg"
    elif fault == "another scale":
        nodes.initializer.append(numpy_helper.from_array(np.float32(1.01), "scale"))
        identity.op_type = "Mul"
        identity.input.append("scale")
    else:
        nodes.node.remove(identity)
        del nodes.output[-1]
    with pytest.raises(VerificationError, match="embedding"):
        verify(graph, *arguments)


def test_files_without_it_stay_as_they_were(model, tmp_path):
    effnets.export_onnx(model, tmp_path / "m.onnx", image_size=64, engines=["onnxruntime"])
    assert [output.name for output in onnx.load(tmp_path / "m.onnx").graph.output] == ["logits"]
    assert effnets.load_engine(tmp_path / "m.onnx").description.embedding == 0


def test_formats_that_do_not_have_it(model, tmp_path):
    with pytest.raises(ArgumentError, match=r"embedding is not possible for \.pt2 files; leave it out"):
        effnets.export(model, tmp_path / "m.pt2", embedding=True)


class Erf(nn.Module):
    def forward(self, x):
        return torch.special.erf(x)


@pytest.mark.parametrize("end", [nn.Identity, Erf])
def test_it_is_the_input_of_a_classifier_of_several_layers(end, tmp_path):
    """Whoever traces the network."""
    network = tiny(tmp_path)
    layers = (nn.Dropout(), nn.Linear(24, 16), nn.SiLU(), nn.Linear(16, 12), end())
    network.classifier = nn.Sequential(*layers).eval()
    effnets.export_onnx(network, tmp_path / "m.onnx", image_size=48, embedding=True, engines=["onnxruntime"])
    inputs = images(2, 3, 48, 48)
    with torch.no_grad():
        expected = network.forward_embedding(inputs).numpy()
    found = effnets.load_engine(tmp_path / "m.onnx").run(inputs.numpy())["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_classifier_of_no_input_is_refused(tmp_path):
    network = tiny(tmp_path)
    network.reset_classifier(24)
    network.classifier = nn.Identity()
    with pytest.raises(ArgumentError, match="embedding=True needs a classifier of one input"):
        effnets.export_onnx(network.eval(), tmp_path / "m.onnx", image_size=48, embedding=True)
