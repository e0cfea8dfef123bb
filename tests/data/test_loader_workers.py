"""However a training process ends, its loader's workers are gone within 10 seconds, busy or idle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENDINGS = ("exception", "memory", "exit", "closed", "sigterm", "sigint", "sigkill", "vanish", "group")
SECONDS = 10

# Imports once, and forks one process for each ending, which starts its own workers and tells their numbers.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path

signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background inherits that it is ignored

import multiprocessing
import numpy as np

from effnets.data.dataset import ImageDataset
from effnets.data.loader import EpochLoader
from effnets.data.transforms import TrainTransform
from effnets.errors import DataError
from effnets.spec.specs import PreprocessSpec

PICTURE = Path(sys.argv[1]).read_bytes()


class Slow(ImageDataset):
    class_names = ("a", "b")
    labels = np.arange(64, dtype=np.int64) % 2

    def __init__(self, busy, readers):
        self.busy, self.readers = busy, readers

    def name(self, index):
        return f"{index}.png"

    def read(self, index):
        Path(f"{self.readers}-{os.getpid()}").touch()
        if self.busy:
            time.sleep(120)
        return PICTURE


def main(ending, method, state, folder):
    multiprocessing.set_start_method(method)
    dataset = Slow(state == "busy", str(folder / f"reader-{ending}"))
    loader = EpochLoader(dataset, TrainTransform(PreprocessSpec(input_size=8), 8), batch_size=4, workers=2)
    batches = loader.batches(0)
    if state == "idle":  # they have prepared all that they may, and wait
        next(batches)
        time.sleep(1)
    else:
        # The generator starts the workers before it waits for a batch, which never comes.
        import threading
        threading.Thread(target=lambda: next(batches, None), daemon=True).start()
    while len(list(folder.glob(f"reader-{ending}-*"))) < 2:
        time.sleep(0.05)
    workers = [child.pid for child in multiprocessing.active_children()]
    (folder / f".{ending}").write_text(" ".join(map(str, workers)))
    (folder / f".{ending}").rename(folder / ending)
    match ending:
        case "exception":
            raise DataError("something went wrong")
        case "memory":
            raise MemoryError
        case "exit":
            sys.exit(3)
        case "closed":
            loader.close()
            sys.exit(0)
        case "vanish":
            os._exit(4)
        case _:
            time.sleep(600)


if __name__ == "__main__":
    _, _, method, state, folder, *endings = sys.argv
    for ending in endings:
        if os.fork() == 0:
            os.setsid()
            Path(folder, f"{ending}.parent").write_text(str(os.getpid()))
            main(ending, method, state, Path(folder))
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass
"""
SIGNALS = {"sigterm": signal.SIGTERM, "sigint": signal.SIGINT, "sigkill": signal.SIGKILL, "group": signal.SIGKILL}


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("method", "state"),
    [
        ("fork", "busy"),
        ("fork", "idle"),
        ("spawn", "busy"),
        pytest.param("spawn", "idle", marks=pytest.mark.full),
    ],
)
def test_workers_are_gone_however_their_parent_ends(tmp_path, method, state):
    from PIL import Image

    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    (tmp_path / "program.py").write_text(PROGRAM)
    endings = ENDINGS if method == "fork" else ("exception", "sigterm", "sigkill", "vanish")
    command = [sys.executable, tmp_path / "program.py", tmp_path / "red.png", method, state, tmp_path, *endings]
    left: dict[str, list[int]] = {}
    with subprocess.Popen(command, start_new_session=True, stderr=(tmp_path / "errors").open("w")) as program:
        try:
            for ending in endings:
                wait_for(lambda ending=ending: (tmp_path / ending).exists(), 200)
            for ending, number in SIGNALS.items():
                if ending in endings:
                    parent = int((tmp_path / f"{ending}.parent").read_text())
                    (os.killpg if ending == "group" else os.kill)(parent, number)
            begin = time.monotonic()
            for ending in endings:
                processes = [int((tmp_path / f"{ending}.parent").read_text())]
                processes += map(int, (tmp_path / ending).read_text().split())
                assert len(processes) == 3
                rest = max(0.1, begin + SECONDS - time.monotonic())
                if not wait_for(lambda processes=processes: not any(map(alive, processes)), rest):
                    left[ending] = [process for process in processes if alive(process)]
        finally:
            for file in tmp_path.glob("*.parent"):
                try:
                    os.killpg(int(file.read_text()), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            program.kill()
    assert not left, f"{left}; {(tmp_path / 'errors').read_text()[-2000:]}"


def wait_for(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
