"""Randomness that is a function of what it is for, and disturbs nobody else's. Knows torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """First part of every key, so that what is drawn for one purpose never meets what is drawn for another."""

    SAMPLE = 1
    BATCH = 2


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Within, torch's global generator of the CPU, from which torchvision draws, is seeded by `key`; after, as before.

    Args:
        key: the stream, then integers from 0, such as seed, epoch and index. Keys of one stream need be of one length:
            NumPy takes zeros at their end for nothing.
    """
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
    try:
        yield
    finally:
        generator.set_state(before)
