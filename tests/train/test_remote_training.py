"""Training on shards that are streamed from a server, in real processes: interrupted, its kept files lost, resumed."""

from __future__ import annotations

import os
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file

from effnets.train.checkpoint import load_state
from tests.support.data_sets import pack
from tests.support.drawn_classes import CLASSES, draw_data, write_table
from tests.support.shard_server import serving
from tests.support.training_process import run, start


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Sixteen shards to train on, one to validate with."""
    folder = tmp_path_factory.mktemp("shards")
    draw_data(folder / "data", train=32, val=4, test=0)
    made = {}
    for split, count in (("train", 16), ("val", 1)):
        images = sorted((folder / "data" / split).glob("*/*.png"), key=lambda path: (path.name, path))
        for shard in range(count):
            content = {}
            for path in images[shard::count]:
                key = f"{path.parent.name}-{path.stem}"
                content |= {f"{key}.png": path.read_bytes(), f"{key}.cls": path.parent.name.encode()}
            name = f"{split}-{shard:02}.tar"
            made[name] = pack(folder / name, content).read_bytes()
    return made


def test_an_interrupted_training_ends_the_same_without_kept_files(shards, tmp_path):
    room = str(8 * min(map(len, shards.values())) / 2**30)  # of 17 shards
    table = write_table(tmp_path)
    with serving(shards) as server:
        data = server.address + "{train-{00..15},val-00}.tar"

        def arguments(output, *more):
            return [
                "finetune", data, "--model", table, "--weights", "random", "--output", output, "--epochs", 2,
                "--batch-size", 8, "--workers", 1, "--precision", "float32", "--set", "checkpoint_minutes=0", *more,
            ]  # fmt: skip

        def place(name):
            return {"EFFNETS_HOME": str(tmp_path / name), "EFFNETS_SHARDS_GIB": room}

        log = tmp_path / "log"
        assert run(arguments(tmp_path / "whole"), log, environment=place("one")) == 0, log.read_text()
        process = start(arguments(tmp_path / "run"), log, environment=place("two"))
        while process.is_alive() and not (
            (state := load_state(tmp_path / "run" / "last")) and state["progress"]["step"] >= 3
        ):
            time.sleep(0.01)
        os.killpg(process.pid, 9)
        process.join()
        assert load_state(tmp_path / "run" / "last")["progress"]["done"] is False
        shutil.rmtree(tmp_path / "two")
        assert run(arguments(tmp_path / "run", "--resume"), log, environment=place("two")) == 0, log.read_text()
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    held = [path for path in (tmp_path / "two" / "shards").iterdir() if path.suffix == ".tar"]
    assert 0 < len(held) <= 10
    assert "streamed images: not checked for corrupt ones" in " ".join(log.read_text().split())
    assert len(CLASSES) == 3
