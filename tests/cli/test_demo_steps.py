"""What the demo writes and computes."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
import torch

import effnets
from effnets.cli.demo import (
    MODEL,
    PLAIN,
    SETTINGS,
    classify,
    compare_engines,
    extract_images,
    make_folder,
    missing,
    writing,
)
from effnets.data.open import DataConfig, open_data
from effnets.engines.base import available_engines
from effnets.errors import ArgumentError, MissingFileError
from effnets.train.recipe import Recipe, find_recipe, read_recipe


@pytest.fixture(scope="module")
def network():
    return effnets.create_model(MODEL, pretrained=True).eval()


def test_what_is_drawn_is_what_the_network_can_name(network, tmp_path):
    assert {path.stem for path in extract_images(tmp_path, "drawings")} <= set(network.class_names)


def test_drawings_are_recognized(network, tmp_path):
    answers = [classify(network, str(path), path.stem) for path in extract_images(tmp_path, "drawings")]
    assert len(answers) == 8
    assert sum(answer.right for answer in answers) >= len(answers) - 1


def test_the_data_set_is_one_that_opens_without_a_note(tmp_path):
    extract_images(tmp_path, "drawn-objects")
    splits = open_data(DataConfig(tmp_path / "drawn-objects", check="full"))
    assert splits.notes == ()
    assert splits.train is not None
    assert splits.train.class_names == ("cup", "key", "leaf", "star")
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [240, 60, 100]


def test_a_corrupt_image_is_an_answer_with_its_reason(network, tmp_path):
    corrupt = tmp_path / "corrupt.jpg"
    corrupt.write_bytes(b"no image")
    for path in (corrupt, tmp_path / "gone.jpg"):
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
    before, calls = torch.get_num_threads(), []
    speeds = compare_engines(network, exported, batches=(1, 2), rounds=1, progress=lambda *call: calls.append(call))
    assert torch.get_num_threads() == before
    assert list(speeds)[:2] == [PLAIN, "PyTorch, effnets.optimize"]
    assert len(speeds) == 2 + len({"onnxruntime", "openvino"} & set(available_engines()))
    for milliseconds in speeds.values():
        assert list(milliseconds) == [1, 2]
        assert all(value > 0 for value in milliseconds.values())
    assert calls[-1] == ("measuring, 2 at a time", 1.0)


def test_without_an_exported_file_torch_alone_is_measured(network):
    assert list(compare_engines(network, None, batches=(1,), rounds=1)) == [PLAIN, "PyTorch, effnets.optimize"]


def test_a_new_or_empty_folder_is_taken_as_it_is(tmp_path):
    new, empty = tmp_path / "a" / "new", tmp_path / "empty"
    empty.mkdir()
    assert make_folder(new) == new
    assert new.is_dir()
    assert make_folder(empty) == empty


def test_one_that_holds_something_is_left_alone(tmp_path):
    wanted = tmp_path / "demo"
    for name in ("demo", "demo-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    assert make_folder(wanted) == tmp_path / "demo-3"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["demo", "demo-2", "demo-3", "mine.txt", "mine.txt"]


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(ArgumentError, match=r"demo: is a file; name a folder, --output DIR"):
        make_folder(tmp_path / "demo")
    with pytest.raises(ArgumentError, match=r"inner: cannot be written \(Not a directory\); name another folder"):
        make_folder(tmp_path / "demo" / "inner")
    assert (tmp_path / "demo").read_text() == "mine"


@pytest.mark.parametrize("wanted", [".", ".."])
def test_a_folder_without_a_name_of_its_own_gets_no_number(wanted, tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(ArgumentError, match=rf"^{re.escape(wanted)}: holds something already; name a folder"):
        make_folder(Path(wanted))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="for root, no folder is read-only")
def test_a_folder_that_is_read_only_is_refused(tmp_path):
    (tmp_path / "empty").mkdir(mode=0o500)
    for path in (tmp_path / "empty", tmp_path / "empty" / "inner"):
        with pytest.raises(ArgumentError, match=r"cannot be written \(Permission denied\); name another folder"):
            make_folder(path)


def test_what_the_disk_refuses_is_said_with_the_folder(tmp_path):
    with (
        pytest.raises(ArgumentError, match=r"out: cannot be written \(No space left on device\); name another folder"),
        writing(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_errors_that_say_what_they_mean_stay(tmp_path):
    with pytest.raises(MissingFileError, match=r"^photo\.jpg is gone$"), writing(tmp_path):
        raise MissingFileError("photo.jpg is gone")
