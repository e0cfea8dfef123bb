"""``effnets choose``: with a profiler that makes latency up, and once as a process that really measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from click.testing import CliRunner

from effnets.cli import main
from effnets.spec.cost import count
from tests.support.small_benchmarks import make_up_latency

GRID = ("--models", "tf_mobilenetv2_*", "--engine", "torch")


@pytest.fixture
def asked(monkeypatch, tmp_path):
    return make_up_latency(monkeypatch, tmp_path / "home")


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(main, ["choose", *map(str, arguments)])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


def test_it_recommends_and_shows_the_front(asked):
    result = run(*GRID, "--max-latency", "1.6ms", "--max-params", "3M", "--min-top1", "60%")
    assert "Take tf_mobilenetv2_075.keras_r192_in1k at 192: the most accurate within the limits" in result.stdout
    assert "one step up, tf_mobilenetv2_075.keras_r224_in1k at 224, +0.8 points" in result.stdout
    (marked,) = (line for line in result.stdout.splitlines() if line.startswith("→"))
    assert "tf_mobilenetv2_075.keras_r192_in1k" in marked
    assert f"latencies: {len(asked)} measured now, 0 known from before" in result.stderr


def test_the_second_run_measures_nothing(asked):
    first = run(*GRID, "--min-top1", "68")
    number = len(asked)
    second = run(*GRID, "--min-top1", "68")
    assert len(asked) == number > 0
    assert second.stdout == first.stdout
    assert f"0 measured now, {number} known from before" in second.stderr
    run(*GRID, "--min-top1", "68", "--remeasure")
    assert len(asked) == 2 * number


def test_a_damaged_store_is_said_and_mended(asked, tmp_path):
    run(*GRID, "--min-top1", "70")
    for path in (tmp_path / "home" / "measurements").iterdir():
        path.write_text("{")
    number = len(asked)
    assert "is damaged; measuring again" in run(*GRID, "--min-top1", "70").stderr
    assert len(asked) > number


def test_as_json(asked):
    answer = json.loads(run(*GRID, "--max-madds", "50M", "--batch", 2, "--threads", 1, "--json").stdout)
    assert answer["recommended"] == "tf_mobilenetv2_075.keras_r96_in1k"
    assert answer["recommended"] in answer["front"]
    assert (answer["engine"], answer["batch"], answer["threads"]) == ("torch", 2, 1)
    assert answer["limits"]["max_madds"] == 5e7
    assert answer["measured"] == len(asked)
    rows = {row["name"]: row for row in answer["candidates"]}
    assert rows[answer["recommended"]]["latency_ms"] == count("tf_mobilenetv2_075", 96).madds / 1e8
    assert rows["tf_mobilenetv2_100.keras_r224_in1k"]["latency_ms"] is None


def test_nothing_keeps_all_limits(asked):
    result = run(*GRID, "--max-latency", "0.3ms", "--max-params", "2M", "--min-top1", "60", status=1)
    assert "Nothing that was measured keeps all limits." in result.stdout
    assert "--max-latency: nearest is tf_mobilenetv2_050.keras_r160_in1k at 160 with 0.50 ms" in result.stdout
    assert "--max-params: nearest is" in result.stdout
    assert "--min-top1: nearest is" in result.stdout
    assert len(asked) > 0


def test_nothing_is_left_to_measure(asked):
    result = run(*GRID, "--max-params", "1M", "--min-top1", "70", status=1)
    assert result.stdout.startswith(
        "Nothing keeps all limits.\n  --max-params: nearest is tf_mobilenetv2_100.google_r224"
    )
    assert "--min-top1: nothing breaks this limit alone" in result.stdout
    assert asked == []


@pytest.mark.usefixtures("asked")
def test_the_plot_is_drawn(tmp_path):
    run(*GRID, "--max-latency", "2ms", "--svg", tmp_path / "plot.svg")
    root = ElementTree.fromstring((tmp_path / "plot.svg").read_text(encoding="utf-8"))
    assert "at most 2 ms" in [element.text for element in root.iter()]
    assert "cannot be" not in run(*GRID, "--max-params", "1M", "--svg", tmp_path / "empty.svg", status=1).output
    ElementTree.parse(tmp_path / "empty.svg")


@pytest.mark.usefixtures("asked")
def test_weights_without_accuracy_are_named():
    assert "without published accuracy on ImageNet-1k: rexnetr_200.sw_in12k" in run("--models", "rexnetr_200").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-latency", "5"], "Invalid value for '--max-latency': '5' has no unit"),
        (["--max-params", "4MB"], "Invalid value for '--max-params': '4MB' has the unit 'MB'"),
        (["--max-madds", "-3M"], "Invalid value for '--max-madds'"),
        (["--min-top1", "175"], "Invalid value for '--min-top1'"),
        (["--budget", "soon"], "Invalid value for '--budget'"),
        (
            ["--svg", "plot.png"],
            "Invalid value for '--svg': 'plot.png' is not the name of an SVG file; it must end in .svg",
        ),
        (["--svg", "no/such/plot.svg"], "Invalid value for '--svg': no/such is not a folder"),
    ],
)
def test_wrong_arguments_are_named(asked, arguments, message):
    assert message in run(*arguments, status=2).stderr
    assert asked == []


@pytest.mark.usefixtures("asked")
def test_wrong_names():
    assert "engine is 'tpu'; choose auto or one of" in run("--engine", "tpu", status=1).stderr
    assert "no published weights match 'resnet*'" in run("--models", "resnet*", status=1).stderr


def test_as_a_process_that_measures(tmp_path):
    """On torch, which is the soonest to be ready; the engines of ONNX files are tried where the profiler is."""

    def choose():
        command = [sys.executable, "-m", "effnets", "choose", "--models", "tf_mobilenetv1_025", "--max-madds", "22M"]
        command += ["--engine", "torch", "--threads", "1", "--json", "--svg", str(tmp_path / "plot.svg")]
        environment = {**os.environ, "EFFNETS_HOME": str(tmp_path / "home")}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    first, second = choose(), choose()
    assert (first["measured"] > 0, first["reused"], second["measured"]) == (True, 0, 0)
    assert second["front"] == first["front"]
    assert first["recommended"] == "tf_mobilenetv1_025.keras_r160_in1k"
    assert (tmp_path / "plot.svg").exists()
