"""The quantised custom ops in ONNX Runtime: right beside the oracle, and what makes no sense ends in words."""

import threading

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from inference.engines.ort_cpu import make_session
from inference.kernels import cpu
from inference.kernels.cpu.int8 import int8_instruction_sets
from inference.kernels.reference_int8 import conv2d

pytestmark = pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')
DOMAIN = 'hetconv.nhwc'
M = N = 8
PART = 2
RANDOM = np.random.default_rng(0)
WEIGHTS = {
    'W': RANDOM.integers(-128, 128, (N, M, 1, 1), np.int8),
    'W_kxk': RANDOM.integers(-128, 128, (N, M // PART, 3, 3), np.int8),
    'scale': RANDOM.uniform(1e-4, 1e-3, N).astype(np.float32),
    'B': RANDOM.standard_normal(N, np.float32),
}
SHAPE = dict(kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1])
QUANTISED = dict(x_zero_point=7, y_scale=0.1, y_zero_point=100)
POOL = dict(kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0])
U8, F32 = TensorProto.UINT8, TensorProto.FLOAT
# What each operator takes when it makes sense: inputs, attributes, types of x and y.
OPERATORS = {
    'QHetConv2d': (['x', 'W', 'W_kxk', 'scale', 'B'], SHAPE | QUANTISED | dict(part=PART), U8, U8),
    'QConv': (['x', 'W_kxk', 'scale', 'B'], SHAPE | QUANTISED | dict(group=PART), U8, U8),
    'QHetConv2dFloat': (['x', 'W', 'W_kxk', 'scale', 'B'], SHAPE | dict(part=PART, x_zero_point=7), U8, F32),
    'QConvFloat': (['x', 'W_kxk', 'scale', 'B'], SHAPE | dict(group=PART, x_zero_point=7), U8, F32),
    'QMaxPool': (['x'], POOL, U8, U8),
    'QMean': (['x'], dict(x_scale=0.5, x_zero_point=7), U8, F32),
    'Quantize': (['x'], dict(y_scale=0.1, y_zero_point=100), F32, U8),
}
CONVOLUTIONS = [op for op in OPERATORS if 'Conv' in op]


