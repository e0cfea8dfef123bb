"""Several models in one benchmark: what each is called, and that none costs another its results."""

from __future__ import annotations

import pytest
from small_benchmarks import quick, write_table

from effnets.bench import measure
from effnets.deploy import in_memory, rewrite
from effnets.errors import ArgumentError, ConfigError, EngineError, ExportError, MissingFileError, UnknownModelError


@pytest.fixture
def tiny(tmp_path):
    return write_table(tmp_path, "tiny")


@pytest.fixture
def other(tmp_path):
    return write_table(tmp_path, "other", kernel=5)


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_a_network_that_cannot_be_exported_or_rewritten_costs_only_itself(tiny, other, monkeypatch, engine):
    exported, rewritten = in_memory.export_graph, rewrite.optimize

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
        monkeypatch.setattr(in_memory, "export_graph", export)
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
    monkeypatch.setattr(measure, "make_programs", None)
    if ":" in text:
        (tmp_path / "mine.yaml").write_text(text)
        text = str(tmp_path / "mine.yaml")
    with pytest.raises(error, match=message):
        quick(tiny, text, engines=("torch",), against=())
