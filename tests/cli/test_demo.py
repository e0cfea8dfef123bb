"""``effnets demo``, in processes of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from PIL import Image

_EXTRAS = (
    "accelerate",
    "datasets",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "timm",
    "torchvision",
)
_CORE_ALONE = f"""
import signal
import sys
from importlib import metadata

signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells ignore in what they run in the background
sys.modules.update(dict.fromkeys({_EXTRAS}))  # so that none is found
find = metadata.version


def version(name):
    if name in {_EXTRAS}:
        raise metadata.PackageNotFoundError(name)
    return find(name)


metadata.version = version
from effnets.cli import main
main()
"""
# What is left of it there takes seconds.
CORE_ALONE = (sys.executable, "-c", _CORE_ALONE, "demo")


def run(command, *arguments, folder, status=0):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    environment.pop("UV_RUN_RECURSION_DEPTH", None)
    result = subprocess.run(
        [*command, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout, result.stderr


def test_the_whole_of_it(tmp_path):
    output, errors = run((sys.executable, "-m", "effnets", "demo"), folder=tmp_path)
    assert errors == ""
    home = tmp_path / "effnets-demo"
    assert {path.name for path in home.iterdir()} == {"drawings", "drawn-objects", "run", "model.onnx"}
    rows = re.findall(r"^effnets-demo/drawings/(\w+)\.webp +(\w+) +(\w+) +[\d.]+ %$", output, re.MULTILINE)
    assert len(rows) == 8
    assert all(file == meant for file, meant, _ in rows)
    assert f"{sum(meant == answer for _, meant, answer in rows)} of these 8 drawings" in output
    validation, test = (float(share) for share in re.findall(r"([\d.]+) % of \d+ ", output))
    assert min(validation, test) > 30  # four classes: chance is 25, and even weights of little training see more
    assert re.search(r"largest difference is \de-\d+ on onnxruntime, \de-\d+ on openvino\.", output)
    for engine in ("PyTorch, as built", "PyTorch, effnets.optimize", "ONNX Runtime", "OpenVINO"):
        assert re.search(rf"^{engine}( +\d+\.\d\d){{4}}$", output, re.MULTILINE), engine
    assert (home / "run" / "report.html").resolve().as_uri() in output
    finetune = re.search(r"\$ (effnets finetune .*)$", output, re.MULTILINE)
    assert finetune
    typed = finetune[1].removesuffix("run-2")
    assert typed != finetune[1], "what is typed goes into a folder of its own"
    assert f"{typed}run" in (home / "run" / "report.html").read_text()


def test_the_core_alone_does_what_it_can_and_says_what_is_missing(tmp_path):
    mine = tmp_path / "effnets-demo" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    output, errors = run(CORE_ALONE, folder=tmp_path)
    assert errors == ""
    assert "of these 8 drawings" in output
    assert "To fine-tune, and report on it: pip install 'effnets[train]'" in output
    assert "To export to ONNX, and compare its engines: pip install 'effnets[export]'" in output
    assert "PyTorch, effnets.optimize" in output
    assert "effnets-demo is there already, so this goes into effnets-demo-2." in output
    assert [path.name for path in (tmp_path / "effnets-demo-2").iterdir()] == ["drawings"]
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]


def test_photos_of_ones_own_are_classified_and_a_broken_one_is_named(tmp_path):
    Image.new("RGB", (50, 40), (90, 140, 220)).save(tmp_path / "my sky.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    output, errors = run(CORE_ALONE, "broken.jpg", "my sky.png", "--output", "out", folder=tmp_path, status=1)
    assert re.search(r"^my sky\.png +\w+ +[\d.]+ %$", output, re.MULTILINE)
    assert "drawings" not in output
    assert "$ effnets predict broken.jpg 'my sky.png'" in output
    assert re.search(r"^not classified: broken\.jpg", errors)
    assert "Done" in output


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("mine")
    _, errors = run(CORE_ALONE, "--output", "file/out", folder=tmp_path, status=1)
    assert errors == ("Error: file/out: cannot be written (Not a directory); name another folder, --output DIR\n")


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_ends_it_with_one_line(tmp_path):
    process = subprocess.Popen(
        CORE_ALONE, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("1."):  # classification follows, the longest part
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=60)
    assert errors == "interrupted: what was made so far is in effnets-demo\n"
    assert process.returncode == 130


def test_its_help_loads_no_torch():
    program = """
import sys
from effnets.cli import main
try:
    main(["demo", "--help"])
finally:
    print("torch" in sys.modules)
"""
    output, _ = run((sys.executable, "-c", program), folder=None)
    assert "--output" in output
    assert output.splitlines()[-1] == "False"
