"""Trainings that are killed, stopped, out of room or diverging, in real processes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import effnets
from effnets.train.checkpoint import load_state
from tests.support import shake
from tests.support.drawn_classes import draw_data, write_table
from tests.support.training_process import run, start

# A checkpoint after every step, so that kills meet writing.
SETTINGS = ["--epochs", 3, "--batch-size", 8, "--seed", 3, "--workers", 0, "--set", "checkpoint_minutes=0"]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    return draw_data(folder / "data"), write_table(folder)


def arguments(material, output, *more):
    data, table = material
    return ["finetune", data, "--model", table, "--weights", "random", "--output", output, *SETTINGS, *more]


@pytest.fixture(scope="module")
def undisturbed(material, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(["--version"], folder / "log") == 0  # the server's imports are not to be counted
    begin = time.monotonic()
    assert run(arguments(material, folder / "run"), folder / "log") == 0, (folder / "log").read_text()
    return folder / "run", time.monotonic() - begin


def require_equal(run_folder: Path, other: Path) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run_folder, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    last, reference = (load_state(folder / "last") for folder in (run_folder, other))
    assert all(torch.equal(last["network"][name], value) for name, value in reference["network"].items())
    assert all(torch.equal(last["average"][name], value) for name, value in reference["average"].items())


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.full)])
def test_killed_trainings_end_with_the_same_tensors(material, undisturbed, tmp_path, kills):
    reference, seconds = undisturbed
    log, moments = tmp_path / "log", random.Random(kills)
    killed, trainings = 0, [tmp_path / "run0"]
    while killed < kills:
        process = start(arguments(material, trainings[-1], "--resume"), log)
        process.join(moments.uniform(0, 0.6 * seconds))
        if process.exitcode is None:
            process.kill()
            process.join()
            killed += 1
            load_state(trainings[-1] / "last")  # whatever is there is whole
        else:  # it came through: on with another
            assert process.exitcode == 0, log.read_text()
            trainings.append(tmp_path / f"run{len(trainings)}")
    assert run(arguments(material, trainings[-1], "--resume"), log) == 0, log.read_text()
    for folder in trainings:
        require_equal(folder, reference)
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_finished_training_is_left_alone(material, undisturbed, tmp_path):
    folder, _ = undisturbed
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    log = tmp_path / "log"
    assert run(arguments(material, folder, "--resume"), log) == 0
    assert "this training is finished; nothing to do" in log.read_text()
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    assert after == before
    assert run(arguments(material, folder), log) == 1
    assert "holds a finished training; name another folder" in log.read_text()


def test_sigterm_saves_and_ends_with_143(material, undisturbed, tmp_path):
    log, folder = tmp_path / "log", tmp_path / "run"
    process = start(arguments(material, folder), log)
    while not (folder / "last" / "state.pt").exists() and process.is_alive():
        time.sleep(0.01)
    process.terminate()
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM, log.read_text()
    assert "continue with --resume" in log.read_text()
    assert load_state(folder / "last")["progress"]["step"] > 0
    assert run(arguments(material, folder), log) == 1
    assert "holds an unfinished training; continue it with --resume" in log.read_text()
    assert run(arguments(material, folder, "--resume"), log) == 0, log.read_text()
    require_equal(folder, undisturbed[0])


def test_a_signal_to_the_whole_group_finds_the_workers_deaf(material, undisturbed, tmp_path):
    """As timeout, a service manager or Ctrl-C send it."""
    log, folder = tmp_path / "log", tmp_path / "run"
    workers = ["--workers", 2]
    process = start(arguments(material, folder, *workers), log)
    while process.is_alive() and not ((state := load_state(folder / "last")) and state["progress"]["step"] >= 1):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM, log.read_text()
    assert run(arguments(material, folder, "--resume"), log) == 0, log.read_text()
    require_equal(folder, undisturbed[0])


@pytest.mark.parametrize("steps", [0, 3])
def test_sigterm_in_a_validation_ends_soon_and_it_is_done_again(material, tmp_path, steps):
    data = draw_data(tmp_path / "data", train=8, val=400, test=0)
    log, folder = tmp_path / "log", tmp_path / "run"

    def finetune(output, *more):
        repeats = ["--set", "epoch_repeats=1"]  # three steps in the epoch
        return arguments((data, material[1]), output, "--precision", "float32", *repeats, *more)

    def is_next():
        """Whether what comes, after one step at most, is the first validation, or the one after the first epoch."""
        if not steps:
            return (folder / "recipe.yaml").exists()
        return (state := load_state(folder / "last")) and state["progress"]["step"] == steps - 1

    process = start(finetune(folder), log)
    while process.is_alive() and not is_next():
        time.sleep(0.002)
    process.terminate()
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM, log.read_text()
    assert "interrupted during validation; continue with --resume" in " ".join(log.read_text().split())
    progress = load_state(folder / "last")["progress"]
    assert [progress[name] for name in ("epoch", "batch", "step")] == [0, steps, steps]
    assert [row["epoch"] for row in progress["rows"]] == ([0] if steps else [])
    assert run(finetune(folder, "--resume"), log) == 0, log.read_text()
    assert run(finetune(tmp_path / "undisturbed"), log) == 0, log.read_text()
    require_equal(folder, tmp_path / "undisturbed")
    ours, theirs = (json.loads((one / "metrics.json").read_text()) for one in (folder, tmp_path / "undisturbed"))
    for row, other in zip(ours["epochs"], theirs["epochs"], strict=True):
        assert all(row[name] == other[name] for name in row if "seconds" not in name)


def test_a_full_disk_leaves_the_last_checkpoint(material, undisturbed, tmp_path):
    log, folder = tmp_path / "log", tmp_path / "run"
    # The first checkpoint has no moments of the optimiser yet, and fits; the next ones do not.
    whole = (undisturbed[0] / "last" / "state.pt").stat().st_size
    assert run(arguments(material, folder), log, largest_file=whole * 2 // 3) == 1
    assert "state.pt: cannot be written (File too large); the last good checkpoint is intact" in log.read_text()
    assert load_state(folder / "last")["progress"]["step"] == 0
    assert not list((folder / "last").glob(".*.partial"))
    assert run(arguments(material, folder, "--resume"), log) == 0, log.read_text()
    require_equal(folder, undisturbed[0])


def test_a_diverging_loss_ends_with_the_last_checkpoint(material, tmp_path):
    log, folder = tmp_path / "log", tmp_path / "run"
    wild = [
        "--epochs",
        30,
        "--lr",
        100,
        "--set",
        "optimizer=sgd",
        "--set",
        "weight_decay=10",
        "--set",
        "schedule=constant",
    ]
    assert run(arguments(material, folder, *wild), log) == 1
    text = " ".join(log.read_text().split())
    assert "the loss became NaN or infinite at epoch" in text
    assert "Lower learning_rate (now 100)" in text
    state = load_state(folder / "last")
    assert all(value.isfinite().all() for value in state["network"].values())
    assert effnets.create_model(folder, pretrained=True).class_names == ("disc", "frame", "stripes")
    assert json.loads((folder / "metrics.json").read_text())["finished"] is False


@pytest.mark.parametrize("more", [[], ["--freeze", "backbone", "--set", "probe_views=100"]], ids=["head", "probe"])
def test_sigterm_while_features_are_computed_ends_soon(material, tmp_path, more):
    """Before the first checkpoint, so that there is nothing to save; what is begun again ends the same."""
    _, table = material
    torch.manual_seed(0)
    effnets.save_pretrained(shake(effnets.create_model(table), size=32), tmp_path / "weights")
    data = draw_data(tmp_path / "data", train=100 if not more else 8)
    arguments = ["finetune", data, "--model", table, "--weights", tmp_path / "weights", "--epochs", 1, "--seed", 3]
    arguments += ["--batch-size", 8, "--workers", 0, "--precision", "float32", *more]
    log, folder = tmp_path / "log", tmp_path / "run"
    process = start([*arguments, "--output", folder], log)
    while process.is_alive() and not (folder / "recipe.yaml").exists():
        time.sleep(0.005)
    process.terminate()
    process.join(30)
    assert process.exitcode == 128 + signal.SIGTERM, log.read_text()
    told = " ".join(log.read_text().split())
    assert re.search("interrupted while (features were computed|batch statistics were measured); continue", told)
    assert load_state(folder / "last") is None
    assert run([*arguments, "--output", folder, "--resume"], log) == 0, log.read_text()
    assert run([*arguments, "--output", tmp_path / "undisturbed"], log) == 0, log.read_text()
    require_equal(folder, tmp_path / "undisturbed")


def test_a_training_whose_report_fails_ends_and_resumes(material, undisturbed, tmp_path):
    """With loader workers, which ignore the signals by which multiprocessing would end them."""
    log, folder = tmp_path / "log", tmp_path / "run"
    process = start(arguments(material, folder, "--workers", 2), log)
    while process.is_alive() and not (folder / "recipe.yaml").exists():
        time.sleep(0.005)
    (folder / "report.html").mkdir()
    process.join(120)
    assert process.exitcode == 1, log.read_text()
    assert "report.html: is a folder, where the report wants to write a file" in " ".join(log.read_text().split())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["finished"], metrics["report"]) == (True, "pending")  # results come before the report
    assert metrics["test_top1"] == json.loads((undisturbed[0] / "metrics.json").read_text())["test_top1"]
    (folder / "report.html").rmdir()
    assert run(arguments(material, folder, "--resume"), log) == 0, log.read_text()
    require_equal(folder, undisturbed[0])
