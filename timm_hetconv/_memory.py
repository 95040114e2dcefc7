"""Memory that is freed stays with the process: a training step, or the next image, asks for the same again at once.

The C library's allocator gives large blocks back to the system, and each page of a new one is then filled with zeros in
its turn: of a step of ResNet-20 on CIFAR-10, batch 128, that was 13 (P1) and 14 % (P4) in float32 (docs/train.md), and
of preparing a photograph in a process without larger blocks half (docs/serving.md). `hetconv deploy` copies this file:
it imports nothing of ours.
"""

import ctypes
import os
from typing import Optional

__all__ = ['keep_freed_memory']

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h of glibc


def keep_freed_memory(largest: Optional[int] = None) -> bool:
    """Let the allocator keep what is freed, in this process and in those that it forks.

    Only glibc has these settings. Whoever has chosen others, by one of its environment variables or with another
    allocator, keeps them.

    Args:
        largest: Bytes: larger blocks are given back all the same, and what is kept at the heap's end is at most four
            such. None: all is kept.

    Returns:
        Whether it was done.
    """
    chosen = any(name.startswith('MALLOC_') for name in os.environ)
    if chosen or 'GLIBC_TUNABLES' in os.environ or 'LD_PRELOAD' in os.environ:
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  glibc; musl has no mallopt, and others other numbers
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    if largest is None:
        return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    return bool(mallopt(_M_MMAP_THRESHOLD, largest)) and bool(mallopt(_M_TRIM_THRESHOLD, 4 * largest))
