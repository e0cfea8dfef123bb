"""Fixtures of all tests; every test runs on one thread, since several run side by side."""

from __future__ import annotations

import os

# Before torch is imported: test processes share the machine's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
