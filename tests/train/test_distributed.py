"""Two processes over gloo: the losses of one, a resume with another number of them, and one that is lost."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import effnets
from effnets.train.checkpoint import load_state
from tests.support.boxed_sets import splits, voc_files
from tests.support.data_sets import write
from tests.support.drawn_classes import draw_data, write_table
from tests.support.planted_labels import plant_labels
from tests.support.training_process import run, start, start_together

# Dropout stays: its masks are drawn by the batch's number, not by the process.
SETTINGS = ["--batch-size", 6, "--workers", 0, "--seed", 5, "--precision", "float32"]
STEADY = ["--set", "accumulate=2", "--set", "bn=eval", "--set", "checkpoint_minutes=0"]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    return draw_data(folder / "data", train=12, val=4, test=4), write_table(folder)


def arguments(material, output, *more, epochs=2):
    data, table = material
    common = ["--weights", "random", "--epochs", epochs, *SETTINGS, *STEADY]
    return ["finetune", data, "--model", table, "--output", output, *common, *more]


def rows(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "metrics.json").read_text())["epochs"]


def finish(processes, logs):
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes], "\n".join(log.read_text() for log in logs)


@pytest.fixture(scope="module")
def alone(material, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert run(arguments(material, folder / "run"), folder / "log") == 0, (folder / "log").read_text()
    return folder / "run"


def require_close(folder: Path, reference: Path) -> None:
    for ours, theirs in zip(rows(folder), rows(reference), strict=True):
        if ours["epoch"]:
            assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-4)
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, reference))
    # A detector's own layers keep learning statistics, of which each process sees those of its batches.
    own = re.compile(r"(backbone\.extras|head\.\w+_head)\..*(running_|num_batches)")
    compared = [name for name in theirs if not own.match(name)]
    assert all(torch.allclose(ours[name].float(), theirs[name].float(), atol=1e-5) for name in compared)


def test_two_processes_give_the_losses_of_one(material, alone, tmp_path):
    logs = [tmp_path / "0", tmp_path / "1"]
    codes, text = finish(start_together(arguments(material, tmp_path / "run"), logs), logs)
    assert codes == [0, 0], text
    assert "top-1" not in logs[1].read_text()
    require_close(tmp_path / "run", alone)


def test_the_score_is_that_of_the_saved_network(material, tmp_path):
    """With statistics by the batch, of which each process sees others."""
    logs, folder = [tmp_path / "0", tmp_path / "1"], tmp_path / "run"
    more = ["--set", "bn=train", "--set", "ema_decay=0"]
    codes, text = finish(start_together(arguments(material, folder, *more), logs), logs)
    assert codes == [0, 0], text
    metrics = json.loads((folder / "metrics.json").read_text())
    found = effnets.evaluate(effnets.create_model(folder, pretrained=True).eval(), material[0] / "val")
    assert metrics["best_loss"] == pytest.approx(found.loss, rel=1e-4)
    assert metrics["best_top1"] == pytest.approx(found.top1)


def _labels(folder, val=9):
    table = plant_labels(folder, train=24, val=val, test=4)
    return [table, "--task", "multilabel", "--batch-size", 6, "--set", "multilabel.loss=asymmetric"]


def _classes(folder):
    data = draw_data(folder / "data", train=8, val=5, test=4)
    settings = ["--set", "embedding.loss=arcface", "--set", "embedding.size=8"]
    return [data, "--task", "embed", "--batch-size", 8, *settings]


def _boxes(folder):
    data = write(folder / "data", voc_files(splits()))
    return [data, "--task", "detect", "--batch-size", 4, "--model", "mobilenetv1_025", "--image-size", 64]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(_labels, id="labels"),
        pytest.param(partial(_labels, val=1), id="one label"),
        pytest.param(_classes, id="classes"),
        pytest.param(_boxes, id="boxes", marks=pytest.mark.full),
    ],
)
def test_two_processes_learn_what_one_does_of_other_things(material, tmp_path, make):
    """Also with fewer images to validate with than processes."""
    common = ["--weights", "random", "--epochs", 1, "--workers", 0, "--seed", 5, "--precision", "float32", *STEADY]
    data, *task = make(tmp_path)
    started = ["finetune", data, "--model", material[1], *task, *common, "--output"]
    assert run([*started, tmp_path / "one"], tmp_path / "log") == 0, (tmp_path / "log").read_text()
    logs = [tmp_path / "0", tmp_path / "1"]
    codes, text = finish(start_together([*started, tmp_path / "two"], logs), logs)
    assert codes == [0, 0], text
    require_close(tmp_path / "two", tmp_path / "one")
    ours, theirs = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("two", "one"))
    assert ours["processes"] == 2
    for figure in ("best_loss", "best_top1", "best_mean_ap", "test_loss", "test_top1", "test_mean_ap"):
        given = [metrics.get(figure) for metrics in (ours, theirs)]
        assert given == [None, None] or given[0] == pytest.approx(given[1], rel=1e-3, abs=1e-3), figure


def test_a_resume_with_another_number_of_processes_goes_on(material, alone, tmp_path):
    folder, log, logs = tmp_path / "run", tmp_path / "log", [tmp_path / "0", tmp_path / "1"]
    process = start(arguments(material, folder), log)
    while process.is_alive() and not ((state := load_state(folder / "last")) and state["progress"]["step"] >= 1):
        time.sleep(0.005)
    process.kill()
    process.join()
    assert load_state(folder / "last")["progress"]["epoch"] < 2
    codes, text = finish(start_together(arguments(material, folder, "--resume"), logs), logs)
    assert codes == [0, 0], text
    require_close(folder, alone)


def test_a_lost_process_ends_the_others_with_a_reason(material, tmp_path):
    logs = [tmp_path / "0", tmp_path / "1"]
    folder = tmp_path / "run"
    processes = start_together(arguments(material, folder, epochs=500), logs)
    while all(process.is_alive() for process in processes):
        if (state := load_state(folder / "last")) and state["progress"]["step"] >= 2:
            break
        time.sleep(0.01)
    processes[1].kill()
    processes[0].join(120)
    text = " ".join(logs[0].read_text().split())
    assert processes[0].exitcode == 1, text
    assert "a process of this training exited (" in text
    assert load_state(folder / "last")["progress"]["step"] >= 2


def test_sigterm_to_one_process_saves_and_ends_all(material, tmp_path):
    logs = [tmp_path / "0", tmp_path / "1"]
    folder = tmp_path / "run"
    processes = start_together(arguments(material, folder, epochs=500), logs)
    while all(process.is_alive() for process in processes) and not load_state(folder / "last"):
        time.sleep(0.01)
    time.sleep(0.2)
    processes[1].terminate()
    codes, text = finish(processes, logs)
    assert codes == [143, 143], text


def test_an_accumulation_that_processes_cannot_share_is_refused(material, tmp_path):
    logs = [tmp_path / "0", tmp_path / "1"]
    processes = start_together(arguments(material, tmp_path / "run", "--set", "accumulate=3"), logs)
    codes, text = finish(processes, logs)
    assert codes == [1, 1], text
    assert "accumulate is 3 and there are 2 processes" in " ".join(text.split())
    assert not (tmp_path / "run").exists()
