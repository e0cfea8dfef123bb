"""Networks scaled to a budget: every family, every limit, the rule, latency that is made up, the file, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from click.testing import CliRunner

import effnets
from effnets.cli import main
from effnets.errors import ArgumentError, ConfigError, ExportError, UnknownModelError
from effnets.search.scale import scale
from effnets.spec.cost import count, peak_memory
from effnets.spec.models import list_models, load_spec
from effnets.spec.plan import make_plan
from effnets.spec.scaling import (
    ScaledModel,
    ScaleLimits,
    choose_scaled,
    scale_candidates,
    scaled_spec,
    smallest,
    usual_sizes,
    wider,
)
from effnets.spec.weights import find_weights
from tests.support.small_benchmarks import make_up_latency

FAMILIES = ("mobilenetv1_100", "tf_mobilenetv2_100", "mixnet_s", "mixnet_l", "rexnet_100", "rexnetr_100",
            "rexnet_lite_100", "mnasnet_a1", "mobilenetv1_100_32px")  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("share", [0.3, 0.8, 2.5])
def test_at_least_90_percent_of_a_budget_of_multiply_adds(name, share):
    limit = share * count(name).madds
    report = scale(name, max_madds=limit)
    assert 0.9 * limit <= report.chosen.madds <= limit
    assert report.tightest == ("max_madds", report.chosen.madds / limit)
    assert report.notes == ()
    assert count(report.chosen.spec).madds == report.chosen.madds
    for candidate in report.candidates:
        following = wider(candidate, report.original)
        assert candidate.madds <= limit < following.madds, "the widest of this size"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_limit_is_kept(name):
    cost = count(name)
    memory = peak_memory(make_plan(load_spec(name)), load_spec(name).input_size)
    report = scale(name, max_params=0.7 * cost.params, max_madds=0.5 * cost.madds, max_memory=0.8 * memory)
    chosen = report.chosen
    assert chosen.params <= 0.7 * cost.params
    assert chosen.madds <= 0.5 * cost.madds
    assert chosen.memory <= 0.8 * memory
    assert report.tightest[1] >= 0.9


@pytest.mark.parametrize("name", FAMILIES)
def test_costs_never_fall_as_the_width_rises(name):
    spec = load_spec(name)
    before = (0, 0, 0)
    for step in range(100, 3000, 37):
        scaled = scaled_spec(spec, step / 1000, 96)
        costs = (count(scaled).params, count(scaled).madds, peak_memory(make_plan(scaled), 96))
        assert all(new >= old for new, old in zip(costs, before, strict=True)), step
        before = costs


def test_the_papers_own_network_is_found():
    """Half the width at 224 pixels has 149 M multiply-adds (arXiv:1704.04861, table 6)."""
    report = scale("mobilenetv1_100", max_madds=150e6, sizes=[224])
    assert (report.chosen.width, report.chosen.input_size) == (0.5, 224)
    assert report.chosen.params == count("mobilenetv1_050").params


def test_the_rule_on_published_accuracies():
    """Of the 16 networks that Keras translated, what the rule takes is near the most accurate within a budget."""
    rows = []
    for name in list_models("tf_mobilenetv1_*.keras*", pretrained=True):
        weights, spec = find_weights(name), load_spec(name)
        cost = count(spec, weights.preprocess.input_size)
        model = ScaledModel(spec=spec, resolution=spec.input_size / 224, params=cost.params, madds=cost.madds, memory=1)
        rows.append((model, weights.top1))
    assert len(rows) == 16
    losses = []
    for step in range(201):
        limits = ScaleLimits(max_madds=14e6 * (600 / 14) ** (step / 200))
        chosen = choose_scaled([model for model, _ in rows], limits, load_spec("tf_mobilenetv1_100"))
        best = max((top1 for model, top1 in rows if model.madds <= limits.max_madds))
        losses.append(best - next(top1 for model, top1 in rows if model is chosen))
    assert max(losses) < 1.11
    assert sum(losses) / len(losses) < 0.065
    assert sum(loss == 0 for loss in losses) == 174


def test_without_a_fitting_candidate_there_is_none():
    spec = load_spec("mixnet_s")
    assert choose_scaled([], ScaleLimits(max_madds=1e9), spec) is None
    candidates = scale_candidates(spec, ScaleLimits(max_madds=1e9), [224])
    assert choose_scaled(candidates, ScaleLimits(max_madds=1e6), spec) is None


def test_sizes_are_multiples_of_32_up_to_the_models():
    assert usual_sizes(load_spec("rexnet_100")) == [96, 128, 160, 192, 224]
    assert usual_sizes(load_spec("mobilenetv1_100_32px")) == [32]
    report = scale("rexnet_100", max_madds=2e9, sizes=[256, 320, 256])
    assert [candidate.input_size for candidate in report.candidates] == [256, 320]


def test_a_coarse_grid_of_channels_is_said():
    spec = replace(load_spec("mobilenetv1_100"), divisor=64)
    report = scale(spec, max_madds=170e6, sizes=[224])
    (note,) = report.notes
    assert (
        f"only {100 * report.tightest[1]:.1f} % of max_madds is used: channels are rounded to multiples of 64" in note
    )
    assert "% of max_madds" in note


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "no limit is given; give at least one of max_params, max_madds, max_memory, max_latency"),
        ({"max_madds": -1}, "max_madds is -1; give a positive number"),
        ({"max_params": "2M"}, "max_params is '2M'; give a positive number"),
        (
            {"max_params": 1e6},
            r"smallest candidate, α = 0.1 at 96×96, needs 1.645 M parameters \(max_params is 1,000,000",
        ),
        ({"max_memory": 1000}, r"needs 0.\d+ MB of feature maps \(max_memory is 1,000"),
        ({"max_madds": 1e9, "sizes": []}, "sizes is empty"),
        ({"max_madds": 1e9, "sizes": [9999]}, "sizes is 9999"),
        ({"max_madds": 1e9, "num_classes": 0}, "num_classes is 0; it must be at least 1"),
        ({"max_madds": 1e9, "output": "my.json"}, "give the file the suffix .yaml"),
    ],
)
def test_bad_budgets(limits, message):
    with pytest.raises(ArgumentError, match=message):
        scale("mixnet_s", **limits)


def test_unknown_model():
    with pytest.raises(UnknownModelError, match="did you mean"):
        scale("mobilenet_v1_100", max_madds=1e9)


def test_fewer_classes_leave_room_for_the_rest():
    all_classes, ten = (scale("mixnet_s", max_params=2e6, num_classes=n).chosen.width for n in (None, 10))
    assert ten > all_classes


@pytest.mark.parametrize("name", ["mobilenetv1_100", "mobilenetv2_140", "mixnet_m", "rexnet_100", "rexnet_lite_100"])
def test_the_file_builds_the_network(name, tmp_path):
    report = scale(name, max_madds=0.4 * count(name).madds, num_classes=7, output=tmp_path / "my.yaml")
    entry = yaml.safe_load((tmp_path / "my.yaml").read_text(encoding="utf-8"))
    chosen = report.chosen
    expected = {"base": name, "width": chosen.width, "input_size": chosen.input_size, "num_classes": 7}
    assert entry == {"my": expected}
    model = effnets.create_model(tmp_path / "my.yaml")
    assert (model.spec.input_size, model.num_classes) == (chosen.input_size, 7)
    assert effnets.count(model).madds == chosen.madds
    assert sum(parameter.numel() for parameter in model.parameters()) == chosen.params


def test_the_file_of_a_table_of_ones_own(tmp_path):
    (tmp_path / "own.yaml").write_text("own: {base: mixnet_s, every_block: k5, activation: silu}", encoding="utf-8")
    report = scale(tmp_path / "own.yaml", max_params=3e6, output=tmp_path / "mixnet_s.yaml")
    spec = load_spec(tmp_path / "mixnet_s.yaml")
    assert spec.name == "scaled"
    assert make_plan(spec) == make_plan(report.chosen.spec)
    assert spec.activation == "silu"


def test_an_existing_file_is_left_alone(tmp_path):
    (tmp_path / "my.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(ExportError, match="exists; name another file, or delete this one"):
        scale("mixnet_s", max_madds=1e8, output=tmp_path / "my.yaml")
    with pytest.raises(ExportError, match="not a folder; make it first"):
        scale("mixnet_s", max_madds=1e8, output=tmp_path / "missing" / "my.yaml")
    assert (tmp_path / "my.yaml").read_text(encoding="utf-8") == "mine"


def test_widths_that_the_kernel_groups_forbid_are_passed_over():
    mixnet = load_spec("mixnet_s")
    spec = replace(mixnet, divisor=1, blocks=(replace(mixnet.blocks[0], channels=8), *mixnet.blocks[1:]))
    with pytest.raises(ConfigError, match="1 channels do not divide into 2 groups"):
        make_plan(replace(spec, width=0.1))
    least = smallest(spec, [224])
    assert 0.1 < least.width < 0.3
    assert scale(spec, max_madds=1.5 * least.madds, sizes=[224]).chosen.width >= least.width


@pytest.fixture
def asked(monkeypatch, tmp_path):
    return make_up_latency(monkeypatch, tmp_path / "home", power=0.7)


@pytest.mark.parametrize("limit", [0.3, 1.0, 4.0])
def test_latency_is_brought_near_its_limit(asked, limit):
    report = scale("mobilenetv2_100", max_latency=limit, engine="torch")
    assert 0.9 * limit <= report.chosen.latency <= limit
    assert 1 <= len(asked) <= 8
    assert report.engine == "torch"
    assert report.tightest[0] == "max_latency"


def test_another_limit_is_tighter_than_latency(asked):
    report = scale("mobilenetv2_100", max_latency=10, max_madds=1e8, engine="torch")
    assert len(asked) == 1
    assert report.chosen.latency < 1
    assert report.tightest[0] == "max_madds"


@pytest.mark.usefixtures("asked")
def test_a_latency_that_nothing_keeps():
    with pytest.raises(
        ArgumentError, match=r"smallest candidate, α = 0.1 at 96×96, needs .* ms \(max_latency is 0.01\)"
    ):
        scale("mobilenetv2_100", max_latency=0.01, engine="torch")


def test_all_candidates_are_measured_once(asked):
    report = scale("mobilenetv2_100", max_madds=1e8, measure=True, engine="torch")
    assert all(candidate.latency is not None for candidate in report.candidates)
    assert len(asked) == len(report.candidates) == 5
    scale("mobilenetv2_100", max_madds=1e8, measure=True, engine="torch")
    assert len(asked) == 5


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(main, ["scale", *map(str, arguments)])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


def test_the_command_prints_the_candidates(tmp_path):
    result = run("mobilenetv1_100", "--max-madds", "150M", "--output", tmp_path / "my.yaml")
    (marked,) = (line for line in result.stdout.splitlines() if line.startswith("→"))
    assert "0.71" in marked
    assert "160×160" in marked
    assert "99.3 % of max_madds" in result.stdout
    assert load_spec(tmp_path / "my.yaml").width == 0.71


def test_the_command_in_json():
    document = json.loads(run("rexnet_100", "--max-params", "2.5M", "--max-memory", "4MiB", "--json").stdout)
    assert document["limits"]["max_params"] == 2.5e6
    assert document["limits"]["max_memory"] == 4 * 2**20
    assert document["chosen"] in document["candidates"]


@pytest.mark.usefixtures("asked")
def test_the_command_with_a_limit_of_latency_alone():
    result = run("mobilenetv2_100", "--max-latency", "1ms", "--engine", "torch")
    (marked,) = (line for line in result.stdout.splitlines() if line.startswith("→"))
    assert " ms " in marked
    assert "% of max_latency (torch)" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-madds", "150Q"), "'150Q' has the unit 'Q'; use k, M, G, like 4M or 300M"),
        (("--max-madds", "-1M"), "is no positive number"),
        (("--max-latency", "5"), "has no unit"),
        (("--max-memory", "2"), "'2' has no unit; use B, kB, MB"),
        (("--max-madds", "1M", "--sizes", "128,x"), "is not a list of sides in pixels, such as 128,160,192"),
    ],
)
def test_numbers_that_are_none(arguments, message):
    assert message in run("mixnet_s", *arguments, status=2).stderr


def test_what_cannot_be_satisfied_is_status_1():
    assert "smallest candidate" in run("mixnet_s", "--max-params", "1M", status=1).stderr


def test_arithmetic_needs_no_torch():
    program = (
        "import sys, effnets; print(effnets.scale('rexnet_100', max_madds=1e8)); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
