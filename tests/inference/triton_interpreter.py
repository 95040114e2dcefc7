"""Import this first: Triton then interprets instead of compiling, and knows bfloat16.

Triton decides when it is imported, so what uses this is a process of its own.
"""

import os

os.environ['TRITON_INTERPRET'] = '1'

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_create_dot = interpreter.InterpreterBuilder.create_dot


def create_dot(self, a, b, *rest):
    """The interpreter keeps bfloat16 as its bits, and multiplies those: give it the values."""
    if a.dtype.scalar == tl.bfloat16:
        a, b = (interpreter.TensorHandle((h.data.astype(np.uint32) << 16).view(np.float32), tl.float32) for h in (a, b))
    return _create_dot(self, a, b, *rest)


interpreter.InterpreterBuilder.create_dot = create_dot
