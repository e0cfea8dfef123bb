"""Candidates within limits, also of spaces that nobody can enumerate; proposals by arithmetic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

import effnets
from effnets.errors import ArgumentError, ConfigError
from effnets.search.candidates import CandidateSource
from effnets.search.propose import propose
from effnets.search.space import read_space
from effnets.spec.cost import count
from effnets.spec.models import load_spec
from effnets.spec.scaling import ScaleLimits

HUGE = """
huge:
  base: mixnet_xs_32px
  blocks:
    - ds_r1_k{3|3.5|3.5.7}_s1_e1_c{12|16|20}
""" + "\n".join(
    f"    - ir_r1_k{{3|3.5|3.5.7}}_s{1 + number % 2}_e{{2|3|6}}_c{{{24 + number}|{34 + number}}}{{|_se0.25}}"
    for number in range(11)
)


def written(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


def test_a_space_of_a_million_million_candidates(tmp_path):
    space = read_space(written(tmp_path, HUGE))
    assert space.size > 1e12
    source = CandidateSource(space, ScaleLimits(max_madds=12e6, max_params=250e3))
    drawn = {source.draw(Random(seed)).picks for seed in range(3)}
    assert len(drawn) == 3
    for picks in drawn:
        cost = count(space.spec(picks))
        assert cost.madds <= 12e6
        assert cost.params <= 250e3


def test_a_share_of_every_limit_is_used():
    source = CandidateSource(read_space("mixconv"), ScaleLimits(max_madds=30e6), min_share=0.97)
    random = Random(0)
    assert all(0.97 * 30e6 <= source.draw(random).madds <= 30e6 for _ in range(5))


@pytest.mark.parametrize(
    ("limits", "share", "message"),
    [
        ({"max_madds": 1e6}, 0.0, r"no candidate keeps all limits: the smallest found needs 2\d.* M multiply-adds, "
                                  r"max_madds is 1 M multiply-adds; raise the limits, or offer smaller options"),
        ({"max_params": 1e9}, 0.9, r"no candidate uses 90 % of every limit: the nearest found uses 0\.\d+ % of "
                                   r"max_params; lower min_share"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(limits, share, message):
    with pytest.raises(ArgumentError, match=message):
        CandidateSource(read_space("mixconv"), ScaleLimits(**limits), min_share=share).draw(Random(0))


def test_the_smallest_has_the_fewest_multiply_adds():
    source = CandidateSource(read_space("mixconv"), ScaleLimits())
    random = Random(0)
    assert source.smallest().madds <= min(source.draw(random).madds for _ in range(50))


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ArgumentError, match="min_share is a share of limits, and none is given; give at least one of"):
        CandidateSource(read_space("mixconv"), ScaleLimits(), min_share=0.5)
    with pytest.raises(ArgumentError, match="min_share is 1; give a share"):
        CandidateSource(read_space("mixconv"), ScaleLimits(max_madds=1e6), min_share=1)


def test_classes_and_channels_of_the_data_count():
    space = read_space("mixconv")
    ten = CandidateSource(space, ScaleLimits(), num_classes=10).measure(space.default)
    more = CandidateSource(space, ScaleLimits(), num_classes=11, in_chans=4).measure(space.default)
    assert more.params - ten.params == ten.spec.head + 1 + 9 * ten.spec.stem
    assert ten.spec.num_classes == 10


def test_latency_is_asked_only_of_what_keeps_the_other_limits():
    asked = []
    space = read_space("mixconv")
    source = CandidateSource(
        space, ScaleLimits(max_madds=40e6, max_latency=5), latency=lambda spec: asked.append(count(spec).madds) or 4.0
    )
    assert source.draw(Random(0)).latency == 4.0
    assert max(asked) <= 40e6


def test_the_papers_numbers_give_the_papers_network():
    """ReXNet-1.0: c_i = a·i + b with a = 180 / 16 and b = 16."""
    space = read_space("rexnet")
    spec = space.spec(space.picks({"channels.start": 16, "channels.growth": 180, "channels.middle": 0.5}))
    assert replace(spec, name="rexnet_100") == load_spec("rexnet_100")


def test_proposals_for_the_budget_of_rexnet(tmp_path):
    own = count("rexnet_100")
    found = propose("rexnet", 3, max_madds=own.madds, max_params=own.params, output=tmp_path / "found")
    assert len({one.picks for one in found}) == 3
    for number, one in enumerate(found, start=1):
        assert abs(one.madds / own.madds - 1) <= 0.02
        assert abs(one.params / own.params - 1) <= 0.02
        assert count(tmp_path / "found" / f"rexnet_{number}.yaml") == effnets.Cost(one.params, one.madds)
    with pytest.raises(ArgumentError, match="no limit is given; give at least one of max_params, max_madds"):
        propose("rexnet", 3)


@pytest.mark.parametrize(("options", "message"), [
    ({"channels.stop": 3}, "has no choice 'channels.stop'; there are channels.start"),
    ({"channels.start": 3}, "channels.start does not offer 3; it offers 8, 9"),
])  # fmt: skip
def test_options_that_are_not_offered(options, message):
    with pytest.raises(ArgumentError, match=message):
        read_space("rexnet").picks(options)


def test_ranges_are_options(tmp_path):
    text = "mine: {base: rexnet_100, channels: {start: {from: 8, to: 12, step: 2}, growth: 180}}"
    assert read_space(written(tmp_path, text)).choices[0].options == (8, 10, 12)
    for wrong in (
        "{from: 8, to: 12}",
        "{from: 8, to: 12, step: 0}",
        "{from: 12, to: 8, step: 1}",
        "{from: a, to: 9, step: 1}",
    ):
        with pytest.raises(
            ConfigError,
            match=r"start offers nothing; offer at least two options, or a range as \{from: 8, to: 32, step: 2\}",
        ):
            read_space(written(tmp_path, text.replace("{from: 8, to: 12, step: 2}", wrong)))
