"""The GPU that is there, asked through the driver alone."""

import ctypes
import sys

from ..errors import UserError

__all__ = ['local_sm']

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


def local_sm() -> int:
    """Compute capability of the first GPU: 86 for 8.6.

    Raises:
        UserError: There is no driver, no GPU, or the driver does not start.
    """
    try:
        cuda = ctypes.CDLL('nvcuda.dll' if sys.platform == 'win32' else 'libcuda.so.1')
    except OSError as error:
        raise UserError(
            'there is no NVIDIA driver on this machine (libcuda.so.1); --engine tensorrt-rtx builds without a GPU'
        ) from error
    status = cuda.cuInit(0)
    count = ctypes.c_int(0)
    if not status:
        status = cuda.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        raise UserError(
            f'the NVIDIA driver finds no GPU (CUDA error {status}); --engine tensorrt-rtx builds without a GPU'
        )
    values = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int(0)
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0)
        values.append(value.value)
    return 10 * values[0] + values[1]
