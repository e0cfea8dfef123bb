"""The benchmark's mechanics, on a small network and the smallest of the zoo's; no time is asserted."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from click.testing import CliRunner

import effnets
from effnets.bench import baselines, comparison, latency
from effnets.bench import bench as measure
from effnets.bench.plots import draw_bars
from effnets.bench.roofline import Ceiling, bound, layers_of, measure_ceiling
from effnets.bench.variants import Variant
from effnets.cli import format as shared
from effnets.cli import main
from effnets.deploy.export import base as output
from effnets.errors import ArgumentError, EngineError, VerificationError
from tests.support.small_benchmarks import quick, write_table

SMALL = "mobilenetv2_035"


@pytest.fixture(scope="module")
def report():
    pytest.importorskip("timm")
    return quick(SMALL, batches=(1, 2), against=("timm", "torchvision"))


def test_every_variant_is_measured(report):
    assert len(report.rows) == 2 * 3 * 3
    assert {(row.engine, row.path) for row in report.rows} == {
        (engine, path)
        for engine in ("torch", "onnxruntime", "openvino")
        for path in ("timm", "effnets", "effnets rewritten")
    }
    assert all(row.difference < 1e-3 and row.milliseconds > 0 for row in report.rows)
    assert report.missing == (f"torchvision has no {SMALL}",)


def test_ratios_are_those_of_the_medians(report):
    times = {(row.batch, row.engine, row.path): row.milliseconds for row in report.rows}
    for row in report.rows:
        expected = {} if row.path == "timm" else {"timm": times[row.batch, row.engine, "timm"] / row.milliseconds}
        assert row.speedups == pytest.approx(expected)
    ours = [row for row in report.rows if row.batch == 2 and row.path != "timm"]
    verdict = report.verdicts()[1]
    assert verdict.ours.milliseconds == min(row.milliseconds for row in ours)


def test_the_report_as_text(report):
    assert json.loads(json.dumps(report.to_dict()))["rows"][0]["model"] == SMALL
    lines = report.markdown().splitlines()
    assert lines[5].startswith("| model | batch | engine | variant |")
    assert sum(line.startswith(f"| {SMALL} |") for line in lines) == len(report.rows)
    assert "times as fast as the peers' best" in report.markdown()
    ElementTree.fromstring(draw_bars(report))
    assert draw_bars(report).count(" ms</title>") == len(report.rows)


def test_peers_have_our_weights():
    pytest.importorskip("torchvision")
    found = quick("mobilenetv2_100", engines=("torch",), against=("timm", "torchvision"))
    assert {row.path for row in found.rows} == {"timm", "torchvision", "effnets", "effnets rewritten"}


def test_memory_is_that_of_a_process():
    found = quick(SMALL, engines=("onnxruntime",), against=(), memory=True)
    assert all(20 < row.megabytes < 2000 for row in found.rows)
    assert "peak MB" in found.columns()


def test_another_network_is_not_timed(monkeypatch):
    pytest.importorskip("timm")
    load = baselines.load_baseline

    def wrong(peer, network):
        module = load(peer, network)
        module.classifier.weight.mul_(1.5)
        return module

    monkeypatch.setattr(baselines, "load_baseline", wrong)
    found = quick(SMALL, engines=("torch",))
    assert {row.path for row in found.rows} == {"effnets", "effnets rewritten"}
    assert re.fullmatch(rf"timm's {SMALL} is another network \(on torch, logits differ by .*\)", found.absent[0])
    assert found.missing == found.absent


@pytest.fixture
def tiny(tmp_path):
    return write_table(tmp_path, "tiny")


def test_our_own_variant_that_computes_another_network_ends_it(tiny, monkeypatch):
    load = Variant.load

    def wrong(variant):
        call = load(variant)
        return lambda images: call(images) + (1.0 if variant.path == "effnets rewritten" else 0.0)

    monkeypatch.setattr(Variant, "load", wrong)
    with pytest.raises(VerificationError, match="tiny: effnets rewritten on torch gives logits that differ"):
        quick(tiny, engines=("torch",), against=())


def test_a_peers_network_of_the_same_name_may_have_other_blocks(tmp_path):
    pytest.importorskip("timm")
    table = tmp_path / "mine.yaml"
    table.write_text(f"{SMALL}: {{stem: 8, num_classes: 4, blocks: [dsa_r1_k3_s1_c8]}}\n")
    found = quick(str(table), engines=("torch",))
    assert {row.path for row in found.rows} == {"effnets", "effnets rewritten"}
    assert found.missing == found.absent == (f"timm has no {SMALL}",)


def test_a_peer_that_cannot_be_exported_costs_only_its_own_graphs(monkeypatch):
    timm = pytest.importorskip("timm.utils.onnx")

    def fail(*_arguments, **_options):
        raise RuntimeError("no kernel for aten::this\n  a traceback")

    monkeypatch.setattr(timm, "onnx_export", fail)
    found = quick(SMALL, engines=("torch", "onnxruntime"))
    assert {(row.engine, row.path) for row in found.rows} == {
        ("torch", "timm"),
        *((engine, path) for engine in ("torch", "onnxruntime") for path in ("effnets", "effnets rewritten")),
    }
    reason = f"{SMALL}: timm's export failed: no kernel for aten::this"
    assert (found.missing, found.absent) == ((reason,), ())


@pytest.fixture
def no_compiler(monkeypatch):
    def fail(*_arguments):
        raise RuntimeError("No working C++ compiler found\n  a traceback")

    monkeypatch.setattr(torch, "compile", lambda *_arguments, **_options: fail)


@pytest.mark.usefixtures("no_compiler")
def test_a_variant_that_fails_costs_only_itself(tiny):
    found = quick(tiny, engines=("torch", "torch-compile"), against=(), batches=(1, 2))
    assert {(row.batch, row.engine) for row in found.rows} == {(1, "torch"), (2, "torch")}
    reason = "tiny: effnets rewritten: torch-compile failed: No working C++ compiler found"
    assert (found.missing, found.absent) == ((reason,), ())
    with pytest.raises(EngineError, match=f"nothing could be measured: {re.escape(reason)}"):
        quick(tiny, engines=("torch-compile",), against=())


def test_a_memory_probe_that_fails_costs_only_itself(tiny, monkeypatch):
    def fail(variant, _shape):
        raise EngineError(f"{variant.path} on {variant.engine}: killed")

    monkeypatch.setattr(comparison, "peak_memory", fail)
    found = quick(tiny, engines=("torch",), against=(), memory=True)
    assert {row.megabytes for row in found.rows} == {None}
    assert found.missing[0] == "tiny: no peak memory of effnets on torch: killed"


@pytest.mark.usefixtures("no_compiler")
def test_the_exit_status_tells_what_was_asked_for_and_not_measured(tiny):
    pytest.importorskip("timm")
    options = ["--batch", "1", "--rounds", "1", "--image-size", "32", "--threads", "1", "--no-memory"]
    for extra, status in (
        (("--engines", "torch"), 0),
        (("--engines", "torch", "--against", "timm"), 1),
        (("--engines", "torch,torch-compile"), 1),
    ):
        result = run("bench", tiny, *options, *extra, status=status)
        assert "effnets rewritten" in result.stdout
        assert "not measured: timm has no tiny" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"against": ("keras",)}, "against is 'keras'; choose from timm, torchvision"),
        ({"engines": ("tflite",)}, "engines has 'tflite'; choose from torch"),
        ({"precision": "bfloat16"}, "onnxruntime has no bfloat16"),
        ({"batches": (0,)}, "batch is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"engines": ()}, "nothing to measure"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        quick(SMALL, **arguments)


def test_a_peer_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(baselines, "find_spec", lambda _name: None)
    with pytest.raises(EngineError, match="timm is not installed, so nothing compares with it"):
        quick(SMALL)


@pytest.mark.parametrize("name", ["mobilenetv1_100", "mixnet_m", "rexnet_100", "rexnet_lite_100"])
def test_the_roofline_counts_as_the_cost_does(name):
    layers = layers_of(effnets.create_model(name).plan, 224)
    assert sum(layer.madds for layer in layers) == effnets.count(name, 224).madds


def test_the_bound_is_arithmetic_or_traffic():
    layers = layers_of(effnets.create_model("mobilenetv1_100").plan, 224)
    fast_memory, fast_arithmetic = Ceiling(100.0, 1e9), Ceiling(1e9, 10.0)
    madds = sum(layer.madds for layer in layers)
    assert bound(layers, fast_memory) == pytest.approx(2 * madds / 100e6)
    # Weights are read once for a batch.
    assert bound(layers, fast_arithmetic, batch=16) < bound(layers, fast_arithmetic)


def test_a_ceiling_is_measured():
    ceiling = measure_ceiling(repeats=1)
    assert ceiling.gflops > 1
    assert ceiling.bandwidth > 0.1


def run(*arguments, status=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


def test_the_command(tmp_path):
    options = ["--engines", "onnxruntime", "--against", "", "--batch", "1", "--rounds", "1", "--image-size", "32"]
    options += ["--threads", "1", "--no-memory"]
    chart = tmp_path / "bars.svg"
    assert "effnets rewritten" in run("bench", SMALL, *options).stdout
    assert json.loads(run("bench", SMALL, *options, "--json", "--svg", chart).stdout)["threads"] == 1
    assert chart.read_text().startswith("<svg")


def test_the_table_is_printed_though_the_chart_cannot_be_written(tiny, tmp_path, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output, "write_whole", full)
    options = ["--engines", "torch", "--against", "", "--batch", "1", "--rounds", "1", "--image-size", "32"]
    result = run("bench", tiny, *options, "--threads", 1, "--no-memory", "--svg", tmp_path / "bars.svg", status=1)
    assert "effnets rewritten" in result.stdout
    assert "bars.svg: cannot be written (No space left on device)" in result.stderr


def test_a_chart_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "bench", None)
    monkeypatch.setattr(output.os, "access", lambda *_: False)
    assert "cannot be written there" in run("bench", SMALL, "--svg", tmp_path / "bars.svg", status=1).stderr


@pytest.mark.parametrize("arguments", [("bench", SMALL), ("choose",)])
def test_a_chart_without_what_draws_it_is_refused_before_the_work(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "find_spec", lambda _name: None)
    monkeypatch.setattr(measure, "bench", None)
    monkeypatch.setattr(latency, "measure_candidates", None)
    result = run(*arguments, "--svg", tmp_path / "bars.svg", status=2)
    assert "matplotlib, which draws it, is not installed: pip install 'effnets[train]'" in " ".join(
        result.stderr.split()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch", "1,x"), "is not a list of numbers above 0"),
        (("--json", "--markdown"), "choose one"),
        (("--svg", "/nowhere/x.svg"), "Invalid value for '--svg': /nowhere is not a folder; create it first"),
        (("--svg", "x.png"), "Invalid value for '--svg': 'x.png' is not the name of an SVG file; it must end in .svg"),
        (("--svg", "svg"), "Invalid value for '--svg': 'svg' is not the name of an SVG file; it must end in .svg"),
    ],
)
def test_wrong_options(options, message):
    assert message in run("bench", SMALL, *options, status=2).output
