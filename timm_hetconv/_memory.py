"""Memory that is freed stays with the process: a training step on a CPU asks for the same again at once.

The C library's allocator gives large blocks back to the system, and each page of a new one is then filled with zeros in
its turn: of a step of ResNet-20 on CIFAR-10, batch 128, that was 13 (P1) and 14 % (P4) in float32 (docs/train.md).
"""

import ctypes
import os

__all__ = ['keep_freed_memory']

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Let the allocator keep what is freed, in this process and in those that it forks.

    Only glibc has these settings. Whoever has chosen others, by one of its environment variables or with another
    allocator, keeps them.

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
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
