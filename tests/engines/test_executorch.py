"""ExecuTorch, whose threads the whole process shares."""

from __future__ import annotations

import subprocess
import sys

from effnets.deploy.export.base import prepare
from effnets.deploy.export.executorch import convert
from tests.support.tiny_network import tiny

PROGRAM = """
import sys, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from effnets.engines.base import load_file

path = Path(sys.argv[1])
engines = [load_file(path, threads=1), load_file(path), load_file(path, threads=1)]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    engines.append(load_file(path, threads=2))
print(*(warning.message for warning in caught if "executorch" in str(warning.message)))
images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
expected = engines[0](images)
with ThreadPoolExecutor(4) as pool:
    for found in pool.map(lambda engine: engine(images), engines * 10):
        np.testing.assert_allclose(found, expected, atol=1e-5)
print("all the same")
"""


def test_programs_share_the_threads_of_the_first(tmp_path):
    made = prepare(tiny(tmp_path), tmp_path / "tiny.pte", ".pte", image_size=32, optimize=True, engine="executorch")
    made.path.write_bytes(convert(made.module, made.metadata))
    command = [sys.executable, "-c", PROGRAM, str(made.path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "executorch has 1 threads in this process since its first program, so not 2",
        "all the same",
    ]
