"""The threads that PyTorch's own operators run on, for the CPU kernels to run on too."""

import ctypes

import torch

__all__ = ['OPENMP']


def _openmp() -> int | None:
    """The address of GOMP_parallel in the OpenMP runtime that PyTorch runs on, or None."""
    try:
        # The linker looks through all that PyTorch's own module was linked to, wherever that lies.
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):  # a build of PyTorch with other threads
        return None


OPENMP = _openmp()