def one(op, *, residual=None, x=None, rank=4, tensors=None, **attributes):
    """A model of one operator, of which something is changed: an attribute of None is missing."""
    names, known, x_type, y_type = OPERATORS[op]
    names = [*names, *(['z'] if residual else [])]
    kept = {name: value for name, value in (known | attributes).items() if value is not None}
    constants = {name: value for name, value in (WEIGHTS | (tensors or {})).items() if name in names}
    inputs = [('x', x or x_type), *([('z', residual)] if residual else [])]
    values = [
        helper.make_tensor_value_info(name, kind, [f'{name}{axis}' for axis in range(rank)])
        for name, kind in (*inputs, ('y', y_type))
    ]
    graph = helper.make_graph(
        [helper.make_node(op, names, ['y'], domain=DOMAIN, **kept)], 'one', values[:-1], values[-1:],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid('', 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def expected(op, x, z=None, **arguments):
    w = WEIGHTS['W'].reshape(N, M) if 'Het' in op else None
    quantised = {name: value for name, value in OPERATORS[op][1].items() if name in QUANTISED}
    return conv2d(
        x, WEIGHTS['W_kxk'], w, WEIGHTS['scale'], WEIGHTS['B'], z, part=PART, pads=(1, 1, 1, 1),
        **quantised | arguments,
    )  # fmt: skip


def bytes_like(*shape):
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize('op', CONVOLUTIONS)
@pytest.mark.parametrize('residual', [None, U8, F32])
@pytest.mark.parametrize('threads', [1, 3])
def test_convolutions_equal_the_oracle(op, residual, threads):
    """And with another image size and batch at each call."""
    scales = dict(z_scale=0.2, z_zero_point=9) if residual == U8 else {}
    session = make_session(one(op, residual=residual, min=-1.0, **scales), threads)
    for shape in ((1, 1, 1), (3, 9, 5), (2, 20, 17)):
        x = bytes_like(*shape, M)
        z = bytes_like(*shape, N) if residual == U8 else np.random.default_rng(2).standard_normal((*shape, N))
        z = z if residual != F32 else z.astype(np.float32)
        feeds = {'x': x} | ({'z': z} if residual else {})
        (y,) = session.run(None, feeds)
        np.testing.assert_array_equal(y, expected(op, x, z if residual else None, low=-1.0, **scales))


def test_pools_the_mean_and_the_first_quantisation():
    x = bytes_like(2, 9, 7, 70)
    pool = dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    (y,) = make_session(one('QMaxPool', **pool), 2).run(None, {'x': x})
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(y, windows.max((4, 5)))

    (y,) = make_session(one('QMean'), 2).run(None, {'x': x})
    mean = (x.astype(np.float64) - 7).mean((1, 2), keepdims=True) * 0.5
    np.testing.assert_allclose(y, mean, rtol=1e-6)

    image = (np.random.default_rng(3).standard_normal((2, 3, 5, 300)) * 10).astype(np.float32)
    image[0, 0, 0, :6] = [0.05, 0.15, -0.05, np.inf, -np.inf, 1e30]
    (y,) = make_session(one('Quantize'), 2).run(None, {'x': image})
    wanted = np.clip(np.rint(image / np.float32(0.1)) + 100, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(y, wanted.transpose(0, 2, 3, 1))


@pytest.mark.parametrize('isa', int8_instruction_sets() if cpu.is_built() else ['none'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_the_first_quantisation_rounds_as_a_division_does(isa, channels):
    """Around every tie, where a product with the reciprocal would be wrong; rows of every length, and odd numbers."""
    random = np.random.default_rng(channels)
    scales = [0.1, 1 / 3, 0.0078125, 0.018658448, np.float32(2) - np.float32(2**-23), 1e-3, 1e-38, 1e-31, 3e31]
    for width, scale in enumerate([*scales, *random.uniform(0.005, 0.05, 62)], 1):
        scale = np.float32(scale)
        zero_point = int(random.integers(256))
        with np.errstate(all='ignore'):
            ties = ((random.integers(-300, 300, (1, channels, 7, width)) + 0.5) * scale).astype(np.float32)
            x = (ties.view(np.int32) + random.integers(-3, 4, ties.shape)).astype(np.int32).view(np.float32)
            x.ravel()[random.integers(x.size, size=3)] = [np.inf, -np.inf, 0]
            wanted = np.clip(np.rint(x / scale) + zero_point, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
        session = make_session(one('Quantize', y_scale=float(scale), y_zero_point=zero_point), 1, isa=isa)
        (y,) = session.run(None, {'x': x})
        np.testing.assert_array_equal(y, wanted, err_msg=f'scale {scale}, width {width}')


@pytest.mark.parametrize('channels', [3, 64, 65, 130])
@pytest.mark.parametrize('kernel', [1, 2, 3, 5])
@pytest.mark.parametrize('stride', [1, 2, 3])
def test_the_largest_byte_of_every_window(channels, kernel, stride):
    x = bytes_like(2, 8, 11, channels)
    pad = (kernel - 1) // 2
    pool = dict(kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
    (y,) = make_session(one('QMaxPool', **pool), 2).run(None, {'x': x})
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (1, 2))[:, ::stride, ::stride]
    np.testing.assert_array_equal(y, windows.max((4, 5)))


TAMPERED = {
    'part of 0': ('QHetConv2d', dict(part=0), 'part must be at least 1'),
    'huge part': ('QHetConv2d', dict(part=2**40), 'makes no sense'),
    'group that is missing': ('QConv', dict(group=None), 'group must be an int'),
    'kernel of another shape': ('QHetConv2d', dict(kernel_shape=[5, 5]), 'W_kxk must be'),
    'stride of 0': ('QConv', dict(strides=[0, 1]), 'at least 1'),
    "no 'same' padding": ('QHetConv2d', dict(pads=[0, 0, 0, 0]), "'same' padding"),
    'min above max': ('QConv', dict(min=1.0, max=0.0), 'min must be at most max'),
    'no y_scale': ('QConv', dict(y_scale=None), 'y_scale must be positive'),
    'y_scale of 0': ('QHetConv2d', dict(y_scale=0.0), 'y_scale must be positive'),
    'y_scale that is not a number': ('QConv', dict(y_scale=float('nan')), 'y_scale must be positive'),
    'y_scale that is an integer': ('QConv', dict(y_scale=1), 'y_scale must be a float'),
    'negative z_scale': ('QConv', dict(z_scale=-1.0), 'z_scale must be positive'),
    'x_zero_point of 256': ('QConv', dict(x_zero_point=256), 'x_zero_point must be a byte'),
    'huge y_zero_point': ('QConv', dict(y_zero_point=2**40), 'y_zero_point must be a byte'),
    'negative z_zero_point': ('QConv', dict(z_zero_point=-1), 'z_zero_point must be a byte'),
    'zero point that is a float': ('QConv', dict(x_zero_point=1.0), 'x_zero_point must be an int'),
    'scale of another length': ('QConv', dict(tensors={'scale': np.ones(N + 1, np.float32)}), r'scale must be \(N\)'),
    'scale that is not a number': (
        'QConv', dict(tensors={'scale': np.full(N, np.nan, np.float32)}), 'scales must be finite',
    ),
    'B of two axes': ('QHetConv2d', dict(tensors={'B': np.ones((1, N), np.float32)}), r'B must be \(N\)'),
    'B of infinity': ('QConv', dict(tensors={'B': np.full(N, np.inf, np.float32)}), 'bias must be finite'),
    'W of other channels': ('QHetConv2d', dict(tensors={'W': np.ones((N, M + 1, 1, 1), np.int8)}), 'W must be'),
    'weights of unsigned bytes': ('QConv', dict(tensors={'W_kxk': np.ones((N, 4, 3, 3), np.uint8)}), 'uint8'),
    'sums beyond 32 bits': (
        'QConv', dict(tensors={'W_kxk': np.full((N, 2**17, 1, 1), 127, np.int8)}, kernel_shape=[1, 1], pads=[0] * 4,
                      group=1), 'do not fit 32 bits',
    ),
    'input of signed bytes': ('QConv', dict(x=TensorProto.INT8), 'int8'),
    'a mean without a scale': ('QMean', dict(x_scale=None), 'x_scale must be positive'),
    'a quantisation without a scale': ('Quantize', dict(y_scale=None), 'y_scale must be positive'),
    'a pool with pads as large as its kernel': ('QMaxPool', dict(pads=[2, 2, 2, 2]), 'pads must be less'),
}  # fmt: skip


@pytest.mark.parametrize('case', TAMPERED)
def test_a_file_that_makes_no_sense_ends_in_words(case):
    op, changes, words = TAMPERED[case]
    with pytest.raises(Exception, match=words):
        make_session(one(op, **changes), 1)


INPUTS = {
    'other channels': ('QConv', {}, dict(x=bytes_like(1, 4, 4, M + 1)), 'X must be'),
    'three axes': ('QHetConv2d', dict(rank=3), dict(x=bytes_like(4, 4, M)), 'X must be'),
    'no rows': ('QConv', {}, dict(x=bytes_like(1, 0, 4, M)), 'an input of 0x4 makes no sense'),
    'smaller than the kernel': ('QConv', dict(pads=[0] * 4), dict(x=bytes_like(1, 2, 9, M)), 'smaller than the kernel'),
    'another residual': (
        'QConv', dict(residual=U8, z_scale=1.0), dict(x=bytes_like(1, 4, 4, M), z=bytes_like(1, 4, 5, N)),
        'Z must have',
    ),
    'a float residual with a scale': (
        'QConv', dict(residual=F32, z_scale=1.0),
        dict(x=bytes_like(1, 4, 4, M), z=np.zeros((1, 4, 4, N), np.float32)), 'Z must be uint8',
    ),
    'a byte residual without one': (
        'QHetConv2d', dict(residual=U8), dict(x=bytes_like(1, 4, 4, M), z=bytes_like(1, 4, 4, N)), 'float without',
    ),
    'a mean of three axes': ('QMean', dict(rank=3), dict(x=bytes_like(4, 4, M)), 'X must be'),
    'a mean of nothing': ('QMean', {}, dict(x=bytes_like(1, 0, 4, M)), 'makes no sense'),
    'a quantisation of three axes': ('Quantize', dict(rank=3), dict(x=np.zeros((3, 4, 4), np.float32)), 'X must be'),
}  # fmt: skip


@pytest.mark.parametrize('case', INPUTS)
def test_an_input_that_makes_no_sense_ends_in_words(case):
    op, changes, inputs, words = INPUTS[case]
    session = make_session(one(op, **changes), 1)
    with pytest.raises(Exception, match=words):
        session.run(None, inputs)


@pytest.mark.parametrize('op', OPERATORS)
def test_an_empty_batch_is_empty(op):
    x = np.zeros((0, 4, 4, M), np.float32 if OPERATORS[op][2] == F32 else np.uint8)
    assert make_session(one(op), 2).run(None, {'x': x})[0].shape[0] == 0


def test_an_instruction_set_in_eight_bits_only_may_be_asked_for():
    x = bytes_like(2, 9, 9, M)
    for isa in int8_instruction_sets():
        (y,) = make_session(one('QHetConv2d'), 1, isa=isa).run(None, {'x': x})
        np.testing.assert_array_equal(y, expected('QHetConv2d', x))


def test_callers_of_one_session_get_the_bytes_of_one():
    session = make_session(one('QHetConv2d'), 2)
    inputs = [bytes_like(1 + size % 3, size, size, M) for size in range(3, 20)]
    alone = [session.run(None, {'x': x})[0] for x in inputs]
    wrong = []

    def caller(first):
        for turn in range(40):
            k = (first + turn) % len(inputs)
            if not np.array_equal(session.run(None, {'x': inputs[k]})[0], alone[k]):
                wrong.append(k)

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert not wrong
