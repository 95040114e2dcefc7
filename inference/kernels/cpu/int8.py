"""The compiled quantised kernels for Python, as `Layer` is for those in fp32."""

import ctypes
from typing import Any

from . import _check_arrays, _checked, _functions, _pointer, _shape

__all__ = ['Int8Layer', 'int8_instruction_sets']


def int8_instruction_sets() -> list[str]:
    """Those that the library has in eight bits and this machine too, best first."""
    functions = _functions()
    functions.hetconv_int8_isas.restype = ctypes.c_char_p
    return functions.hetconv_int8_isas().decode().split()


class Int8Layer:
    """A quantised convolution ready to run; see `inference.kernels.reference_int8.conv2d` for what it computes.

    Args:
        w_kxk: (N, M/part, K, K) int8.
        w: (N, M) int8, or None; in the scales of `w_kxk`.
        scale: (N,) float32, of x times those of the weights.
        bias: (N,) float32, or None.
        part, stride, dilation, pads, low, high: As of `Layer`.
        x_zero_point: Of the input, a byte; also what padding is.
        y_scale, y_zero_point: Of the output; None for a float32 output.
        z_scale, z_zero_point: Of the residual; None for a float32 one.
        isa: One of `int8_instruction_sets()`; '' for the best.

    Raises:
        ValueError: Shapes or numbers that make no sense, weights whose sums could leave 32 bits, or an instruction set
            that is not there.
    """

    def __init__(
        self,
        w_kxk: Any,
        w: Any = None,
        scale: Any = None,
        bias: Any = None,
        *,
        part: int = 1,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        low: float = float('-inf'),
        high: float = float('inf'),
        x_zero_point: int = 0,
        y_scale: float | None = None,
        y_zero_point: int = 0,
        z_scale: float | None = None,
        z_zero_point: int = 0,
        isa: str = '',
    ) -> None:
        import numpy as np

        if w_kxk.ndim != 4:
            raise ValueError(f'w_kxk of shape {w_kxk.shape} must be (N, M/part, K, K)')
        self.out_channels, group_channels, *kernel = w_kxk.shape
        self.in_channels = group_channels * part
        self.output_type = np.float32 if y_scale is None else np.uint8
        self.residual_type = np.float32 if z_scale is None else np.uint8
        n, m = self.out_channels, self.in_channels
        arrays = []
        for name, array, shape, kind in (
            ('w', w, (n, m), np.int8), ('w_kxk', w_kxk, w_kxk.shape, np.int8), ('scale', scale, (n,), np.float32),
            ('bias', bias, (n,), np.float32),
        ):  # fmt: skip
            if array is not None and (array.shape != shape or array.dtype != kind):
                raise ValueError(f'{name} of shape {array.shape} must be {np.dtype(kind)} of shape {shape}')
            arrays.append(None if array is None else np.ascontiguousarray(array))
        if scale is None:
            raise ValueError('scale is missing')
        floats = (low, high, y_scale or 0, z_scale or 0)
        for name, zero_point in (('x', x_zero_point), ('y', y_zero_point), ('z', z_zero_point)):
            if not 0 <= zero_point <= 255:  # before it is cut to 32 bits
                raise ValueError(f'{name}_zero_point must be a byte')
        ints = (x_zero_point, y_scale is None, y_zero_point, z_scale is None, z_zero_point)
        self._layer = ctypes.c_void_p()
        _checked(
            _functions().hetconv_int8_create,
            _shape(m, n, part, *kernel, *stride, *dilation, *pads),
            *map(_pointer, arrays),
            (ctypes.c_float * 4)(*floats),
            (ctypes.c_int32 * 5)(*ints),
            isa.encode(),
            ctypes.byref(self._layer),
        )

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output.

        Raises:
            ValueError: The input is smaller than the kernel.
        """
        size = (ctypes.c_int64 * 2)()
        _checked(
            _functions().hetconv_int8_output_size, self._layer, ctypes.c_int64(height), ctypes.c_int64(width), size
        )
        return size[0], size[1]

    def __call__(self, x: Any, residual: Any = None, *, out: Any = None, threads: int = 1) -> Any:
        """Run.

        Args:
            x: (B, H, W, M) uint8, contiguous.
            residual: (B, H', W', N), contiguous, added before the bounds; or None.
            out: Where to write, of the result's shape; by default a new array.
            threads: Threads, started for this call.
        """
        import numpy as np

        batch, height, width, channels = x.shape
        if channels != self.in_channels:
            raise ValueError(f'x has {channels} channels, the layer {self.in_channels}')
        shape = (batch, *self.output_size(height, width), self.out_channels)
        y = np.empty(shape, self.output_type) if out is None else out
        _check_arrays(
            {
                'x': (x, x.shape, np.uint8), 'residual': (residual, shape, self.residual_type),
                'out': (y, shape, self.output_type),
            }
        )  # fmt: skip
        added = None if residual is None else residual.ctypes.data
        self.run_at(x.ctypes.data, added, y.ctypes.data, batch, height, width, threads)
        return y

    def run_at(
        self, x: int, residual: int | None, y: int, batch: int, height: int, width: int, threads: int = 1
    ) -> None:
        """Run on memory at these addresses, unchecked; arrays as of `__call__`."""
        _checked(_functions().hetconv_int8_run, self._layer, x, residual, y, batch, height, width, threads)

    def __del__(self) -> None:
        if getattr(self, '_layer', None):
            _functions().hetconv_int8_destroy(self._layer)
