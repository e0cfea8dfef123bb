"""The study of channels: fits to a budget, verdicts, the command."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from effnets.cli import main
from effnets.errors import ArgumentError
from effnets.search.channels import ChannelConfiguration, ChannelRun, ChannelSettings, list_configurations
from effnets.search.channels_report import judge_channels
from effnets.search.trainings import TrainingResult
from effnets.spec.cost import Cost
from effnets.spec.plan import make_plan
from tests.support.drawn_classes import SHORT_RECIPE, draw_data

SMALL = """
small:
  base: rexnet_100_32px
  stem: 8
  head: 32
  channels: {start: 8, growth: 24}
"""


def test_all_configurations_spend_one_budget():
    settings = ChannelSettings(samples=2)
    found = list_configurations(settings)
    assert [one.kind for one in found] == ["linear", "early", "late", "sampled", "sampled", "staircase"]
    for one in found:
        assert abs(one.cost.madds / settings.budget.madds - 1) <= 0.05
    ramps = {one.name: [block.out_channels for block in make_plan(one.spec).blocks] for one in found}
    assert ramps["early"][8] > ramps["linear"][8] > ramps["late"][8]
    assert len(set(ramps["staircase"])) == 6
    own = [block.out_channels for block in make_plan(settings.skeleton).blocks]
    assert max(abs(ours - theirs) for ours, theirs in zip(ramps["linear"], own, strict=True)) <= 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
        ({"samples": -1}, "samples is -1; it must be at least 0"),
        ({"width": 9}, "width is 9; give a number from 0.1 to 4"),
        ({"max_madds": -1}, "max_madds is -1; give a positive number"),
        ({"model": "mixnet_s"}, "mixnet_s: has no linear schedule of channels; take a ReXNet"),
    ],
)
def test_settings_out_of_range(values, message):
    with pytest.raises(ArgumentError, match=message):
        ChannelSettings(**values)


def test_a_budget_that_no_channels_meet():
    with pytest.raises(ArgumentError, match=r"give 0\.001 M multiply-adds; the nearest have"):
        list_configurations(ChannelSettings(max_madds=1e3))


def runs(**top1: tuple[float, ...]) -> list[ChannelRun]:
    spec = ChannelSettings().skeleton
    return [
        ChannelRun(
            configuration=ChannelConfiguration(name=name, kind="linear", spec=spec, cost=Cost()),
            seed=seed,
            result=TrainingResult(val_top1=value, test_top1=None, seconds=1.0, params=1, madds=1),
        )
        for name, values in top1.items()
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("line", "other", "verdict"),
    [
        ((70.0, 70.2), (60.0, 60.2), "supported"),
        ((60.0, 60.2), (70.0, 70.2), "not supported"),
        ((70.0, 72.0), (70.5, 71.0), "undecided"),
        ((70.0,), (60.0,), "undecided"),
    ],
)
def test_verdicts(line, other, verdict):
    found = judge_channels(runs(linear=line, early=other, late=tuple(value - 5 for value in other)))
    assert (found.verdict, found.rival) == (verdict, "early")
    assert f"is {verdict} by these data" in str(found)


def test_the_command_trains_and_resumes(tmp_path: Path, monkeypatch):
    (tmp_path / "small.yaml").write_text(SMALL)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(SHORT_RECIPE)
    data = draw_data(tmp_path / "data", train=2, val=2, test=0)
    arguments = [
        "study",
        "channels",
        str(data),
        "--output",
        str(tmp_path / "study"),
        "--model",
        str(tmp_path / "small.yaml"),
    ]
    arguments += ["--width", "0.5", "--samples", "0", "--seeds", "1", "--recipe", str(recipe)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "“the best channels are linear” is undecided by these data" in result.output
    names = {path.name for path in (tmp_path / "study").iterdir()}
    assert names == {"trainings", "channels.csv", "channels.svg", "README.md"}
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "holds something already" in result.output
    monkeypatch.setattr("effnets.train.run.Run.setup", lambda *_, **__: pytest.fail("trained again"))
    result = CliRunner().invoke(main, [*arguments, "--resume"])
    assert result.exit_code == 0, result.output
