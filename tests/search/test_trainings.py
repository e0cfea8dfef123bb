"""Trainings of candidates: figures, folders that are finished, interrupted, moved, or another training's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import effnets
from effnets.errors import ConfigError, TrainingError
from effnets.search import trainings
from effnets.search.trainings import train_candidate
from effnets.spec.cost import count
from effnets.spec.models import load_spec
from tests.support.drawn_classes import draw_data, write_table
from tests.support.interrupting import Interrupting

SEED = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_data(tmp_path_factory.mktemp("data"), train=6, val=4, test=4)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return replace(load_spec(write_table(tmp_path_factory.mktemp("table"))), num_classes=10)


@pytest.fixture(scope="module")
def recipe():
    return effnets.Recipe(model="unused", epochs=3, epoch_repeats=1, batch_size=6, workers=0, precision="float32")


@pytest.fixture(scope="module")
def trained(data, spec, recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, train_candidate(spec, data, recipe, folder, seed=SEED)


@pytest.fixture
def untrainable(monkeypatch):
    """No training starts: what is there must suffice."""
    monkeypatch.setattr("effnets.train.run.Run.setup", lambda *_, **__: pytest.fail("trained again"))


def test_the_result_is_the_trainings(spec, trained):
    folder, result = trained
    model = effnets.create_model(folder, pretrained=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == result.params
    assert result.madds == count(replace(spec, num_classes=3)).madds
    assert 0 <= result.val_top1 <= 100
    assert 0 <= result.test_top1 <= 100
    assert result.seconds > 0
    assert load_spec(folder / "candidate.yaml").blocks == spec.blocks


@pytest.mark.usefixtures("untrainable")
def test_a_finished_training_is_read(data, spec, recipe, trained):
    folder, result = trained
    assert train_candidate(replace(spec, name="other"), data, recipe, folder, seed=SEED) == result


def test_the_folder_may_be_moved_and_progress_is_given(data, spec, recipe, trained, tmp_path, monkeypatch):
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(trainings, "ProgressCallback", lambda _progress: Interrupting())
        with pytest.raises(KeyboardInterrupt):
            train_candidate(spec, data, recipe, tmp_path / "begun", seed=SEED, progress=print)
    (tmp_path / "begun").rename(tmp_path / "moved")
    result = train_candidate(
        spec, data, recipe, tmp_path / "moved", seed=SEED, progress=lambda what, share: seen.append((what, share))
    )
    undisturbed, before = trained
    assert replace(result, seconds=0) == replace(before, seconds=0)
    first, second = (
        effnets.create_model(folder, pretrained=True).state_dict() for folder in (undisturbed, tmp_path / "moved")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(0 <= share <= 1 for _, share in seen)
    assert seen


@pytest.mark.usefixtures("untrainable")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 0}, "was started with other settings .*seed 3 → 0"),
        ({"recipe": {"epochs": 10}}, "was started with other settings .*epochs 3 → 10"),
        ({"spec": {"head": 16}}, "holds a training of another network than tiny; name another folder"),
    ],
)
def test_another_training_is_refused(data, spec, recipe, trained, changes, message):
    folder, _ = trained
    with pytest.raises(TrainingError, match=message) as error:
        train_candidate(
            replace(spec, **changes.get("spec", {})),
            data,
            replace(recipe, **changes.get("recipe", {})),
            folder,
            seed=changes.get("seed", SEED),
        )
    assert str(folder) in str(error.value)


@pytest.mark.usefixtures("untrainable")
def test_other_data_are_refused(data, spec, recipe, trained, tmp_path):
    with pytest.raises(TrainingError, match=f"was trained on {data}, not on {tmp_path}; name another folder"):
        train_candidate(spec, tmp_path, recipe, trained[0], seed=SEED)


def test_a_folder_of_something_else_is_refused(data, spec, recipe, tmp_path):
    (tmp_path / "candidate.yaml").write_text("- not a network\n")
    with pytest.raises(TrainingError, match="must map model names to entries; name another folder"):
        train_candidate(spec, data, recipe, tmp_path, seed=0)


def test_recipes_that_cannot_train_from_scratch(spec, recipe, tmp_path):
    data = draw_data(tmp_path / "data", train=4, val=0, test=0)
    with pytest.raises(ConfigError, match="freeze is backbone, and weights are random"):
        train_candidate(spec, data, replace(recipe, freeze="backbone"), tmp_path / "run", seed=0)
    with pytest.raises(TrainingError, match="has no images for validation; add some, or raise the recipe's val_share"):
        train_candidate(spec, data, replace(recipe, val_share=0.0, epochs=1), tmp_path / "run", seed=0)
