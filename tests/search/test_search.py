"""Searches: fronts, journals, what is refused, and a search that is killed and resumed."""

from __future__ import annotations

import csv
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import effnets
from effnets.cli import main
from effnets.errors import ArgumentError, ConfigError, DataError, ExportError, MissingFileError, TrainingError
from effnets.search.ask_tell import AskSettings, CandidateSearch, random_search
from effnets.search.candidates import CandidateSource
from effnets.search.evaluations import Evaluation, EvaluationJournal, pareto_front
from effnets.search.space import read_space
from effnets.spec.cost import count
from effnets.spec.scaling import ScaleLimits
from effnets.utils.run_journal import RunJournal
from tests.support.drawn_classes import SHORT_RECIPE, draw_data
from tests.support.training_process import run, start

SPACE = """
small:
  stem: [8, 12]
  input_size: 32
  crop_pct: 1.0
  activation: relu6
  head: 24
  blocks:
    - ds_r1_k{3|3.5}_s1_e1_c8
    - ir_r1_k{3|3.5|3.5.7}_s2_e{2|3}_c12{|_se0.25}
    - ir_r1_k{3|5}_s2_e2_c16_nsw
"""
OPTIONS = ["--evaluations", 3, "--epochs", 1, "--max-madds", "600k", "--final-epochs", 0, "--seed", 1]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    (folder / "space.yaml").write_text(SPACE)
    return folder / "space.yaml", draw_data(folder / "data", train=6, val=4, test=2)


@pytest.fixture(scope="module")
def recipe():
    return effnets.Recipe(
        model="unused", weights="random", epoch_repeats=1, batch_size=6, workers=0, precision="float32", epochs=1
    )


@pytest.fixture(scope="module")
def found(material, recipe, tmp_path_factory):
    space, data = material
    folder = tmp_path_factory.mktemp("found") / "search"
    return effnets.search(
        space,
        data,
        folder,
        evaluations=3,
        epochs=1,
        max_madds=600e3,
        recipe=recipe,
        random_baseline=True,
        command="effnets search …",
    )


def table_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "candidates.csv").open()))


def test_the_front_is_models_within_the_limits(found):
    paths = sorted((found.folder / "front").iterdir())
    assert len(paths) == len(found.front) > 0
    for path, one in zip(paths, found.front, strict=True):
        model = effnets.create_model(path)
        assert sum(parameter.numel() for parameter in model.parameters()) == one.candidate.params
        assert model.num_classes == 3
        assert count(path).madds <= 600e3
    accuracies = [one.accuracy for one in found.front]
    assert accuracies == sorted(accuracies)
    assert found.best.accuracy == max(one.accuracy for one in found.evaluated)


def test_the_folder_says_everything(found):
    rows = table_of(found.folder)
    assert [row["origin"] for row in rows] == ["search"] * 3 + ["random"] * 3
    assert len({tuple(row.values())[9:] for row in rows[:3]}) == 3
    summary = (found.folder / "README.md").read_text()
    assert "`effnets search …`" in summary
    assert "96 candidates, of which" in summary
    assert "the best of 3 at random" in summary
    assert "Trained from scratch for 1 epochs, in `best`" in summary
    assert (found.folder / "front.svg").read_text().lstrip().startswith(("<?xml", "<svg"))
    assert (found.folder / "kernels.svg").exists()
    assert not (found.folder / "candidates").exists()
    trained = effnets.create_model(found.folder / "best", pretrained=True)
    assert trained.spec.blocks == found.best.candidate.spec.blocks


def test_a_finished_search_is_not_done_again(found, material, recipe, monkeypatch):
    monkeypatch.setattr("effnets.train.run.Run.setup", lambda *_, **__: pytest.fail("trained again"))
    space, data = material
    options = {"evaluations": 3, "epochs": 1, "max_madds": 600e3, "recipe": recipe}
    again = effnets.search(
        space, data, found.folder, resume=True, random_baseline=True, command="effnets search …", **options
    )
    assert [one.candidate for one in again.front] == [one.candidate for one in found.front]
    with pytest.raises(ArgumentError, match=r"holds a search; continue it with --resume \(resume=True\)"):
        effnets.search(space, data, found.folder, **options)
    with pytest.raises(ArgumentError, match="is of a run with evaluations 3, now 5; continue it as it was"):
        effnets.search(space, data, found.folder, resume=True, **options | {"evaluations": 5})
    options["recipe"] = replace(recipe, batch_size=4)
    with pytest.raises(ArgumentError, match=r"with recipe.batch_size 6, now 4"):
        effnets.search(space, data, found.folder, resume=True, **options)


