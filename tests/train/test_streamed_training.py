"""Training on a data set streamed from the Hub: interrupted, its kept files lost, the Hub moved on."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace

import huggingface_hub
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

import effnets
from effnets.data.open import DataConfig
from effnets.errors import TrainingError, TrainingInterruptedError
from effnets.train.callbacks import Callback
from effnets.train.checkpoint import Checkpointer, load_state
from effnets.train.recipe import Recipe, find_recipe, read_recipe
from effnets.train.run import Run
from effnets.train.trainer import TrainContext
from effnets.utils.shutdown import GracefulShutdown
from tests.support.data_hub import COMMIT, NEXT_COMMIT, make_the_hub, serving_hub, table
from tests.support.drawn_classes import CLASSES, draw_data, write_table

datasets = pytest.importorskip("datasets")

FILES = 16


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Sixteen files to train on, one to validate with; too many to be kept."""
    draw_data(tmp_path / "data", train=32, val=4, test=0, size=64)
    files = {}
    for split, count in (("train", FILES), ("validation", 1)):
        paths = sorted((tmp_path / "data" / split[:5].replace("valid", "val")).glob("*/*.png"), key=lambda p: p.name)
        for number in range(count):
            chosen = paths[number::count]
            labels = [CLASSES.index(path.parent.name) for path in chosen]
            content = table([path.read_bytes() for path in chosen], labels, list(CLASSES))
            files[f"data/{split}-{number:02}.parquet"] = content
    monkeypatch.setenv("EFFNETS_SHARDS_GIB", str(sum(map(len, files.values())) / 2 / 2**30))
    monkeypatch.setenv("EFFNETS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with serving_hub(files) as hub:
        make_the_hub(hub, monkeypatch)
        yield hub


class BreakingOff(Callback):
    """A callback by whose fault a training ends in its first epoch, as if it had been killed between two steps."""

    def on_progress(self, what, share):
        if what.startswith("epoch 1/") and share >= 0.3:
            raise EOFError


def test_a_stop_request_takes_effect_between_two_files(tmp_path, monkeypatch):
    stop, told = GracefulShutdown(), []

    def looking_into(_config, progress, **_seed):
        for number in range(3):
            told.append(number)
            stop.received = signal.SIGTERM if number == 1 else None
            progress(f"looking into shard {number + 1} of 3", number / 3)

    monkeypatch.setattr("effnets.train.task.open_data", looking_into)
    recipe = Recipe(model="mixnet_s")
    context = TrainContext(accelerator=Accelerator(), shutdown=stop)
    with pytest.raises(TrainingInterruptedError, match="interrupted while the data were opened; continue with"):
        Run.setup(recipe, DataConfig("shards"), Checkpointer(tmp_path / "run", recipe), context)
    assert told == [0, 1]
    assert not (tmp_path / "run").exists()


def test_an_interrupted_training_ends_the_same_without_kept_files(hub, tmp_path):
    recipe = read_recipe(find_recipe("finetune"))
    recipe = replace(
        recipe, model=str(write_table(tmp_path)), weights="random", epochs=2, batch_size=8, workers=0, seed=3,
        precision="float32", checkpoint_minutes=0,
    )  # fmt: skip

    def train(output, *, data="hf-stream:org/set", callbacks=(), resume=False):
        return effnets.finetune(recipe, data, tmp_path / output, callbacks=callbacks, resume=resume)

    whole = train("whole")
    assert whole.metrics["data_revision"] == COMMIT
    assert hub.whole.total() == 2 * FILES + 1  # the training files in each epoch
    with pytest.raises(EOFError):
        train("run", callbacks=[BreakingOff()])
    assert 0 < load_state(tmp_path / "run" / "last")["progress"]["step"] < 12
    shutil.rmtree(tmp_path / "home")
    hub.commit = NEXT_COMMIT
    with pytest.raises(
        TrainingError,
        match=rf"is at {NEXT_COMMIT} now, and was at {COMMIT} when this .*; continue with hf-stream:org/set@{COMMIT}",
    ):
        train("run", resume=True)
    resumed = train("run", data=f"hf-stream:org/set@{COMMIT}", resume=True)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.best_top1 == whole.best_top1
    rows, others = (json.loads((tmp_path / name / "metrics.json").read_text())["epochs"] for name in ("run", "whole"))
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in others]
