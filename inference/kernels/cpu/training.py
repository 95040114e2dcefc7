"""The CPU kernels for training: weights that change with every call, and gradients. On memory at addresses.

Activations and their gradients are NHWC float32; weights are a HetConv2d's parameters, `w` (N, M) and `w_kxk`
(N, M/P, K*K - 1), without the centre. Results are the same with any number of threads.
"""

import ctypes
import functools
from typing import Any, NamedTuple

from . import ALGORITHMS, _checked, _functions
from . import _shape as _layer_shape

__all__ = ['Geometry', 'Options', 'check_library', 'forward', 'input_gradient', 'weight_gradient']


class Geometry(NamedTuple):
    """A HetConv layer with 'same' padding on an input of some size; `in_channels`, M, are those of the layer."""

    in_channels: int
    out_channels: int
    part: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    batch: int
    height: int
    width: int


class Options(NamedTuple):
    """How to run; `openmp`, `algorithm` and `isa` as of `Layer`, but 'auto' leaves out F(4x4), which is less exact."""

    threads: int = 1
    openmp: int | None = None
    algorithm: str = 'auto'
    isa: str = ''


DEFAULT = Options()


@functools.cache
def _function(name: str) -> Any:
    pointer, number, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
    function = _functions()[name]
    arrays: list[Any] = [pointer] * 4
    tail: list[Any] = []
    if name == 'hetconv_train':
        arrays = [*[pointer] * 3, ctypes.c_int32, *[pointer] * 2]
        tail = [ctypes.c_int32]
    function.argtypes = [pointer, *arrays, *[number] * 3, size, pointer, *tail, *[ctypes.c_char_p] * 2, size]
    return function


def check_library() -> None:
    """Raises AttributeError where the library was built before it could train."""
    for name in ('hetconv_train', 'hetconv_weight_gradient'):
        _function(name)


@functools.lru_cache(1024)
def _shape(geometry: Geometry, opposite: bool) -> ctypes.Array:
    g = geometry
    channels = (g.out_channels, g.in_channels) if opposite else (g.in_channels, g.out_channels)
    same = [d * (k // 2) for k, d in zip(g.kernel, g.dilation)]
    return _layer_shape(*channels, g.part, *g.kernel, *g.stride, *g.dilation, *same, *same)


def _call(name: str, geometry: Geometry, opposite: bool, options: Options, *arguments: int | None) -> None:
    tail = [ALGORITHMS[options.algorithm]] if name == 'hetconv_train' else []
    _checked(
        _function(name),
        _shape(geometry, opposite),
        *arguments,
        geometry.batch,
        geometry.height,
        geometry.width,
        options.threads,
        options.openmp,
        *tail,
        options.isa.encode(),
    )


def forward(
    geometry: Geometry, w: int, w_kxk: int, bias: int | None, x: int, y: int, options: Options = DEFAULT
) -> None:
    """y (B, H', W', N) = HetConv(x), x (B, H, W, M); `bias` (N,) or None.

    Raises:
        ValueError: Sizes that make no sense.
    """
    _call('hetconv_train', geometry, False, options, w, w_kxk, bias, 0, x, y)


def input_gradient(geometry: Geometry, w: int, w_kxk: int, grad: int, grad_x: int, options: Options = DEFAULT) -> None:
    """grad_x (B, H, W, M) from grad (B, H, W, N), at stride 1: itself a HetConv, with the weights transposed.

    Raises:
        ValueError: A stride above 1, or sizes that make no sense.
    """
    _call('hetconv_train', geometry, True, options, w, w_kxk, None, 1, grad, grad_x)


def weight_gradient(
    geometry: Geometry, x: int, grad: int, grad_w: int, grad_w_kxk: int, options: Options = DEFAULT
) -> None:
    """grad_w (N, M) and grad_w_kxk (N, M/P, K*K - 1) from x (B, H, W, M) and grad (B, H', W', N).

    Raises:
        ValueError: Sizes that make no sense.
    """
    _call('hetconv_weight_gradient', geometry, False, options, x, grad, grad_w, grad_w_kxk)
