"""How large the numbers of a description may be: for the checks of the specs, and for the schemas that editors read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = [
    "MAX_BLOCKS",
    "MAX_CHANNELS",
    "MAX_DENOMINATOR",
    "MAX_KERNEL",
    "MAX_KERNEL_GROUPS",
    "MAX_PARAMETERS",
    "MAX_REPEATS",
    "MAX_SIDE",
    "RANGES",
]

# Above this a number is a slip of the pen, not a network: it would only run the machine out of memory.
MAX_BLOCKS = 1024
MAX_PARAMETERS = 2_000_000_000
MAX_CHANNELS = 65_536
MAX_REPEATS = 256
MAX_KERNEL = 63
MAX_KERNEL_GROUPS = 16
MAX_SIDE = 8192  # pixels
MAX_DENOMINATOR = 1_000_000

# Of each key of an entry that holds a number, or a list of them: the least and the greatest, both included.
RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "stem": (1, MAX_CHANNELS),
        "stem_stride": (1, 2),
        "start": (1, MAX_CHANNELS),
        "growth": (0, MAX_CHANNELS),
        "head": (0, MAX_CHANNELS),
        "head_hidden": (0, MAX_CHANNELS),
        "width": (0.01, 64),
        "depth": (0.01, 64),
        "divisor": (1, 1024),
        "bn_eps": (1e-12, 1),
        "bn_momentum": (1e-6, 1),
        "drop_rate": (0, 0.99),
        "num_classes": (0, 1_000_000),
        "input_size": (1, MAX_SIDE),
        "resolution": (0.01, 64),
        "resize": (1, MAX_SIDE),
        "crop_pct": (0.05, 1),
        "test_input_size": (1, MAX_SIDE),
        "test_crop_pct": (0.05, 1),
        "mean": (-1e3, 1e3),
        "std": (1e-6, 1e3),
        "top1": (0, 100),
        "top5": (0, 100),
        "accuracy_size": (1, MAX_SIDE),
    }
)
