"""The compiled CPU kernels: where the library is, and its functions for Python.

The library has ONNX Runtime's custom ops (`RegisterCustomOps`) and plain C functions, which `Layer` calls. A machine
without a C++ compiler has none of it, and everything runs through the portable lowering.
"""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

from ...errors import UserError

__all__ = ['ALGORITHMS', 'Layer', 'checksum', 'instruction_sets', 'is_built', 'library']

ALGORITHMS = {'auto': 0, 'direct': 1, 'winograd4': 2, 'winograd2': 3, 'patches': 4}


def library() -> Path:
    """The shared library, also for `SessionOptions.register_custom_ops_library`.

    The environment variable HETCONV_CPU_LIBRARY names another one, such as a build with sanitizers.

    Raises:
        UserError: It was not built.
    """
    path = Path(os.environ.get('HETCONV_CPU_LIBRARY') or Path(__file__).parent / 'libhetconv.so')
    if not path.is_file():
        raise UserError(
            f'the CPU kernels are not built ({path} is missing): install a C++ compiler and run pip install again; '
            'the portable lowering runs without them'
        )
    return path


def is_built() -> bool:
    """Whether `library` is there."""
    try:
        return library().is_file()
    except UserError:
        return False


@functools.cache
def _functions() -> ctypes.CDLL:
    functions = ctypes.CDLL(str(library()))
    functions.hetconv_isas.restype = ctypes.c_char_p
    functions.hetconv_weight_bytes.restype = ctypes.c_size_t
    functions.hetconv_weight_bytes.argtypes = [ctypes.c_void_p]
    functions.hetconv_destroy.argtypes = [ctypes.c_void_p]
    functions.hetconv_int8_destroy.argtypes = [ctypes.c_void_p]
    pointer, number, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
    functions.hetconv_run.argtypes = [*[pointer] * 4, *[number] * 3, size, pointer, ctypes.c_char_p, size]
    functions.hetconv_int8_run.argtypes = [*[pointer] * 4, *[number] * 3, size, ctypes.c_char_p, size]
    functions.hetconv_checksum.argtypes = [pointer, size, size, pointer]
    functions.hetconv_checksum.restype = ctypes.c_uint64
    return functions


def instruction_sets() -> list[str]:
    """Those that the library has and this machine too, best first."""
    return _functions().hetconv_isas().decode().split()


def checksum(address: int, size: int, threads: int = 1, openmp: int | None = None) -> int:
    """A number that changes with these `size` bytes; threads as of `Layer.run_at`."""
    return _functions().hetconv_checksum(address, size, threads, openmp)


