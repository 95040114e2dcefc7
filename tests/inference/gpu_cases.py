"""Layers with data for the GPU kernel's PTX, run by the emulator, and how far from the oracle a result may be."""

import functools
from dataclasses import dataclass

import numpy as np
from ptx_emulator import Launch, launch

from inference.kernels.gpu import aot, tiles
from inference.kernels.gpu.tiles import ITEM, Layer
from inference.kernels.reference import conv2d

__all__ = ['INF', 'Case', 'check', 'compiled', 'integers_of', 'kernel_of', 'make_case', 'run']

INF = float('inf')
UNIT = 2.0**-24  # single precision's rounding, relative
ROUNDING = {'fp32': 0.0, 'fp16': 2.0**-11, 'bf16': 2.0**-8}  # of the output, relative to it


@functools.cache
def compiled(variant):
    return aot.compile_kernel(variant, 80)


def stored(values, precision):
    """float32 values in a precision, as an array for the kernel: bfloat16 are the upper halves."""
    if precision == 'bf16':
        return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({'fp32': np.float32, 'fp16': np.float16, 'int8': np.int8}[precision])


def meant(array, precision, *, operand=False):
    """What an array of `stored` means, as float64; with `operand` to tensor cores, which cut float32 to TF32."""
    if precision == 'bf16':
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if precision == 'fp32' and operand:
        return (array.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


@dataclass
class Case:
    """A layer with data for the kernel, what must come out, and how far from it the result may be."""

    layer: Layer
    precision: str
    size: tuple[int, int, int]  # batch, height, width
    low: float
    high: float
    x: np.ndarray
    packed: np.ndarray
    epilogue: np.ndarray
    residual: np.ndarray | None
    expected: np.ndarray
    allowed: np.ndarray


def make_case(layer, precision, size=(1, 7, 9), *, residual=False, low=-INF, high=INF, seed=0, cut=True):
    """A case of random numbers. Without `cut`, what is expected in fp32 are products of float32 and not of TF32."""
    random = np.random.default_rng(seed)
    n, m, group, taps = layer.out_channels, layer.in_channels, layer.group_in, layer.taps
    terms = m + taps * group
    out = (size[0], *layer.output_size(*size[1:]), n)

    def draw(*shape):
        if precision == 'int8':
            return stored(random.integers(-128, 128, shape), precision)
        return stored(random.standard_normal(shape, np.float32), precision)

    x, w, w_kxk, added = draw(*size, m), draw(n, m), draw(n, group, taps), draw(*out)
    if precision == 'int8':
        epilogue = random.uniform(0.5, 1, (3, n)) * np.array([[40 / (74**2 * terms**0.5)], [20], [0.3]])
        epilogue = (epilogue * random.choice([-1, 1], (3, n))).astype(np.float32)
    else:
        epilogue = random.standard_normal((1, n), np.float32)

    def oracle(values, weights, weights_kxk):
        kxk = np.insert(weights_kxk, taps // 2, 0, axis=2).reshape(n, group, *layer.kernel_size)
        pads = [d * (k // 2) for d, k in zip(layer.dilation, layer.kernel_size)] * 2
        return conv2d(values, kxk, weights, part=layer.part, stride=layer.stride, dilation=layer.dilation, pads=pads)

    operands = [meant(array, precision, operand=cut) for array in (x, w, w_kxk)]
    total, magnitude = oracle(*operands), oracle(*map(np.abs, operands))
    z = meant(added, precision) if residual else np.zeros(1)
    if precision == 'int8':
        scale, bias, scale_z = epilogue.astype(np.float64)
        expected = np.clip(np.clip(total * scale + bias + z * scale_z, low, high), -128, 127)
        # The sum is exact, then it is rounded at most four times; the result is a nearest integer.
        allowed = 0.5 + 4 * UNIT * (np.abs(total * scale) + np.abs(bias) + np.abs(z * scale_z))
    else:
        expected = np.clip(total + epilogue[0] + z, low, high)
        allowed = (terms + 2) * UNIT * (magnitude + np.abs(epilogue[0]) + np.abs(z))  # a rounding each addition
        allowed += ROUNDING[precision] * (np.abs(expected) + allowed) + (2.0**-25 if precision == 'fp16' else 0)
    packed = tiles.pack(layer, w, w_kxk, ITEM[precision])
    added = added if residual else None
    return Case(layer, precision, size, low, high, x, packed, epilogue, added, expected, allowed)


def kernel_of(case, tile, channel_block=0):
    """The compiled kernel that a case runs in."""
    even = tiles.is_even(case.layer.merged(), tile, ITEM[case.precision])
    residual, size = case.residual is not None, case.layer.kernel_size
    return compiled(aot.Variant(case.precision, tile, residual, even, size, channel_block))


def integers_of(case):
    """The kernel's 32-bit arguments."""
    batch, height, width = case.size
    out = case.expected.shape
    return dict(
        pixels=batch * out[1] * out[2], height=height, width=width, out_height=out[1], out_width=out[2],
        **tiles.constants(case.layer.merged(), ITEM[case.precision], case.low, case.high),
    )  # fmt: skip


def _blocked(array, block):
    """Channels last to CHW32 and the like."""
    b, h, w, c = array.shape
    return np.ascontiguousarray(array.reshape(b, h, w, c // block, block).transpose(0, 3, 1, 2, 4))


def run(case, tile, *, channel_block=0, ptx=None, change=None) -> tuple[np.ndarray, Launch]:
    """The kernel's output; `ptx` instead of its own, `change` of named integers."""
    kernel = kernel_of(case, tile, channel_block)
    integers = integers_of(case)
    blocks = -(-integers['pixels'] // tile.pixels) * tiles.tile_count(case.layer.merged(), tile)
    y = stored(np.full(case.expected.shape, 77 if case.precision == 'int8' else np.nan), case.precision)
    x, residual = case.x, case.residual
    if channel_block:
        x, y = _blocked(x, channel_block), _blocked(y, channel_block)
        residual = None if residual is None else _blocked(residual, channel_block)
    inputs = [array for array in (x, case.packed, case.epilogue, residual) if array is not None]
    for array in inputs:
        array.flags.writeable = False
    arguments = [*inputs, *(integers | (change or {})).values(), y]
    result = launch(ptx or kernel.ptx, blocks, arguments, shared=kernel.shared, entry=kernel.name)
    return (y.transpose(0, 2, 3, 1, 4).reshape(case.expected.shape) if channel_block else y), result


def check(case, tile, **faults) -> Launch:
    """The result is within what is allowed, each value was written once, and the work is what `tiles` says."""
    y, result = run(case, tile, **faults)
    error = np.abs(meant(y, case.precision) - case.expected)
    far = ~(error <= case.allowed)  # NaN is what was not written
    assert not far.any(), f'{far.sum()} of {far.size} values are wrong, the worst by {error[far].max()}'
    assert (result.stores[-1] == 1).all(), 'some of the output was not written, or twice'
    pixels = case.expected[..., 0].size
    work = tiles.multiplies(case.layer.merged(), tile, ITEM[case.precision])
    assert result.multiplies == work * -(-pixels // tile.pixels) * tile.pixels, 'another amount of work'
    return result
