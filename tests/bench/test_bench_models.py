"""Several models in one benchmark: what each is called, and that none costs another its results."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from effnets.bench import bench as measure
from effnets.bench.plots import draw_bars
from effnets.deploy.export import graph
from effnets.deploy.optimize import optimize as rewrite
from effnets.errors import ArgumentError, ConfigError, EngineError, ExportError, MissingFileError, UnknownModelError
from tests.support.small_benchmarks import quick, write_table


@pytest.fixture
def tiny(tmp_path):
    return write_table(tmp_path, "tiny")


@pytest.fixture
def other(tmp_path):
    return write_table(tmp_path, "other", kernel=5)


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_a_network_that_cannot_be_exported_or_rewritten_costs_only_itself(tiny, other, monkeypatch, engine):
    exported, rewritten = graph.export_graph, rewrite.optimize

    def export(module, description):
        if description.model == "other":
            raise ExportError("other: torch cannot export it: no such operator")
        return exported(module, description)

    def optimize(network, rewrites):
        if network.spec.name == "other":
            raise ArgumentError("rewrites are not for it")
        return rewritten(network, rewrites)

    reason = "other: rewrites are not for it"
    if engine == "onnxruntime":
        monkeypatch.setattr(graph, "export_graph", export)
        reason = "other: torch cannot export it: no such operator"
    else:
        monkeypatch.setattr(rewrite, "optimize", optimize)
    for models in ((tiny, other), (other, tiny)):
        found = quick(*models, engines=(engine,), against=())
        assert [(row.model, row.path) for row in found.rows] == [("tiny", "effnets"), ("tiny", "effnets rewritten")]
        assert (found.missing, found.absent) == ((reason,), ())
    with pytest.raises(EngineError, match=f"nothing could be measured: {reason}"):
        quick(other, engines=(engine,), against=())


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("mixnet_q", UnknownModelError, "mixnet_q"),
        ("gone.yaml", MissingFileError, "gone.yaml"),
        ("wrong: {stem: 8, blocks: [dsa_r1_k4_s1_c8", ConfigError, "mine.yaml:"),
        ("wrong: {stem: 8, num_classes: 0, blocks: [dsa_r1_k3_s1_c8]}", ArgumentError, "mine.yaml gives no logits"),
    ],
)
def test_a_wrong_model_is_told_before_the_others_are_measured(tiny, tmp_path, monkeypatch, text, error, message):
    monkeypatch.setattr(measure, "measure_ceiling", None)
    monkeypatch.setattr(measure, "make_variants", None)
    if ":" in text:
        (tmp_path / "mine.yaml").write_text(text)
        text = str(tmp_path / "mine.yaml")
    with pytest.raises(error, match=message):
        quick(tiny, text, engines=("torch",), against=())


def test_tags_of_a_model_are_networks_of_their_own():
    pytest.importorskip("timm")
    tags = [f"tf_mobilenetv1_025.keras_r{size}_in1k" for size in (128, 160)]
    found = quick(*tags, engines=("torch",), image_size=None)
    assert found.image_size == dict(zip(tags, [(128, 128), (160, 160)], strict=True))
    assert [row.model for row in found.rows] == [tag for tag in tags for _ in range(2)]
    assert found.missing == tuple(f"timm has no {tag}" for tag in tags)
    header, _, *lines = found.markdown().splitlines()[5:11]
    assert header.startswith("| model | input | batch | engine | variant |")
    assert [line.split(" | ")[:2] for line in lines] == [
        [f"| {tag}", size] for tag, size in zip(tags, ["128×128", "160×160"], strict=True) for _ in range(2)
    ]
    assert "images of several sizes" in found.markdown()
    texts = [element.text for element in ElementTree.fromstring(draw_bars(found)).iter()]
    for tag, size in zip(tags, ["128×128", "160×160"], strict=True):
        assert texts.count(f"{tag} at {size}, batch 1") == 1


def test_each_tag_has_a_verdict_of_its_own():
    pytest.importorskip("timm")
    names = ["mixnet_s", "mixnet_s.ft_in1k"]
    found = quick(*names, engines=("torch",))
    assert [verdict.model for verdict in found.verdicts()] == names
    assert {len([row for row in found.rows if row.model == name]) for name in names} == {3}


def test_one_image_size_is_said_once(tiny, other):
    found = quick(tiny, other, engines=("torch",), against=())
    assert "input" not in found.columns()
    assert "1 thread, float32, images of 32×32, medians of 1 interleaved rounds" in found.markdown()


def test_what_is_named_twice_is_measured_once(tiny, other):
    found = quick(other, tiny, other, engines=("torch",), against=(), batches=(2, 1, 2))
    assert [(row.model, row.batch) for row in found.rows if row.path == "effnets"] == [
        ("other", 2),
        ("other", 1),
        ("tiny", 2),
        ("tiny", 1),
    ]


def test_networks_of_one_name_in_two_files_are_told_apart(tiny, tmp_path):
    (tmp_path / "second").mkdir()
    second = write_table(tmp_path / "second", "tiny", kernel=5)
    found = quick(tiny, second, engines=("torch",), against=())
    assert {row.model for row in found.rows} == {tiny, second} == set(found.image_size)


def test_an_image_size_out_of_range_is_told_before_the_work(tiny, monkeypatch):
    monkeypatch.setattr(measure, "measure_ceiling", None)
    with pytest.raises(ArgumentError, match="image_size is 0; give a side"):
        quick(tiny, image_size=0, engines=("torch",), against=())
