"""Tuning: what is tried, refused and kept. No test depends on which candidate is really faster."""

from __future__ import annotations

import json
import os
from itertools import count

import pytest

from effnets.deploy import tune as tune_module
from effnets.deploy.optimize.rewrites import PRESETS
from effnets.deploy.tune import MARGIN, TuneCandidate, TuneReport, candidates, read_report, report_path, tune
from effnets.errors import ArgumentError, ExportError, VerificationError
from effnets.utils.timing import Timing
from tests.support.tiny_network import tiny


@pytest.fixture
def network(tmp_path):
    return tiny(tmp_path)


@pytest.fixture
def milliseconds(monkeypatch):
    """Set the milliseconds of candidates by their index; the others take 10. Nothing is exported."""
    given: dict[int, float] = {}

    def interleave(subjects, *, rounds, **_others):
        return {name: Timing((given.get(int(name), 10.0),) * rounds) for name in subjects}

    monkeypatch.setattr(tune_module, "interleave", interleave)
    # An error of 1e-6 of the largest logit.
    exact = lambda one: lambda _images: one.expected * (1 + 1e-6)  # noqa: E731
    monkeypatch.setattr(tune_module.TuneSearch, "_load", lambda one, _candidate: exact(one))
    return given


def quick(network, **arguments) -> TuneReport:
    return tune(network, **{"image_size": 32, "engines": ["onnxruntime"], "precisions": ["float32"], **arguments})


def test_the_default_comes_first_and_nothing_twice(network):
    found = candidates(network.plan, ["onnxruntime", "openvino", "torch"], ["float32", "bfloat16"])
    assert (found[0].engine, found[0].precision, found[0].rewrites) == (
        "onnxruntime",
        "float32",
        PRESETS["onnxruntime"],
    )
    assert len({(one.engine, one.precision, one.rewrites) for one in found}) == len(found)
    assert not [one for one in found if one.engine == "onnxruntime" and one.precision == "bfloat16"]
    # A short budget sees every engine.
    assert {one.engine for one in found[:5]} == {"onnxruntime", "openvino", "torch"}


def test_a_candidate_is_the_same_after_json(network):
    for one in candidates(network.plan, ["openvino"], ["float32"]):
        assert TuneCandidate.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_the_fastest_is_chosen(network, milliseconds):
    milliseconds[2] = 5.0
    found = quick(network)
    assert found.choice == 2
    assert "2.00 times as fast as the default" in str(found)


def test_a_gain_within_the_margin_is_none(network, milliseconds):
    milliseconds[2] = 10.0 / (1 + MARGIN / 2)
    found = quick(network)
    assert found.choice == 0
    assert "nothing beat the default" in str(found)


@pytest.fixture
def differences(monkeypatch):
    """Set the difference of candidates by their index; that of the others is 0."""
    given: dict[int, float] = {}
    calls = count()
    monkeypatch.setattr(tune_module.TuneSearch, "_difference", lambda _search, _logits: given.get(next(calls), 0.0))
    return given


def test_what_computes_something_else_is_not_timed(network, milliseconds, differences):
    milliseconds[1] = 1.0
    differences[1] = 0.5
    found = quick(network, tolerance=0.1)
    assert found.choice == 0
    assert (found.candidates[1].milliseconds, found.candidates[1].note) == (None, "differs by 5.0e-01")
    assert all(one.milliseconds for one in found.candidates[2:])


def test_a_default_outside_of_the_tolerance_is_not_chosen(network, milliseconds, differences):
    milliseconds.update({0: 1.0, 2: 9.9})
    differences[0] = 0.5
    found = quick(network, tolerance=0.1)
    assert found.choice == 2
    assert found.candidates[0].note == "differs by 5.0e-01"


def test_a_tolerance_that_nothing_meets_is_reported(network):
    message = r"no program stays within 1e-30 of the logits in float64; the nearest, .*, differs by .*; raise tolerance"
    with pytest.raises(VerificationError, match=message):
        quick(network, tolerance=1e-30)


def test_without_time_the_default_and_one_other_run(network, milliseconds):
    found = quick(network, budget=1e-6)
    assert not milliseconds
    assert [one.milliseconds is not None for one in found.candidates[:2]] == [True, True]
    assert all(one.note == "no time left" for one in found.candidates[2:])


def test_every_engine_runs_for_real(network):
    found = quick(network, engines=None, precisions=["float32", "bfloat16"], budget=3, tolerance=0.1, batch=2)
    timed = [one for one in found.candidates if one.milliseconds]
    assert timed[0].candidate.engine == "onnxruntime"
    assert len(timed) >= 2
    assert all(one.difference < 0.1 for one in timed)


def test_a_report_is_used_again(network, milliseconds, tmp_path):
    path = report_path(tmp_path / "model.onnx")
    assert path.name == "model.tune.json"
    milliseconds[1] = 5.0
    first = quick(network, report=path)
    milliseconds[1] = 50.0
    second = quick(network, report=path)
    assert (second.choice, second.reused) == (first.choice, True) == (1, True)
    assert second.candidates == first.candidates
    # Another batch size is another question.
    assert not quick(network, report=path, batch=2).reused


def test_a_report_of_another_machine_model_or_none_is_measured_again(network, milliseconds, tmp_path):
    path = tmp_path / "x.tune.json"
    milliseconds[1] = 5.0
    conditions = quick(network, report=path).conditions
    assert read_report(path, conditions)
    machine = {**conditions["machine"], "processor": "another"}
    assert read_report(path, {**conditions, "machine": machine}) is None
    assert read_report(path, {**conditions, "sha256": "0"}) is None
    good = json.loads(path.read_text())
    for damaged in ("", "[]", "{}", json.dumps(good | {"choice": 99}), json.dumps(good | {"candidates": [{}]})):
        path.write_text(damaged)
        assert read_report(path, conditions) is None
    assert not quick(network, report=path).reused
    assert read_report(path, conditions)


@pytest.mark.usefixtures("milliseconds")
def test_a_system_without_load(network, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "getloadavg")
    path = tmp_path / "x.tune.json"
    first, second = (quick(network, report=path) for _ in range(2))
    assert (first.load, second.load, second.reused) == (None, None, True)


def test_a_report_that_cannot_be_written_is_reported_before_measuring(network, tmp_path, monkeypatch):
    monkeypatch.setattr(tune_module.TuneSearch, "run", None)
    with pytest.raises(ExportError, match=r"gone is not a folder; make it first"):
        quick(network, report=tmp_path / "gone" / "x.tune.json")
    with pytest.raises(ExportError, match=r"cannot be written there; choose another place"):
        quick(network, report=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch is 0; a batch has at least 1 image"),
        ({"budget": 0}, "both must be above 0"),
        ({"engines": ["tflite"]}, "choose from those installed"),
        ({"precisions": ["bfloat16"]}, "give float32"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_wrong_tuning_arguments(network, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        quick(network, **arguments)


def test_only_classifiers(network):
    with pytest.raises(ArgumentError, match="model is a ConvBNAct; give a classifier"):
        tune(network.stem)
    network.reset_classifier(0)
    with pytest.raises(ArgumentError, match="gives no logits for an image"):
        tune(network)