def _pointer(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def _checked(function: Any, *arguments: Any) -> None:
    """Raises ValueError with the kernel's own words."""
    error = ctypes.create_string_buffer(256)
    if function(*arguments, error, ctypes.c_size_t(len(error))):
        raise ValueError(error.value.decode())


def _shape(*numbers: int) -> ctypes.Array:
    """A LayerShape of layer.h; raises ValueError for what does not fit into it."""
    if len(numbers) != 13 or not all(-(2**31) <= number < 2**31 for number in numbers):
        raise ValueError(f'{numbers} must be 13 numbers of 32 bits')
    return (ctypes.c_int32 * 13)(*numbers)


def _check_arrays(arrays: dict[str, tuple[Any, tuple[int, ...], Any]]) -> None:
    """What a kernel reads and writes: `x`, `residual`, `out`; by name the array or None, its shape and its type.

    Raises:
        ValueError: One that is not so, or an output that cannot be written, or overlaps with what is read.
    """
    import numpy as np

    for name, (array, shape, kind) in arrays.items():
        if array is None:
            continue
        if array.shape != shape or array.dtype != kind or not array.flags.c_contiguous:
            raise ValueError(f'{name} must be a contiguous {np.dtype(kind)} array of shape {shape}')
    out = arrays['out'][0]
    if not out.flags.writeable:
        raise ValueError('out cannot be written to')
    for name in ('x', 'residual'):
        if arrays[name][0] is not None and np.may_share_memory(arrays[name][0], out):
            raise ValueError(f'out must not overlap with {name}')


class Layer:
    """A convolution ready to run: HetConv2d with `w`, one in `part` groups without.

    Args:
        w_kxk: (N, M/part, K, K) float32.
        w: (N, M) float32, or None.
        bias: (N,) float32, or None.
        part, stride, dilation: As of `timm_hetconv.HetConv2d`.
        pads: Top, left, bottom, right.
        low, high: Bounds of the result.
        algorithm: 'auto' (by a cost model), 'direct', 'winograd4' for F(4x4,3x3), 'winograd2' for F(2x2,3x3) or
            'patches', which is direct too, for HetConv2d with groups of few channels.
        isa: One of `instruction_sets()`; '' for the best.

    Raises:
        ValueError: Shapes that make no sense, an algorithm for a layer that it cannot do, or an instruction set that is
            not there.
    """

    def __init__(
        self,
        w_kxk: Any,
        w: Any = None,
        bias: Any = None,
        *,
        part: int = 1,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        low: float = float('-inf'),
        high: float = float('inf'),
        algorithm: str = 'auto',
        isa: str = '',
    ) -> None:
        import numpy as np

        # Kept, since the kernel reads them when it first runs.
        self._weights = [None if a is None else np.ascontiguousarray(a, np.float32) for a in (w, w_kxk, bias)]
        if w_kxk.ndim != 4:
            raise ValueError(f'w_kxk of shape {w_kxk.shape} must be (N, M/part, K, K)')
        self.out_channels, group_channels, *kernel = w_kxk.shape
        self.in_channels = group_channels * part
        n, m = self.out_channels, self.in_channels
        for name, array, shape in (('w', w, (n, m)), ('bias', bias, (n,))):
            if array is not None and array.shape != shape:
                raise ValueError(f'{name} of shape {array.shape} must be {shape}')
        self._layer = ctypes.c_void_p()
        _checked(
            _functions().hetconv_create,
            _shape(m, n, part, *kernel, *stride, *dilation, *pads),
            *map(_pointer, self._weights),
            ctypes.c_float(low),
            ctypes.c_float(high),
            ctypes.c_int32(ALGORITHMS[algorithm]),
            isa.encode(),
            ctypes.byref(self._layer),
        )

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output.

        Raises:
            ValueError: The input is smaller than the kernel.
        """
        size = (ctypes.c_int64 * 2)()
        _checked(_functions().hetconv_output_size, self._layer, ctypes.c_int64(height), ctypes.c_int64(width), size)
        return size[0], size[1]

    def __call__(self, x: Any, residual: Any = None, *, out: Any = None, threads: int = 1) -> Any:
        """Run.

        Args:
            x: (B, H, W, M) float32, contiguous.
            residual: (B, H', W', N) float32, contiguous, added before the bounds; or None.
            out: Where to write, of the result's shape; by default a new array.
            threads: Threads, started for this call.
        """
        import numpy as np

        batch, height, width, channels = x.shape
        if channels != self.in_channels:
            raise ValueError(f'x has {channels} channels, the layer {self.in_channels}')
        shape = (batch, *self.output_size(height, width), self.out_channels)
        y = np.empty(shape, np.float32) if out is None else out
        kind = np.float32
        _check_arrays({'x': (x, x.shape, kind), 'residual': (residual, shape, kind), 'out': (y, shape, kind)})
        added = None if residual is None else residual.ctypes.data
        self.run_at(x.ctypes.data, added, y.ctypes.data, batch, height, width, threads)
        return y

    def run_at(
        self,
        x: int,
        residual: int | None,
        y: int,
        batch: int,
        height: int,
        width: int,
        threads: int = 1,
        openmp: int | None = None,
    ) -> None:
        """Run on memory at these addresses, unchecked; arrays as of `__call__`.

        Args:
            openmp: The address of an OpenMP runtime's GOMP_parallel, whose threads to take instead of new ones.
        """
        _checked(_functions().hetconv_run, self._layer, x, residual, y, batch, height, width, threads, openmp)

    def algorithm(self, batch: int, height: int, width: int) -> str:
        """What it takes for an input of this size.

        Raises:
            ValueError: The input is smaller than the kernel.
        """
        self.output_size(height, width)
        number = _functions().hetconv_algorithm(self._layer, *(ctypes.c_int64(size) for size in (batch, height, width)))
        return next(name for name, value in ALGORITHMS.items() if value == number)

    def weight_bytes(self) -> int:
        """Bytes of packed weights, of the algorithms that have run."""
        return _functions().hetconv_weight_bytes(self._layer)

    def __del__(self) -> None:
        if getattr(self, '_layer', None):
            _functions().hetconv_destroy(self._layer)
