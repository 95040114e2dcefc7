"""The quantised CPU kernels against the oracle, bit for bit: every instruction set, extreme values, guarded inputs."""

import numpy as np
import pytest
from guarded_memory import guarded
from hypothesis import given, settings
from hypothesis import strategies as st
from many_callers import differing_calls

from inference.kernels import cpu
from inference.kernels.reference_int8 import conv2d

pytestmark = pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')
if cpu.is_built():
    from inference.kernels.cpu.int8 import Int8Layer, int8_instruction_sets
ISAS = int8_instruction_sets() if cpu.is_built() else []
POISON = {np.uint8: 0xA5, np.float32: np.nan}


def draw_layer(draw):
    """Weights and arguments of a layer, an input, and whether it has a residual."""
    part = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    m, n = draw(st.sampled_from([1, 2, 3, 4, 8, 17])), draw(st.sampled_from([1, 2, 3, 4, 8, 16, 20, 40]))
    hetconv = draw(st.booleans())
    kernel = tuple(draw(st.sampled_from([3, 5] if hetconv else [1, 2, 3, 5])) for _ in range(2))
    stride, dilation = ((draw(st.integers(1, most)), draw(st.integers(1, most))) for most in (3, 2))
    same = tuple(d * (k // 2) for d, k in zip(dilation, kernel))
    pads = (*same, *same) if hetconv else tuple(draw(st.integers(0, 3)) for _ in range(4))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    size = [draw(st.integers(max(1, reach[i] - pads[i] - pads[i + 2]), 20)) for i in range(2)]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))

    def byte(low, *shape):
        return random.integers(low, low + 256, shape, np.int16).astype(np.int8 if low else np.uint8)

    w_kxk = byte(-128, part * n, m, *kernel)
    w = byte(-128, part * n, part * m) if hetconv else None
    if hetconv and draw(st.booleans()):
        w_kxk[:, :, kernel[0] // 2, kernel[1] // 2] = 0  # as exported
    # Results that are spread over the bytes, and beyond them on both sides.
    spread = 255 / (255 * 74 * np.sqrt(m * kernel[0] * kernel[1] + (part * m if hetconv else 0)))
    scale = random.uniform(0.2, 1.5, part * n).astype(np.float32) * np.float32(spread)
    bias = random.uniform(-60, 60, part * n).astype(np.float32) if draw(st.booleans()) else None
    arguments = dict(part=part, stride=stride, dilation=dilation, pads=pads)
    arguments |= draw(st.sampled_from([{}, {'low': 0.0}, {'low': 0.0, 'high': 6.0}]))
    zero_points = st.sampled_from([0, 1, 127, 128, 255])
    arguments['x_zero_point'] = draw(zero_points)
    if draw(st.integers(0, 3)):
        arguments |= dict(y_scale=draw(st.sampled_from([0.5, 1.0, 0.73])), y_zero_point=draw(zero_points))
    if draw(st.integers(0, 3)):
        arguments |= dict(z_scale=draw(st.sampled_from([0.25, 1.0, 0.31])), z_zero_point=draw(zero_points))
    x = byte(0, draw(st.integers(1, 3)), *size, part * m)
    return (w_kxk, w, scale, bias), arguments, x, draw(st.booleans())


def residual_of(arguments, shape):
    random = np.random.default_rng(0)
    if 'z_scale' in arguments:
        return random.integers(0, 256, shape, np.uint8)
    return random.standard_normal(shape, np.float32)


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('examples', [120, pytest.param(3000, marks=pytest.mark.long)])
def test_equals_the_oracle(isa, examples):
    @settings(max_examples=examples, deadline=None)
    @given(st.composite(draw_layer)(), st.integers(1, 3))
    def equals(case, threads):
        weights, arguments, x, with_residual = case
        layer = Int8Layer(*weights, **arguments, isa=isa)
        shape = (x.shape[0], *layer.output_size(*x.shape[1:3]), layer.out_channels)
        residual = residual_of(arguments, shape) if with_residual else None
        out = np.full(shape, POISON[layer.output_type], layer.output_type)
        layer(x, residual, out=out, threads=threads)
        np.testing.assert_array_equal(out, conv2d(x, *weights, residual, **arguments))

    equals()


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('part', [1, 4, 8, 16, 32, 64])
def test_the_layers_of_a_network(isa, part):
    random = np.random.default_rng(part)
    m = n = 64
    w_kxk = random.integers(-128, 128, (n, m // part, 3, 3), np.int8)
    w = random.integers(-128, 128, (n, m), np.int8) if part > 1 else None
    if part > 1:
        w_kxk[:, :, 1, 1] = 0
    scale = random.uniform(1e-5, 1e-3, n).astype(np.float32)
    x = random.integers(0, 256, (2, 13, 15, m), np.uint8)
    z = random.integers(0, 256, (2, 13, 15, n), np.uint8)
    bias = random.standard_normal(n, np.float32)
    arguments = dict(part=part, pads=(1, 1, 1, 1), low=0.0, x_zero_point=3, y_scale=0.2, z_scale=0.1, z_zero_point=7)
    layer = Int8Layer(w_kxk, w, scale, bias, **arguments, isa=isa)
    np.testing.assert_array_equal(layer(x, z, threads=2), conv2d(x, w_kxk, w, scale, bias, z, **arguments))


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('zero_point', [0, 128, 255])
@pytest.mark.parametrize('x', [0, 255])
@pytest.mark.parametrize('w', [-128, 127])
def test_the_largest_sums(isa, zero_point, x, w):
    """Where sixteen bits would saturate, over and over; a number of channels that is no multiple of four."""
    channels = 4095
    inputs, weights = np.full((1, 2, 3, channels), x, np.uint8), np.full((17, channels, 1, 1), w, np.int8)
    layer = Int8Layer(weights, None, np.ones(17, np.float32), x_zero_point=zero_point, isa=isa)
    # Above 2^24 float32 has every second integer, or every eighth.
    assert (layer(inputs) == np.float32(channels * (x - zero_point) * w)).all()


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('scale', [1e-3, 3e2, 1e6, 1e9])
@pytest.mark.parametrize('n', [16, 32])
def test_reals_beyond_32_bits_become_the_largest_byte(isa, scale, n):
    """A conversion to integers that overflows would make them negative, and zeros of them."""
    w = np.resize(np.array([127, -127], np.int8), (n, 1, 1, 1)) * np.ones((1, 255, 1, 1), np.int8)
    x = np.full((1, 3, 5, 255), 255, np.uint8)
    bias = np.resize(np.array([2.0**31, 1e10, -3e9, 0], np.float32), n)
    arguments = dict(low=0.0, y_scale=1.0, z_scale=0.5)
    layer = Int8Layer(w, None, np.full(n, scale, np.float32), bias, **arguments, isa=isa)
    z = np.random.default_rng(0).integers(0, 256, (1, 3, 5, n), np.uint8)
    for residual in (None, z):
        expected = conv2d(x, w, None, np.full(n, scale, np.float32), bias, residual, **arguments)
        np.testing.assert_array_equal(layer(x, residual), expected)


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('channels', [1, 3, 4, 5, 11, 15])
@pytest.mark.parametrize(
    ('kernel', 'stride', 'dilation'),
    [((7, 7), (2, 2), (1, 1)), ((2, 3), (1, 1), (3, 1)), ((3, 2), (4, 9), (1, 1)), ((1, 5), (3, 5), (1, 1))],
)
def test_stems(isa, channels, kernel, stride, dilation):
    """Few channels, whose taps are copied column by column: blocks that end within a row, strides beyond the kernel."""
    random = np.random.default_rng(channels)
    w = random.integers(-128, 128, (32, channels, *kernel), np.int8)
    arguments = dict(
        stride=stride, dilation=dilation, pads=(1, 2, 0, 3), low=0.0, x_zero_point=7, y_scale=0.3,
    )  # fmt: skip
    scale = random.uniform(1e-4, 1e-3, 32).astype(np.float32)
    x, _keep = guarded((2, 23, 41, channels), np.uint8)
    x[:] = random.integers(0, 256, x.shape, np.uint8)
    np.testing.assert_array_equal(
        Int8Layer(w, None, scale, **arguments, isa=isa)(x), conv2d(x, w, None, scale, **arguments)
    )


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('y_zero_point', [0, 99])
@pytest.mark.parametrize(
    ('m', 'n', 'part'),
    [(1, 16, 1), (3, 16, 1), (7, 16, 1), (15, 32, 1), (17, 5, 1), (16, 16, 4), (64, 64, 8), (64, 64, 64), (21, 21, 7)],
)
def test_reads_nothing_past_its_input_and_writes_nothing_past_its_output(isa, y_zero_point, m, n, part):
    random = np.random.default_rng(0)
    w_kxk = random.integers(-128, 128, (n, m // part, 3, 3), np.int8)
    w = random.integers(-128, 128, (n, m), np.int8) if part > 1 else None
    scale = np.full(n, 1e-3, np.float32)
    arguments = dict(part=part, pads=(1, 1, 1, 1), x_zero_point=9, y_scale=0.5, z_scale=0.5)
    arguments.update(y_zero_point=y_zero_point)
    layer = Int8Layer(w_kxk, w, scale, **arguments, isa=isa)
    (x, _keep_x), (y, _keep_y), (z, _keep_z) = (guarded((1, 9, 7, size), np.uint8) for size in (m, n, n))
    x[:], z[:] = random.integers(0, 256, x.shape, np.uint8), random.integers(0, 256, z.shape, np.uint8)
    layer(x, z, out=y)
    np.testing.assert_array_equal(y, conv2d(x, w_kxk, w, scale, None, z, **arguments))


@pytest.mark.parametrize('isa', ISAS)
def test_threads_and_callers_at_once_give_the_same_bytes(isa):
    random = np.random.default_rng(0)
    layer = Int8Layer(
        random.integers(-128, 128, (64, 16, 3, 3), np.int8), random.integers(-128, 128, (64, 64), np.int8),
        np.full(64, 1e-3, np.float32), part=4, pads=(1, 1, 1, 1), x_zero_point=5, y_scale=0.1, isa=isa,
    )  # fmt: skip
    inputs = [random.integers(0, 256, (1, size, size, 64), np.uint8) for size in (7, 12, 20, 31)]
    assert not differing_calls(layer, inputs)


def test_layers_are_made_and_freed_by_threads_at_once():
    """Their weights lie side by side in pages that they share."""
    from concurrent.futures import ThreadPoolExecutor

    def right(seed):
        random = np.random.default_rng(seed)
        n = int(random.choice([8, 64, 256]))
        weights = random.integers(-128, 128, (n, 32, 1, 1), np.int8), None, np.full(n, 1e-3, np.float32)
        x = random.integers(0, 256, (1, 2, 3, 32), np.uint8)
        return np.array_equal(Int8Layer(*weights)(x), conv2d(x, *weights))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, range(200)))


def test_ties_go_to_the_even_number():
    x = np.arange(256, dtype=np.uint8).reshape(1, 1, 256, 1)
    layer = Int8Layer(np.ones((1, 1, 1, 1), np.int8), None, np.ones(1, np.float32), y_scale=2.0, y_zero_point=3)
    np.testing.assert_array_equal(layer(x).ravel(), np.minimum(np.rint(np.arange(256) / 2) + 3, 255))


def test_an_empty_batch_is_empty():
    layer = Int8Layer(np.ones((4, 4, 3, 3), np.int8), None, np.ones(4, np.float32), pads=(1, 1, 1, 1), y_scale=1.0)
    assert layer(np.ones((0, 5, 5, 4), np.uint8)).shape == (0, 5, 5, 4)


W = np.ones((8, 2, 3, 3), np.int8)
W1 = np.ones((8, 8), np.int8)
SCALE = np.ones(8, np.float32)


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(part=3), 'must divide'),
        (dict(part=4, stride=(0, 1)), 'at least 1'),
        (dict(part=4, pads=(-1, 0, 0, 0)), 'negative'),
        (dict(part=4, low=1.0, high=0.0), 'min must be at most max'),
        (dict(part=4, w=W1), "'same' padding"),
        (dict(part=4, isa='mmx'), 'unknown instruction set mmx'),
        (dict(part=4, x_zero_point=256), 'x_zero_point must be a byte'),
        (dict(part=4, x_zero_point=2**32 + 7), 'x_zero_point must be a byte'),
        (dict(part=4, y_scale=1.0, y_zero_point=-1), 'y_zero_point must be a byte'),
        (dict(part=4, z_scale=1.0, z_zero_point=300), 'z_zero_point must be a byte'),
        (dict(part=4, y_scale=-1.0), 'y_scale must be positive'),
        (dict(part=4, z_scale=float('inf')), 'z_scale must be positive and finite'),
        (dict(part=4, scale=np.full(8, np.nan, np.float32)), 'scales must be finite'),
        (dict(part=4, bias=np.full(8, np.inf, np.float32)), 'the bias must be finite'),
        (dict(part=4, y_scale=1e-40), 'scales must be finite, in steps of y too'),
        (dict(part=4, scale=SCALE * 1e-30, bias=SCALE, y_scale=1e-40), 'the bias must be finite, in steps'),
        (dict(part=4, scale=SCALE * 1e-30, z_scale=1.0, y_scale=1e-40), 'z_scale must be finite, in steps'),
        (dict(part=4, scale=SCALE * 1e-30, y_scale=1e-40), 'z_scale must be finite, in steps'),
        (dict(part=4, scale=None), 'scale is missing'),
        (dict(part=4, scale=np.ones(7, np.float32)), r'scale of shape \(7,\) must be float32 of shape \(8,\)'),
        (dict(part=4, w=W1.astype(np.int16)), r'w of shape \(8, 8\) must be int8'),
    ],
)
def test_layers_that_make_no_sense(kwargs, words):
    kwargs = dict(scale=SCALE) | kwargs
    with pytest.raises(ValueError, match=words):
        Int8Layer(W, **kwargs)


