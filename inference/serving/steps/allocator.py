"""How the C library deals with the memory of a process that does the same work again and again."""

import ctypes

__all__ = ['keep_memory']

# Parameters of glibc's mallopt: how much at the heap's end is kept, and from what size on a block is mapped by itself.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES, MAPPED_BYTES = 64 << 20, 16 << 20


def keep_memory() -> None:
    """Blocks of an image's size stay with the process when they are freed.

    By default glibc gives them back to the kernel, and the next image finds each of its pages missing: 700 page faults
    for a photograph, which take as long as decoding it. Elsewhere nothing is done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
