"""The GPU kernel's own PTX, run by an emulator, against the oracle; and faults in it, which must be found."""

import functools
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip('triton', reason='Triton compiles the GPU kernel')

from ptx_emulator import Launch, launch

from inference.kernels.gpu import aot, tiles
from inference.kernels.gpu.tiles import ITEM, TILES, Layer
from inference.kernels.reference import conv2d

INF = float('inf')
UNIT = 2.0**-24  # single precision's rounding, relative
# Rounding of the output, relative to it.
ROUNDING = {'fp32': 0.0, 'fp16': 2.0**-11, 'bf16': 2.0**-8}


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


def make_case(layer, precision, size=(1, 7, 9), *, residual=False, low=-INF, high=INF, seed=0):
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

    operands = [meant(array, precision, operand=True) for array in (x, w, w_kxk)]
    total, size_of_total = oracle(*operands), oracle(*map(np.abs, operands))
    z = meant(added, precision) if residual else np.zeros(1)
    if precision == 'int8':
        scale, bias, scale_z = epilogue.astype(np.float64)
        value, magnitude = (
            total * scale + bias + z * scale_z,
            np.abs(total * scale) + np.abs(bias) + np.abs(z * scale_z),
        )
        expected = np.clip(np.clip(value, low, high), -128, 127)
        # The sum is exact, then it is rounded at most four times; the result is a nearest integer.
        allowed = 0.5 + 4 * UNIT * magnitude
    else:
        value, magnitude = total + epilogue[0] + z, size_of_total + np.abs(epilogue[0]) + np.abs(z)
        expected = np.clip(value, low, high)
        allowed = (terms + 2) * UNIT * magnitude
        allowed += ROUNDING[precision] * (np.abs(expected) + allowed) + (2.0**-25 if precision == 'fp16' else 0)
    packed = tiles.pack(layer, w, w_kxk, ITEM[precision])
    return Case(
        layer, precision, size, low, high, x, packed, epilogue, added if residual else None, expected, allowed
    )  # fmt: skip


def run(case, tile, *, ptx=None, change=None) -> tuple[np.ndarray, Launch]:
    """The kernel's output; `ptx` instead of its own, `change` of named integers."""
    item, merged = ITEM[case.precision], case.layer.merged()
    even = tiles.is_even(merged, tile, item)
    kernel = compiled(aot.Variant(case.precision, tile, case.residual is not None, even, case.layer.kernel_size))
    batch, height, width = case.size
    out = case.expected.shape
    integers = dict(
        pixels=batch * out[1] * out[2], height=height, width=width, out_height=out[1], out_width=out[2],
        **tiles.constants(merged, tile, item, case.low, case.high),
    )  # fmt: skip
    blocks = -(-integers['pixels'] // tile.pixels) * tiles.tile_count(merged, tile)
    y = stored(np.full(out, 77 if case.precision == 'int8' else np.nan, np.float32), case.precision)
    inputs = [array for array in (case.x, case.packed, case.epilogue, case.residual) if array is not None]
    for array in inputs:
        array.flags.writeable = False
    arguments = [*inputs, *(integers | (change or {})).values(), y]
    return y, launch(ptx or kernel.ptx, blocks, arguments, shared=kernel.shared)


def check(case, tile, **faults):
    """The result is within what is allowed, each value was written once, and the work is what `tiles` says."""
    y, result = run(case, tile, **faults)
    error = np.abs(meant(y, case.precision) - case.expected)
    worst = np.nanmax(error - case.allowed) if not np.isnan(error).all() else np.nan
    assert (error <= case.allowed).all(), f'{np.isnan(error).sum()} not written, {worst} more than allowed'
    assert (result.stores[-1] == 1).all()
    pixels = case.expected[..., 0].size
    work = tiles.multiplies(case.layer.merged(), tile, ITEM[case.precision])
    assert result.multiplies == work * -(-pixels // tile.pixels) * tile.pixels
    return result


def layer_for(tile, item):
    """A layer with four groups, several tiles, stride and dilation, that a tile fits."""
    group = max(tile.k, 16)
    return Layer(4 * group, 4 * max(tile.n // 2, 16), 4, stride=(2, 1), dilation=(1, 2))


@pytest.mark.parametrize('precision', ITEM)
def test_every_tile(precision):
    for i, tile in enumerate(TILES[ITEM[precision]]):
        case = make_case(layer_for(tile, ITEM[precision]), precision, residual=i % 2 == 1, low=0.0, seed=i)
        check(case, tile)
