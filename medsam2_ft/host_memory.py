"""Memory of the process that trains on a CPU."""

import ctypes
import sys

# Numbers of glibc's <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets the C library keep what tensors free, for the rest of the process.

    By default glibc takes every large tensor from the operating system and gives it back when it
    is freed. A training step frees gigabytes, and the next one has to touch each page of them anew:
    5 to 13 % of a step at 1024 pixels, for a tenth more memory (docs/performance.md).

    Returns:
        Whether there was anything to set: glibc alone has these settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
