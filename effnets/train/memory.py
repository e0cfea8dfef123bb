"""What the C library does with memory that a step frees and the next one wants again."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# <malloc.h>: memory at the heap's end beyond this is given back; blocks above that are mapped one by one.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
# Blocks from here on are mapped one by one. Older versions of glibc refuse what is above half of a heap, 32 MiB.
_MAPPED_FROM = (1 << 30, 32 << 20)


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, so that the kernel need not clear it anew for every map.

    A training step on a processor takes and frees the same large tensors each time. glibc gives those back to the
    kernel, and a page that comes from there must be cleared first, which takes about a tenth of a step.

    Returns:
        Whether the C library is one that can be told so: glibc, on Linux.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    mapped_later = any(library.mallopt(_MMAP_THRESHOLD, limit) for limit in _MAPPED_FROM)
    return bool(library.mallopt(_TRIM_THRESHOLD, _MOST)) and mapped_later
