"""What the demo does with networks."""

from __future__ import annotations

import pytest
import torch

import effnets
from effnets.demo.pictures import PICTURES, write_pictures
from effnets.demo.speed import PLAIN, compare_engines
from effnets.demo.steps import MODEL, SETTINGS, classify, missing
from effnets.engines.base import available_engines
from effnets.train.recipe import Recipe, find_recipe, read_recipe


@pytest.fixture(scope="module")
def network():
    return effnets.create_model(MODEL, pretrained=True).eval()


def test_what_is_drawn_is_what_the_network_can_name(network):
    assert set(PICTURES) <= set(network.class_names)


def test_drawings_are_recognised(network, tmp_path):
    answers = [classify(network, str(path), meant) for meant, path in write_pictures(tmp_path).items()]
    assert sum(answer.right for answer in answers) >= len(answers) - 1


def test_a_picture_that_cannot_be_read_is_an_answer_with_its_reason(network, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    for path in (broken, tmp_path / "gone.jpg"):
        answer = classify(network, str(path))
        assert answer.prediction is None
        assert not answer.right
        assert path.name in (answer.error or "")


def test_the_settings_are_a_recipe_that_trains_the_head_alone():
    recipe = read_recipe(find_recipe("finetune"), SETTINGS)
    assert isinstance(recipe, Recipe)
    assert (recipe.model, recipe.weights, recipe.freeze) == (MODEL, "pretrained", "backbone")


def test_nothing_is_missing_where_all_extras_are():
    assert missing("train") == missing("export") == []


def test_all_engines_are_compared_and_threads_left_as_they_were(network, tmp_path):
    exported = effnets.export_onnx(network, tmp_path / "model.onnx", engines=["onnxruntime"]).path
    before, told = torch.get_num_threads(), []
    speeds = compare_engines(
        network, exported, batches=(1, 2), rounds=1, progress=lambda what, share: told.append((what, share))
    )
    assert torch.get_num_threads() == before
    assert [speed.engine for speed in speeds[:2]] == [PLAIN, "PyTorch, effnets.optimize"]
    assert len(speeds) == 2 + len({"onnxruntime", "openvino"} & set(available_engines()))
    for speed in speeds:
        assert list(speed.milliseconds) == [1, 2]
        assert all(milliseconds > 0 for milliseconds in speed.milliseconds.values())
    assert told[-1] == ("measuring, 2 at a time", 1.0)


def test_without_an_exported_file_torch_alone_is_measured(network):
    speeds = compare_engines(network, None, batches=(1,), rounds=1)
    assert [speed.engine for speed in speeds] == [PLAIN, "PyTorch, effnets.optimize"]
