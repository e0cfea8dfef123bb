"""``effnets predict`` for many photos: rows that stream, outlive a kill, and name what cannot be read."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from effnets.cli import main
from tests.support.exported import describe, write


def run(*arguments, status=0):
    result = CliRunner().invoke(main, ["predict", *map(str, arguments)])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "mean.onnx", describe())


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(30):
        Image.new("RGB", (20, 20), (8 * number, 100, 50)).save(folder / f"{number:02}.png")
    return folder


def hostile(folder):
    """Add files that cannot be read; return their names."""
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "00.png").read_bytes()[:50])
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    header = b"P6 60000 60000 255\n"
    (folder / "huge.ppm").write_bytes(header + bytes(10))
    return {"empty.jpg", "text.png", "cut.png", "loop.jpg", "gone.jpg", "pipe.jpg", "huge.ppm"}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_every_file_has_a_row_and_every_broken_one_a_reason(model, folder, tmp_path, suffix):
    broken = hostile(folder)
    target = tmp_path / f"rows{suffix}"
    result = run(folder, "--weights", model, "--output", target, status=1)
    assert f"{len(broken)} of 37 could not be classified" in result.stderr
    if suffix == ".csv":
        with target.open(newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in sorted(folder.iterdir())]
    failed = {Path(row["path"]).name for row in rows if row.get("error")}
    assert failed == broken
    assert all(Path(row["path"]).name in row["error"] for row in rows if row.get("error"))


def test_rows_equal_those_of_json(model, folder, tmp_path):
    expected = json.loads(run(folder, "--weights", model, "--json").stdout)
    run(folder, "--weights", model, "--output", tmp_path / "rows.jsonl", "--workers", 3, "--batch-size", 2)
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == expected
    lines = run(folder, "--weights", model, "--json-lines").stdout.splitlines()
    assert [json.loads(line) for line in lines] == expected


def test_a_killed_run_continues_with_every_file_once(model, folder, tmp_path):
    for number in range(30, 1500):
        (folder / f"{number:04}.png").hardlink_to(folder / "07.png")
    target = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "effnets", "predict", folder, "--weights", model, "--output", target]
    part = tmp_path / "rows.jsonl.part"
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") > 100):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not target.exists()
    assert "is of an interrupted run; continue it with --resume" in (
        run(folder, "--weights", model, "--output", target, status=1).stderr
    )
    rows_before = part.read_bytes().count(b"\n")
    run(folder, "--weights", model, "--output", target, "--resume")
    assert 100 < rows_before < 1500
    paths = [json.loads(line)["path"] for line in target.read_text().splitlines()]
    assert paths == [str(path) for path in sorted(folder.iterdir())]
    assert not part.exists()
    assert "rows.jsonl is complete" in run(folder, "--weights", model, "--output", target, "--resume").stderr


def interrupted(target, model, *paths):
    """Interrupt a run after two photos."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("effnets.bulk.photos.classify_photos", lambda _, photos, __: map(_Stopping(2), photos))
        return run(*paths, "--weights", model, "--output", target, status=130)


class _Stopping:
    """Photos with the first errors of a run, and then Ctrl-C."""

    def __init__(self, most):
        self.left = most

    def __call__(self, photo):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        photo.error = f"{photo.path} is broken"
        return photo


def test_an_interrupted_run_says_how_to_go_on_and_keeps_its_errors(model, folder, tmp_path):
    target = tmp_path / "rows.jsonl"
    assert "interrupted: 2 photos were looked at; continue with --resume" in interrupted(target, model, folder).stderr
    result = run(folder, "--weights", model, "--output", target, "--resume", status=1)
    assert f"not classified: {folder / '00.png'} is broken" in result.stderr
    assert "2 of 30 could not be classified" in result.stderr


def test_another_folder_or_network_is_another_run(model, folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    own = shutil.copy(model, tmp_path / "own.onnx")
    target = tmp_path / "rows.jsonl"
    interrupted(target, own, folder)
    again = ("--output", target, "--resume", "--weights", own)
    assert f"photos ['{folder}'], now ['{other}']" in run(other, *again, status=1).stderr
    write(own, describe(labels=("a", "b", "c", "d")))
    assert "is of a run with sha256 " in run(folder, *again, status=1).stderr
    shutil.copy(model, own)
    monkeypatch.chdir(other)
    assert f"now '{other}'" in run(folder, *again, status=1).stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--json", "--json-lines"), "exclude each other"),
        (("--resume",), "--resume continues the run of an --output"),
        (("--decode", "quick"), "'quick' is not one of 'exact', 'fast'"),
    ],
)
def test_options_that_contradict(model, folder, options, reason):
    assert reason in run(folder, "--weights", model, *options, status=2).stderr


def test_a_file_that_cannot_be_written_is_told_before_the_model_is_loaded(folder, tmp_path):
    target = tmp_path / "gone" / "rows.csv"
    assert "create it first" in run(folder, "--weights", "none.onnx", "--output", target, status=1).stderr
