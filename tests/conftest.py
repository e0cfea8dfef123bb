"""What holds for all tests: one thread for each, and chance that falls the same way in any order and in any process."""

from __future__ import annotations

import os
import random
import sys
import zlib
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest

# Before torch is imported: test processes share the machine's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before triton is imported: without a GPU its kernels run in an interpreter.
os.environ.setdefault("TRITON_INTERPRET", "1")


# A busy machine is no failure.
hypothesis.settings.register_profile("effnets", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("effnets")


def _seed(name: str) -> None:
    """Seed every global generator by a name, so that what one test draws is nothing to the next."""
    seed = zlib.crc32(name.encode())
    random.seed(seed)
    np.random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    # By itself, since a module's fixture is made for whichever of its tests comes first.
    _seed(f"{fixturedef.baseid}::{fixturedef.argname}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    _seed(item.nodeid)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """torch.compile without what it remembers of other tests' networks, before and after."""
    import torch

    torch.compiler.reset()
    yield
    torch.compiler.reset()