def test_a_killed_search_resumes_to_the_same_front(material, tmp_path):
    space, data = material
    settings = tmp_path / "recipe.yaml"
    settings.write_text(SHORT_RECIPE)
    arguments = ["search", space, data, "--recipe", settings, *OPTIONS]
    log = tmp_path / "log"
    assert run([*arguments, "--output", tmp_path / "undisturbed"], log) == 0, log.read_text()
    folder = tmp_path / "killed"
    process = start([*arguments, "--output", folder, "--resume"], log)
    journal = folder / "evaluations.jsonl"
    while process.is_alive() and not (journal.exists() and len(journal.read_bytes().splitlines()) >= 2):
        time.sleep(0.005)
    while process.is_alive() and not [*folder.glob("candidates/*/last/state.pt")]:  # amid the second training
        time.sleep(0.005)
    process.kill()
    process.join()
    assert run([*arguments, "--output", folder, "--resume"], log) == 0, log.read_text()
    assert table_of(folder) == table_of(tmp_path / "undisturbed")
    ours, theirs = (
        {path.name: path.read_text() for path in (one / "front").iterdir()}
        for one in (folder, tmp_path / "undisturbed")
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_madds": 1e3}, ArgumentError, "no candidate keeps all limits: the smallest found needs"),
        ({"sampler": "best"}, ArgumentError, "sampler is 'best'; choose one of nsga2, tpe, random"),
        ({"sampler": "tpe"}, ArgumentError, "sampler is tpe, which looks for accuracy alone"),
        ({"minimize": "watts"}, ArgumentError, "minimize is 'watts'; choose one of params, madds, latency, or None"),
        ({"prune": True}, ArgumentError, "prune compares trainings by accuracy alone"),
        ({"prune": True, "minimize": None, "strategy": "oneshot"}, ArgumentError, "oneshot trains no candidate"),
        ({"strategy": "luck"}, ArgumentError, "strategy is 'luck'; choose one of trials, oneshot"),
        ({"evaluations": 0}, ArgumentError, "evaluations is 0; it must be at least 1"),
        ({"epochs": 0}, ArgumentError, "epochs is 0; it must be at least 1"),
        ({"final_epochs": -1}, ArgumentError, "final_epochs is -1; it must be at least 0"),
        ({"recipe": "nothing"}, ConfigError, "no recipe 'nothing'"),
    ],
)
def test_mistakes_are_told_before_any_work(material, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        effnets.search(*material, tmp_path / "search", **options)
    assert not (tmp_path / "search").exists()


def test_bad_spaces_data_and_folders(material, tmp_path):
    space, data = material
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text(SPACE.replace("head:", "heads:"))
    with pytest.raises(ConfigError, match=r"unknown.yaml:7.*heads"):
        effnets.search(unknown, data, tmp_path / "search")
    with pytest.raises(ConfigError, match="did you mean 'mixconv'"):
        effnets.search("mixcon", data, tmp_path / "search")
    with pytest.raises(MissingFileError, match="nowhere"):
        effnets.search(space, tmp_path / "nowhere", tmp_path / "search")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        effnets.search(space, tmp_path / "empty", tmp_path / "search")
    with pytest.raises(ArgumentError, match="holds something already"):
        effnets.search(space, data, tmp_path)
    with pytest.raises(ExportError, match="is not a folder; make it first"):
        effnets.search(space, data, tmp_path / "no" / "search")
    if Path("/proc/self").is_dir():  # where not even root makes a folder
        with pytest.raises(ExportError, match=r"/proc/search: cannot be (made|written)"):
            effnets.search(space, data, "/proc/search")
    with pytest.raises(TrainingError, match=r"is inside of the data.*name a folder outside of it"):
        effnets.search(space, data, data / "search")
    assert not (data / "search").exists()
    assert not (tmp_path / "search").exists()


def test_without_optuna_the_extra_is_named(material, tmp_path, monkeypatch):
    monkeypatch.setattr("effnets.search.ask_tell.find_spec", lambda _name: None)
    with pytest.raises(
        ArgumentError, match=r"optuna, which searches, is not installed: pip install 'effnets\[search\]'"
    ):
        effnets.search(*material, tmp_path / "search")


def test_the_room_is_its_function_and_stays_a_room():
    import effnets.search.scale

    assert "max_latency" in effnets.search.__signature__.parameters
    assert sys.modules["effnets.search"] is effnets.search


def made_up(candidate, _keep_on):
    """An accuracy that grows with the options' numbers."""
    accuracy = float(sum((place + 1) * index for place, index in enumerate(candidate.picks)))
    return Evaluation(candidate=candidate, accuracy=accuracy, seconds=0.0)


@pytest.mark.parametrize(
    ("sampler", "minimize"), [("nsga2", "madds"), ("nsga2", None), ("tpe", None), ("random", "params")]
)
def test_the_same_seed_asks_the_same_within_the_limits(sampler, minimize):
    source = CandidateSource(read_space("mixconv"), ScaleLimits(max_madds=30e6))
    settings = AskSettings(sampler=sampler, minimize=minimize, evaluations=30, seed=5)
    first, second = (CandidateSearch(source, settings, made_up).run() for _ in range(2))
    assert first == second
    assert len({one.candidate.picks for one in first}) == 30
    assert max(one.candidate.madds for one in first) <= 30e6


def test_samplers_beat_chance_where_there_is_something_to_learn():
    source = CandidateSource(read_space("mixconv"), ScaleLimits())
    chance = random_search(source, made_up, evaluations=120, seed=0)
    for sampler in ("nsga2", "tpe"):
        found = CandidateSearch(source, AskSettings(sampler=sampler, minimize=None, evaluations=120), made_up).run()
        assert max(one.accuracy for one in found) > max(one.accuracy for one in chance)


def test_a_small_space_is_searched_whole(material):
    source = CandidateSource(read_space(material[0]), ScaleLimits())
    found = CandidateSearch(source, AskSettings(evaluations=1000), made_up).run()
    assert len(found) == source.space.size == 96


def test_pruned_trainings_are_pruned_again(tmp_path):
    """The decision hangs on the epochs of others, which the journal has."""
    source = CandidateSource(read_space("mixconv"), ScaleLimits())
    settings = AskSettings(sampler="tpe", minimize=None, prune=True, evaluations=12)
    trained = []

    def train(candidate, report):
        final = made_up(candidate, None).accuracy
        for epoch in (1, 2):
            report(epoch, epoch * final / 3)
        trained.append(candidate.picks)
        return final

    def run(stop_after):
        with RunJournal(tmp_path / "journal", {}, resume=True) as journal:
            known = EvaluationJournal(journal, train, source.measure)
            count = 0

            def evaluate(candidate, keep_on):
                nonlocal count
                count += 1
                if count > stop_after:
                    raise KeyboardInterrupt
                return known.evaluate(candidate, keep_on)

            return CandidateSearch(source, settings, evaluate).run()

    with pytest.raises(KeyboardInterrupt):
        run(8)
    resumed = run(100)
    assert any(one.pruned for one in resumed)
    assert not any(one.pruned for one in pareto_front(resumed, "madds"))
    (tmp_path / "journal").unlink()
    undisturbed = run(100)
    assert [(one.candidate.picks, one.accuracy, one.pruned) for one in undisturbed] == [
        (one.candidate.picks, one.accuracy, one.pruned) for one in resumed
    ]


def test_workers_share_a_database(material, tmp_path):
    source = CandidateSource(read_space(material[0]), ScaleLimits())
    url = f"sqlite:///{tmp_path / 'search.db'}"
    first = CandidateSearch(source, AskSettings(evaluations=5, storage=url), made_up).run()
    both = CandidateSearch(source, AskSettings(evaluations=8, storage=url), made_up).run()
    assert both[:5] == first
    assert len(both) == 8
    with pytest.raises(
        ArgumentError, match=r"the storage cannot be opened \(.*\); give an URL such as sqlite:///search.db"
    ):
        CandidateSearch(source, AskSettings(storage="nosuch://user:secret@host/db"), made_up)


def test_the_command_proposes_and_refuses():
    runner = CliRunner()
    own = count("rexnet_100")
    limits = ["--max-madds", str(own.madds), "--max-params", str(own.params)]
    result = runner.invoke(main, ["search", "rexnet", "--propose", "2", *limits])
    assert result.exit_code == 0, result.output
    assert "2 of 103,525 candidates proposed" in result.output
    for arguments, message in (
        (["rexnet", "data", "--propose", "2"], "leave out one of them"),
        (["rexnet", "--propose", "2", "--epochs", "3"], "has no use for --epochs"),
        (["rexnet"], "name the DATA to be accurate on; or --propose"),
        (["rexnet", "data"], "name a new folder for the result: --output DIR"),
    ):
        result = runner.invoke(main, ["search", *arguments])
        assert result.exit_code == 2
        assert message in result.output


class MadeUpTable:
    """Predicts a tenth of a millisecond for every 100,000 multiply-adds; whole networks take `factor` as long."""

    factor = 1.0

    def __init__(self, _engine, _threads, size, _path, **_progress):
        self.engine, self.size = "onnxruntime", size

    def fit(self, specs):
        assert {spec.input_size for spec in specs} == {self.size}

    def predict(self, spec):
        return count(spec).madds / 1e6

    def measure(self, spec):
        return self.factor * self.predict(spec)


def test_a_limit_of_latency_is_kept_also_when_measured(material, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("effnets.search.latency_check.LatencyTable", MadeUpTable)
    options = {"evaluations": 2, "epochs": 1, "final_epochs": 0, "recipe": recipe, "minimize": "latency"}
    found = effnets.search(*material, tmp_path / "search", max_latency=0.5, **options)
    assert all(one.candidate.latency <= 0.5 for one in found.evaluated)
    summary = (tmp_path / "search" / "README.md").read_text()
    assert "latency, predicted (ms)" in summary
    assert f"{found.best.candidate.latency:.3g} ms measured" in summary
    smallest = CandidateSource(read_space(material[0]), ScaleLimits()).smallest().madds / 1e6
    for limit, message in (
        (1e-3, r"no candidate keeps max_latency 0\.001 ms: the one with the fewest multiply-adds takes .* ms on onnx"),
        (0.8 * smallest, r"no candidate keeps all limits: the smallest found needs .* ms, max_latency"),
    ):
        with pytest.raises(ArgumentError, match=message):
            effnets.search(*material, tmp_path / "fast", max_latency=limit, **options)
        assert not (tmp_path / "fast").exists()
    beside = next(one for one in found.evaluated if one not in found.front or len(found.front) == 2)
    monkeypatch.setattr(MadeUpTable, "measure", lambda _self, spec: 0.1 if spec == beside.candidate.spec else 9.0)
    again = effnets.search(*material, tmp_path / "search", max_latency=0.5, resume=True, **options)
    assert again.best.candidate == beside.candidate  # in the front or not
    monkeypatch.setattr(MadeUpTable, "measure", lambda _self, _spec: 9.0)
    with pytest.raises(ArgumentError, match=r"no evaluated network keeps max_latency 0\.5 ms when measured whole"):
        effnets.search(*material, tmp_path / "search", max_latency=0.5, resume=True, **options)


def test_one_shot_takes_accuracies_from_a_supernet(material, recipe, tmp_path):
    options = {"strategy": "oneshot", "evaluations": 3, "epochs": 1, "final_epochs": 0, "recipe": recipe}
    found = effnets.search(*material, tmp_path / "search", **options)
    assert len(found.evaluated) == 3
    assert "by a supernet of 1 epochs" in (tmp_path / "search" / "README.md").read_text()
    again = effnets.search(*material, tmp_path / "search", resume=True, **options)
    assert [one.accuracy for one in again.evaluated] == [one.accuracy for one in found.evaluated]