def test_sums_that_could_leave_32_bits_are_refused():
    channels = 2**31 // (255 * 128) + 1
    weights = np.full((1, channels, 1, 1), -128, np.int8)
    with pytest.raises(ValueError, match='do not fit 32 bits'):
        Int8Layer(weights, None, np.ones(1, np.float32))
    Int8Layer(weights, None, np.ones(1, np.float32), x_zero_point=128)
    Int8Layer(weights[:, 1:], None, np.ones(1, np.float32))


def test_inputs_that_do_not_fit():
    layer = Int8Layer(W, None, SCALE, part=4, y_scale=1.0, z_scale=1.0)
    with pytest.raises(ValueError, match='smaller than the kernel'):
        layer(np.ones((1, 2, 9, 8), np.uint8))
    with pytest.raises(ValueError, match='x has 7 channels, the layer 8'):
        layer(np.ones((1, 9, 9, 7), np.uint8))
    with pytest.raises(ValueError, match='x must be a contiguous uint8 array'):
        layer(np.ones((1, 9, 9, 8), np.int8))
    with pytest.raises(ValueError, match='residual must be a contiguous uint8 array'):
        layer(np.ones((1, 9, 9, 8), np.uint8), np.ones((1, 7, 7, 8), np.float32))


def test_outputs_that_do_not_fit():
    layer = Int8Layer(W, None, SCALE, part=4, pads=(1, 1, 1, 1), y_scale=1.0, z_scale=1.0)
    x, z = np.ones((2, 1, 5, 5, 8), np.uint8)
    for out in (x, z):
        with pytest.raises(ValueError, match='out must not overlap'):
            layer(x, z, out=out)
    with pytest.raises(ValueError, match='out cannot be written to'):
        layer(x, z, out=np.frombuffer(bytes(x.size), np.uint8).reshape(x.shape))
