"""Arrays that end where memory ends: a read past one is a crash."""

import ctypes
import mmap

import numpy as np


def guarded(shape, dtype=np.float32):
    """An array, and what keeps its memory."""
    count = int(np.prod(shape))
    size, page = count * np.dtype(dtype).itemsize, mmap.PAGESIZE
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + pages * page), ctypes.c_size_t(page), 0) == 0
    array = np.frombuffer(memory, dtype, count, pages * page - size).reshape(shape)
    return array, memory
