"""Pictures that turn out broken while a network is trained are left out, and told of."""

from __future__ import annotations

from dataclasses import replace

import pytest

import effnets
from effnets.data import open_data
from effnets.train.callbacks import Callback
from tests.support.drawn_classes import CLASSES, draw_data, spoil


def test_a_probe_leaves_out_images_that_turn_out_broken(trained, recipe, tmp_path):
    data = draw_data(tmp_path / "data", train=8, val=4, test=4)
    spoil(open_data(data).train, 1)
    probe = replace(recipe, weights=str(trained.folder), freeze="backbone", epochs=2, probe_views=2)
    with pytest.warns(UserWarning, match="left out of its batch"):
        run = effnets.finetune(probe, data, tmp_path / "run")
    assert [note for note in run.metrics["notes"] if note.startswith("left out of train on the way: 1 that cannot be")]
    with pytest.warns(UserWarning, match="left out"), pytest.raises(effnets.DataError, match="and 0 may be left out"):
        effnets.finetune(probe, data, tmp_path / "strict", strict=True)


def test_images_that_turn_out_broken_are_no_end(trained, recipe, tmp_path):
    data = draw_data(tmp_path / "data", train=24, val=8, test=8)
    broken = {split: data / split / CLASSES[0] / "002.png" for split in ("train", "val", "test")}
    for file in broken.values():
        file.write_bytes(file.read_bytes()[:-60])
    # With a head start, which sees the training images as well.
    recipe = replace(recipe, weights=str(trained.folder), epochs=1)
    with pytest.warns(UserWarning, match="left out of its batch"):
        found = effnets.finetune(recipe, data, tmp_path / "run", check="none")
    for split in ("train", "val"):
        told = f"left out of {split} on the way: 1 that cannot be read, first {broken[split]}"
        assert [note for note in found.metrics["notes"] if note.startswith(told)]
    assert "left out of train on the way" in (found.folder / "report.html").read_text(encoding="utf-8")
    right = found.test_top1 / 100 * 23
    assert right == pytest.approx(round(right))
    assert [note for note in found.metrics["notes"] if str(broken["test"]) in note]
    with pytest.warns(UserWarning, match="left out"), pytest.raises(effnets.DataError, match="and 0 may be left out"):
        effnets.finetune(recipe, data, tmp_path / "strict", check="none", strict=True)


def test_broken_test_images_are_noted_and_counted(recipe, tmp_path):
    data = draw_data(tmp_path / "data", train=4, val=4, test=8)
    short, told = replace(recipe, epochs=1), []
    spoil(open_data(data).test, 2)

    class Listening(Callback):
        def on_message(self, text):
            told.append(text)

    run = effnets.finetune(short, data, tmp_path / "run", callbacks=[Listening()])
    assert run.metrics["notes"] == told
    assert "left out of test: 2 that cannot be read, first" in told[-1]
    with pytest.raises(effnets.ImageError, match="strict is on: fix or remove the image"):
        effnets.finetune(short, data, tmp_path / "strict", strict=True)
    spoil(open_data(data).test, 4)
    message = r"4 of the 24 images of test cannot be read, and 3 may be left out; fix or remove them, and resume"
    with pytest.raises(effnets.DataError, match=message):
        effnets.finetune(short, data, tmp_path / "many")
