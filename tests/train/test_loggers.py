"""Logs of a training for TensorBoard and Weights & Biases."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import replace
from types import ModuleType

import pytest
from accelerate.utils import LoggerType

import effnets


def test_tensorboard_receives_every_epoch(folder, recipe, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = effnets.finetune(
        replace(recipe, epochs=2), folder / "data", tmp_path / "run", log_with="tensorboard", resume=True
    )
    found = event_accumulator.EventAccumulator(str(run.folder / "logs" / "effnets"))
    found.Reload()
    rows = run.metrics["epochs"]
    for tag, name in {"train/loss": "train_loss", "val/top1": "val_top1", "val/average_loss": "average_loss"}.items():
        logged = [(event.step, event.value) for event in found.Scalars(tag)]
        assert logged == [(row["epoch"], pytest.approx(row[name])) for row in rows if row[name] is not None]
    assert [event.value for event in found.Scalars("test/top1")] == [pytest.approx(run.test_top1)]
    assert effnets.create_model(run.folder, pretrained=True).class_names


def test_wandb_writes_offline_into_the_run(folder, recipe, tmp_path, monkeypatch):
    started, logged = {}, []

    class Wandb(ModuleType):
        config = type("Config", (dict,), {"update": lambda self, values, **_: dict.update(self, values)})()

        def init(self, **options):
            started.update(options)
            return self

        def log(self, values, step=None):
            logged.append((step, values))

        def finish(self):
            logged.append("finished")

    wandb = Wandb("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [LoggerType.WANDB])
    monkeypatch.setattr("effnets.train.callbacks.version", lambda _: "1")
    effnets.finetune(replace(recipe, epochs=1), folder / "data", tmp_path / "run", log_with=["wandb"])
    assert (started["mode"], started["dir"]) == ("offline", str(tmp_path / "run"))
    assert wandb.config["epochs"] == 1
    assert wandb.config["augmentation.mixup"] == 0.0
    assert [step for step, _ in logged[:-1]] == [0, 1, 1]
    assert {"train/loss", "val/top1"} <= logged[1][1].keys()
    assert logged[-1] == "finished"


def test_loggers_that_cannot_log_are_refused_at_once(folder, recipe, tmp_path):
    with pytest.raises(effnets.ArgumentError, match="log_with is 'mlflow'; choose from tensorboard, wandb"):
        effnets.finetune(recipe, folder / "data", tmp_path / "run", log_with="mlflow")
    if "wandb" not in {found.name for found in importlib.metadata.distributions()}:
        with pytest.raises(effnets.ArgumentError, match="'wandb', which is not installed; pip install wandb"):
            effnets.finetune(recipe, folder / "data", tmp_path / "run", log_with=["wandb"])
    assert not (tmp_path / "run").exists()
