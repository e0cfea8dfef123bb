"""Trainings that are refused or interrupted leave things as they are and say why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from accelerate import Accelerator

import effnets
from effnets.data.open import DataConfig
from effnets.train.callbacks import Callback
from effnets.train.checkpoint import Checkpointer
from effnets.train.run import Run
from effnets.train.trainer import TrainContext
from effnets.utils.shutdown import GracefulShutdown
from tests.support.drawn_classes import draw_data


def test_no_process_begins_before_all_have_looked_at_the_folder(folder, recipe, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(Accelerator, "wait_for_everyone", lambda _: begun.append((tmp_path / "run").exists()))
    effnets.finetune(replace(recipe, epochs=1), folder / "data", tmp_path / "run")
    assert begun[:2] == [False, True]


def test_a_stop_request_takes_effect_while_images_are_checked(folder, recipe, tmp_path):
    told = []

    class Asking(Callback):
        def on_progress(self, what, share):
            told.append((what.rpartition(" ")[0], share == 0))
            if len(told) == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(effnets.TrainingInterruptedError) as caught:
        effnets.finetune(recipe, folder / "data", tmp_path / "run", callbacks=[Asking()])
    assert caught.value.signal == signal.SIGTERM
    assert told == [("checking the images of", first) for first in (True, False, False)]
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_no_known_network_is_refused(folder, trained, recipe, tmp_path):
    file = trained.folder / "model.safetensors"
    with pytest.raises(effnets.TrainingError, match=r"model.safetensors is a file, .*; name the folder of a training"):
        effnets.finetune(replace(recipe, teacher=str(file)), folder / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_image_is_not_a_batch_to_normalize_by(folder, recipe, tmp_path):
    single = replace(recipe, model="rexnet_100", batch_size=1, image_size=32)
    with pytest.raises(effnets.TrainingError, match=r"rexnet_100 has layers that cannot normalize by one: raise batch"):
        effnets.finetune(single, folder / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    single = replace(single, bn="eval")
    context = TrainContext(accelerator=Accelerator(), shutdown=GracefulShutdown())
    run = Run.setup(single, DataConfig(folder / "data"), Checkpointer(tmp_path / "run", single), context)
    assert run.recipe.batch_size == 1


def test_other_trainings_folders_are_refused(folder, trained, recipe, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    shutil.copytree(trained.folder / "last", output / "last")
    shutil.copy(trained.folder / "recipe.yaml", output)
    with pytest.raises(
        effnets.TrainingError, match=r"started with other settings \(epochs 4 → 7\); resume it with the same"
    ):
        effnets.finetune(replace(recipe, epochs=7), folder / "data", output, resume=True)
    # What is not stated is as it was, whatever the default is now.
    checkpointer = Checkpointer(output, effnets.Recipe(model=recipe.model, epochs=4, workers=0))
    assert checkpointer.merge_recipe() == recipe
    stated = effnets.Recipe(model=recipe.model, epochs=7, workers=0)
    assert Checkpointer(output, stated).merge_recipe() == replace(recipe, epochs=7)
    assert Checkpointer(tmp_path / "nowhere", recipe).merge_recipe() == recipe
    draw_data(tmp_path / "less", train=20, val=8, test=8)
    with pytest.raises(effnets.TrainingError, match=r"images were {'train': 72, .* and are {'train': 60"):
        effnets.finetune(recipe, tmp_path / "less", output, resume=True)
    draw_data(tmp_path / "others", train=24, val=8, test=8)
    image = next((tmp_path / "others" / "train").rglob("*.png"))
    image.rename(image.with_name("zzz.png"))
    with pytest.raises(effnets.TrainingError, match="as many images as then, but their names or labels differ"):
        effnets.finetune(recipe, tmp_path / "others", output, resume=True)
    inside = folder / "data" / "train" / "run"
    with pytest.raises(effnets.TrainingError, match=r"run: is inside of the data, .*data, where it would be"):
        effnets.finetune(recipe, folder / "data", inside)
    assert not inside.exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "report.html").write_text("mine")
    with pytest.raises(effnets.TrainingError, match=r"mine: holds report.html, not of a training here"):
        effnets.finetune(recipe, folder / "data", mine)
    saved = tmp_path / "saved"
    effnets.save_pretrained(trained.load(), saved)
    with pytest.raises(effnets.TrainingError, match="saved: holds a network that is not of a training here"):
        effnets.finetune(recipe, folder / "data", saved)


def test_argument_errors_come_before_heavy_imports(tmp_path):
    code = (
        "import sys, effnets\n"
        "for arguments in ({'recipe': 'finetun'}, {'log_with': 'mlflow'}, {'check': 'some'}):\n"
        "    try:\n"
        "        effnets.finetune(**{'recipe': 'cifar10_demo', 'data': 'data', 'output': 'run', **arguments})\n"
        "    except effnets.EffnetsError as error:\n"
        "        print(error)\n"
        "heavy = {'torchvision', 'timm', 'accelerate', 'matplotlib', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert [line.split(";")[0] for line in run.stdout.splitlines()] == [
        "no recipe 'finetun'",
        "log_with is 'mlflow'",
        "check is 'some'",
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamww"}, "optimizer is 'adamww', which timm does not have"),
        ({"teacher": "mixnet_nope"}, "no model named 'mixnet_nope'"),
        ({"accumulate": 100}, "accumulate is 100, and .* has 72 training images.*lower accumulate to 72 or less"),
        ({"freeze": "99"}, "freeze is '99'"),
    ],
)
def test_a_refused_training_leaves_no_folder_behind(folder, recipe, tmp_path, changes, message):
    with pytest.raises(effnets.EffnetsError, match=message):
        effnets.finetune(replace(recipe, **changes), folder / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_finished_training_is_not_taken_for_another(folder, trained, recipe):
    again = effnets.finetune(recipe, folder / "data", trained.folder, resume=True)
    assert again.metrics == json.loads((trained.folder / "metrics.json").read_text())
    with pytest.raises(effnets.TrainingError, match=r"started with other settings \(epochs 4 → 50\)"):
        effnets.finetune(replace(recipe, epochs=50), folder / "data", trained.folder, resume=True)


def test_a_folder_that_cannot_be_made_is_named(folder, recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(effnets.TrainingError, match=r"file/run: cannot be written \(.+\); name a folder that you may"):
        effnets.finetune(recipe, folder / "data", tmp_path / "file" / "run")


def test_a_damaged_checkpoint_is_named(folder, recipe, tmp_path):
    output = tmp_path / "run"
    (output / "last").mkdir(parents=True)
    (output / "last" / "state.pt").write_bytes(b"half a check")
    with pytest.raises(effnets.TrainingError, match=r"lacks its recipe\.yaml"):
        effnets.finetune(recipe, folder / "data", output, resume=True)
