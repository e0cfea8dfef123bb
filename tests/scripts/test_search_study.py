"""The study of a one-shot search compares networks of equal multiply-adds, and says what was measured."""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path

import pytest

from effnets.errors import ArgumentError
from effnets.search.candidates import CandidateSource
from effnets.search.evaluations import EvaluationJournal
from effnets.search.space import read_space
from effnets.search.trainings import TrainingResult
from effnets.spec.cost import count
from effnets.spec.plan import make_plan
from effnets.spec.scaling import ScaleLimits
from effnets.utils.run_journal import RunJournal
from tests.support import ROOT

MADDS, BAND = 30e6, 0.03


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return runpy.run_path(str(ROOT / "scripts" / "search_study.py"))


def test_both_searches_stay_in_the_band_and_are_not_repeated(study, tmp_path: Path) -> None:
    source = CandidateSource(read_space("mixconv"), ScaleLimits(max_madds=MADDS), min_share=1 - BAND)

    def search_both(evaluate):
        with RunJournal(tmp_path / "evaluations.jsonl", {}, resume=True) as journal:
            known = EvaluationJournal(journal, study["Measured"](evaluate), source.measure)
            return study["search_both"](source, known, 8, 0)

    found, drawn = search_both(lambda picks: float(sum(picks)))
    assert len(found) == len(drawn) == 8
    assert all((1 - BAND) * MADDS <= one.candidate.madds <= MADDS for one in (*found, *drawn))
    again, _ = search_both(lambda _: pytest.fail("evaluated again"))
    assert [one.candidate.picks for one in again] == [one.candidate.picks for one in found]
    networks = study["choose_networks"](source.space, found, drawn)
    assert networks[0].shared_val == max(one.accuracy for one in found)
    assert networks[1].shared_val == max(one.accuracy for one in drawn)
    sizes = {conv.kernel_size for block in make_plan(networks[2].spec).blocks for conv in block.convolution}
    assert sizes == {3}
    assert 0.97 < count(networks[2].spec).madds / count(networks[0].spec).madds <= 1
    assert networks[2].spec.width > 1


def test_a_space_without_3x3_kernels_is_refused(study, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("large: {base: mixnet_xs_32px, blocks: ['ds_r1_k{5|7}_s1_e1_c24']}\n")
    space = read_space(tmp_path / "space.yaml")
    with pytest.raises(ArgumentError, match=r"blocks\.1\.k does not offer '3'; it offers 5, 7"):
        study["widen_plain"](space, CandidateSource(space, ScaleLimits()).measure(space.default))


def networks_of(study, *names: str):
    spec = read_space("mixconv").spec(read_space("mixconv").default)
    origins = (study["FOUND"], study["RANDOM"], study["PLAIN"])
    return [
        study["Network"](origin=origin, name=name, options="3/6", spec=spec)
        for origin, name in zip(origins, names, strict=True)
    ]


def results_of(**top1: tuple[float, ...]) -> dict[str, list[TrainingResult]]:
    return {
        name: [
            TrainingResult(val_top1=value - 1, test_top1=value, seconds=1.0, params=200_000, madds=int(MADDS) - number)
            for value in values
        ]
        for number, (name, values) in enumerate(top1.items())
    }


@pytest.mark.parametrize(
    ("random", "plain", "said"),
    [
        ((59.0, 60.0, 61.0), (49.0, 50.0, 51.0), ("+0.00 points over random, standard error 0.82: no difference",
                                                  "+10.00 points over 3×3, standard error 0.82: it beats it")),
        ((69.0, 70.0, 71.0), (60.5, 61.5, 62.5), ("-10.00 points over random, standard error 0.82: it loses to it",
                                                  "-1.50 points over 3×3, standard error 0.82: no difference")),
    ],
)  # fmt: skip
def test_two_standard_errors_decide(study, random, plain, said) -> None:
    networks = networks_of(study, "a", "b", "c")
    results = results_of(a=(59.0, 60.0, 61.0), b=random, c=plain)
    arguments = argparse.Namespace(seeds=3, epochs=5)
    evaluation = argparse.Namespace(accuracy=30.0)
    text = study["document"](networks, results, [evaluation], [evaluation], arguments)
    for sentence in said:
        assert sentence in text
    assert "| found | 3/6 | 0.200 | 30.00 | – | 59.00 ± 1.00 | 60.00 ± 1.00 |" in text


def test_what_cannot_be_told_is_not(study) -> None:
    networks = networks_of(study, "a", "a", "c")
    results = results_of(a=(60.0,), c=(50.0,))
    [difference] = study["differences"](networks, results)  # the random search found the same network
    assert str(difference) == "+10.00 points over 3×3, with one seed, which decides nothing"
