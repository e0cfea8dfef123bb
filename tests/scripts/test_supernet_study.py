"""The study of a supernet's ranks says what was measured."""

from __future__ import annotations

import argparse
import runpy

import pytest

from effnets.search.space import read_space
from effnets.spec.scaling import ScaleLimits
from tests.support import ROOT


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return runpy.run_path(str(ROOT / "scripts" / "supernet_study.py"))


def test_ranks_are_set_beside_those_of_own_trainings(study) -> None:
    rows = [
        study["Row"](
            options=f"3/6/se0.25 3.5/{index}",
            params=100_000 * index,
            madds=30_000_000 - index,
            shared_val=40.0 + index,
            own_val=50.0,
            own_test=60.0 + index + 1.5 * (index == 2),
            seconds=1.0,
        )
        for index in range(1, 5)
    ]
    taus = study["taus"](rows)
    assert taus["the supernet"][0] == pytest.approx(2 / 3)  # one of six pairs the other way round
    assert taus["multiply-adds"][0] == pytest.approx(-2 / 3)
    text = study["document"](rows, argparse.Namespace(space="mixconv"))
    assert "4 sub-networks of mixconv" in text
    assert "- the supernet: τ = 0.67 (p = 0.333)" in text
    assert text.splitlines()[2].startswith("| 3/6/se0.25 3.5/4 | 0.40 | 30.0 | 44.00 | 50.00 | 64.00 |")
    assert "lie within 3.0 points" in text


def test_subnets_are_different_and_within_the_limits(study) -> None:
    space, limits = read_space("mixconv"), ScaleLimits(max_madds=30e6)
    found = study["subnets"](space, limits, 0, 6)
    assert len(set(found)) == 6
    assert found == study["subnets"](space, limits, 0, 6)
    picks = space.picks({"blocks.2.k": "3.5", "blocks.2.e": "6", "blocks.2.se": "_se0.25"})
    assert study["describe"](space, picks).startswith("3 3.5/6/se0.25 3/3 3/3 ")
