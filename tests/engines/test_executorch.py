"""ExecuTorch, whose threads the whole process shares."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from effnets.deploy.export.base import prepare
from effnets.deploy.export.executorch import convert
from effnets.engines.base import load_exported
from tests.support.tiny_network import tiny


def test_programs_with_other_threads_take_turns(tmp_path):
    made = prepare(tiny(tmp_path), tmp_path / "tiny.pte", ".pte", image_size=32, optimize=True, engine="executorch")
    data = convert(made.module, made.metadata)
    engines = [load_exported(data, "executorch", threads=threads) for threads in (1, 2, None, 1)]
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    expected = engines[0](images)
    for engine in engines * 10:
        np.testing.assert_allclose(engine(images), expected, atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda engine: engine(images), engines * 10):
            np.testing.assert_allclose(found, expected, atol=1e-5)
