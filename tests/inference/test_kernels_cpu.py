"""The CPU kernels against the oracle: every instruction set and algorithm, poisoned outputs, guarded inputs."""

import numpy as np
import pytest
from guarded_memory import guarded
from hypothesis import given, settings
from hypothesis import strategies as st
from many_callers import differing_calls

from inference.errors import UserError
from inference.kernels import cpu
from inference.kernels.reference import conv2d

pytestmark = pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')
ISAS = cpu.instruction_sets() if cpu.is_built() else []
# Relative to the largest value. The sums are of up to a few thousand products of size 1 in single precision.
TOLERANCE = {'direct': 1e-5, 'winograd4': 1e-4, 'winograd2': 1e-5, 'patches': 1e-5}
ALGORITHMS = list(TOLERANCE)


@st.composite
def cases(draw, algorithm):
    """Arguments of a layer, and an input."""
    part = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    m, n = draw(st.sampled_from([1, 2, 3, 4, 8, 17])), draw(st.sampled_from([1, 2, 3, 4, 8, 16, 20, 40]))
    one_kernel = algorithm != 'direct'
    hetconv = algorithm == 'patches' or draw(st.booleans())
    sizes = [3] if one_kernel else [3, 5] if hetconv else [1, 2, 3, 5]
    kernel = (draw(st.sampled_from(sizes)), draw(st.sampled_from(sizes)))
    stride = (1, 1) if one_kernel else (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = (1, 1) if one_kernel else (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    same = tuple(d * (k // 2) for d, k in zip(dilation, kernel))
    pads = (*same, *same) if hetconv else tuple(draw(st.integers(0, 3)) for _ in range(4))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    size = [draw(st.integers(max(1, reach[i] - pads[i] - pads[i + 2]), 20)) for i in range(2)]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))

    def normal(*shape):
        return random.standard_normal(shape).astype(np.float32)

    arguments = dict(part=part, stride=stride, dilation=dilation, pads=pads)
    arguments |= draw(st.sampled_from([{}, {'low': 0.0}, {'low': 0.0, 'high': 6.0}]))
    weights = (normal(part * n, m, *kernel), normal(part * n, part * m) if hetconv else None, normal(part * n))
    return weights, arguments, normal(draw(st.integers(1, 3)), *size, part * m), draw(st.booleans())


def check(case, algorithm, isa, threads=1):
    weights, arguments, x, with_residual = case
    layer = cpu.Layer(*weights, **arguments, algorithm=algorithm, isa=isa)
    shape = (x.shape[0], *layer.output_size(*x.shape[1:3]), layer.out_channels)
    residual = np.random.default_rng(0).standard_normal(shape).astype(np.float32) if with_residual else None
    expected = conv2d(x, *weights, residual, **arguments)
    out = np.full(shape, np.nan, np.float32)
    layer(x, residual, out=out, threads=threads)
    error = np.abs(out - expected).max() / max(np.abs(expected).max(), 1e-3)
    assert error < TOLERANCE[algorithm], error  # also false for a poisoned value that was left


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('algorithm', ALGORITHMS)
@pytest.mark.parametrize('examples', [60, pytest.param(1500, marks=pytest.mark.long)])
def test_equals_the_oracle(isa, algorithm, examples):
    @settings(max_examples=examples, deadline=None)
    @given(cases(algorithm), st.integers(1, 3))
    def equals(case, threads):
        check(case, algorithm, isa, threads)

    equals()


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('algorithm', ALGORITHMS)
@pytest.mark.parametrize('part', [1, 4, 16, 64])
def test_the_layers_of_a_network(isa, algorithm, part):
    random = np.random.default_rng(part)
    m = n = 64
    w_kxk = random.standard_normal((n, m // part, 3, 3), np.float32) / 24
    w = random.standard_normal((n, m), np.float32) / 8 if part > 1 or algorithm == 'patches' else None
    x = random.standard_normal((2, 13, 15, m), np.float32)
    layer = cpu.Layer(w_kxk, w, part=part, pads=(1, 1, 1, 1), algorithm=algorithm, isa=isa)
    expected = conv2d(x, w_kxk, w, part=part, pads=(1, 1, 1, 1))
    np.testing.assert_allclose(layer(x, threads=2), expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize(
    ('m', 'n', 'part', 'algorithm'),
    [
        (3, 16, 1, 'direct'), (16, 16, 4, 'direct'), (64, 64, 16, 'direct'), (64, 128, 64, 'direct'),
        (20, 20, 4, 'direct'), (3, 5, 1, 'winograd4'), (64, 64, 4, 'winograd4'), (20, 20, 4, 'winograd4'),
        (64, 64, 16, 'winograd4'), (16, 16, 4, 'patches'), (20, 20, 4, 'patches'), (6, 10, 2, 'patches'),
        (68, 40, 2, 'patches'), (24, 64, 8, 'patches'),
    ],
)  # fmt: skip
def test_reads_nothing_past_its_input_and_writes_nothing_past_its_output(isa, m, n, part, algorithm):
    random = np.random.default_rng(0)
    w_kxk = random.standard_normal((n, m // part, 3, 3), np.float32)
    w = random.standard_normal((n, m), np.float32) if part > 1 else None
    layer = cpu.Layer(w_kxk, w, part=part, pads=(1, 1, 1, 1), algorithm=algorithm, isa=isa)
    x, _keep_x = guarded((1, 9, 7, m))
    y, _keep_y = guarded((1, 9, 7, n))
    z, _keep_z = guarded((1, 9, 7, n))
    x[:], z[:] = random.standard_normal(x.shape), random.standard_normal(z.shape)
    layer(x, z, out=y)
    expected = conv2d(x, w_kxk, w, None, z, part=part, pads=(1, 1, 1, 1))
    np.testing.assert_allclose(y, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('algorithm', ALGORITHMS)
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_what_is_not_finite_goes_through(isa, algorithm, value):
    """As in PyTorch: also through a ReLU. Winograd may spread it over its tile."""
    random = np.random.default_rng(0)
    w_kxk = np.abs(random.standard_normal((16, 16, 3, 3), np.float32)) + 0.1
    w = w_kxk[:, :, 1, 1] if algorithm == 'patches' else None
    x = random.standard_normal((1, 12, 12, 16), np.float32)
    x[0, 5, 5, 3] = value
    y = cpu.Layer(w_kxk, w, pads=(1, 1, 1, 1), low=0, algorithm=algorithm, isa=isa)(x)
    assert not np.isfinite(y[0, 4:7, 4:7]).any()
    assert np.isfinite(y[0, 10:, 10:]).all()


@pytest.mark.parametrize('isa', ISAS)
def test_threads_and_callers_at_once_give_the_same_bits(isa):
    random = np.random.default_rng(0)
    layer = cpu.Layer(
        random.standard_normal((64, 16, 3, 3), np.float32), random.standard_normal((64, 64), np.float32), part=4,
        pads=(1, 1, 1, 1), isa=isa,
    )  # fmt: skip
    inputs = [random.standard_normal((1, size, size, 64), np.float32) for size in (7, 12, 20, 31)]
    assert not differing_calls(layer, inputs)


def test_an_empty_batch_is_empty():
    layer = cpu.Layer(np.ones((4, 4, 3, 3), np.float32), pads=(1, 1, 1, 1))
    assert layer(np.ones((0, 5, 5, 4), np.float32)).shape == (0, 5, 5, 4)


W = np.ones((8, 2, 3, 3), np.float32)
W1 = np.ones((8, 8), np.float32)


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(part=3), 'must divide'),
        (dict(part=0), 'at least 1'),
        (dict(part=4, stride=(0, 1)), 'at least 1'),
        (dict(part=4, dilation=(-1, 1)), 'at least 1'),
        (dict(part=4, pads=(-1, 0, 0, 0)), 'negative'),
        (dict(part=4, stride=(2**30, 1)), 'at most 32768'),
        (dict(part=4, pads=(0, 0, 0, 2**31 - 1)), 'at most 32768'),
        (dict(part=4, low=1.0, high=0.0), 'min must be at most max'),
        (dict(part=4, w=W1), "'same' padding"),
        (dict(part=4, stride=(2, 2), algorithm='winograd4'), 'Winograd needs'),
        (dict(part=4, pads=(1, 1, 1, 1), algorithm='patches'), 'patches need HetConv'),
        (dict(part=4, w=W1, pads=(1, 1, 1, 1), stride=(1, 2), algorithm='patches'), 'patches need HetConv'),
        (dict(part=4, isa='mmx'), 'unknown instruction set mmx'),
    ],
)
def test_layers_that_make_no_sense(kwargs, words):
    with pytest.raises(ValueError, match=words):
        cpu.Layer(W, **kwargs)


def test_inputs_that_do_not_fit():
    layer = cpu.Layer(W, part=4)
    with pytest.raises(ValueError, match=r'w of shape \(2, 2\) must be \(8, 8\)'):
        cpu.Layer(np.ones((8, 2, 3, 3)), np.ones((2, 2)), part=4, pads=(1, 1, 1, 1))
    with pytest.raises(ValueError, match=r'bias of shape \(1,\) must be \(8,\)'):
        cpu.Layer(np.ones((8, 8, 3, 3)), None, np.ones(1))
    with pytest.raises(ValueError, match=r'w_kxk of shape \(8, 8, 3\) must be'):
        cpu.Layer(np.ones((8, 8, 3)))
    with pytest.raises(ValueError, match='numbers of 32 bits'):
        cpu.Layer(np.ones((8, 8, 3, 3)), stride=(2**32 + 1, 1))
    with pytest.raises(ValueError, match='smaller than the kernel'):
        layer(np.ones((1, 2, 9, 8), np.float32))
    with pytest.raises(ValueError, match='an input of 0x9 makes no sense'):
        layer(np.ones((1, 0, 9, 8), np.float32))
    with pytest.raises(ValueError, match=f'an input of {2**62}x9 makes no sense'):
        layer.output_size(2**62, 9)
    with pytest.raises(ValueError, match='x has 7 channels, the layer 8'):
        layer(np.ones((1, 9, 9, 7), np.float32))
    with pytest.raises(ValueError, match='residual must be a contiguous float32 array'):
        layer(np.ones((1, 9, 9, 8), np.float32), np.ones((1, 9, 9, 8), np.float32))


def test_a_library_that_was_not_built_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv('HETCONV_CPU_LIBRARY', str(tmp_path / 'libhetconv.so'))
    with pytest.raises(UserError, match='the CPU kernels are not built'):
        cpu.library()
    assert not cpu.is_built()


def test_the_algorithm_fits_the_layer():
    """Winograd where it wins, direct for a stride, smaller weights where few pixels share them, patches for small
    groups."""

    def chosen(m, part, size, **kwargs):
        weights = (np.zeros((m, m // part, 3, 3), np.float32), np.zeros((m, m), np.float32) if part > 1 else None)
        return cpu.Layer(*weights, part=part, pads=(1, 1, 1, 1), **kwargs).algorithm(1, size, size)

    assert chosen(64, 4, 56) == 'winograd4'
    assert chosen(128, 1, 28) == 'winograd4'
    assert chosen(512, 4, 7) == 'winograd2'
    assert chosen(64, 4, 56, stride=(2, 2)) == 'direct'
    assert chosen(64, 64, 56, stride=(2, 2)) == 'direct'
    for isa in ISAS:
        assert chosen(16, 8, 32, isa=isa) == 'patches'
        assert chosen(16, 1, 32, isa=isa) != 'patches'
    for algorithm in ALGORITHMS:
        assert chosen(64, 4, 56, algorithm=algorithm) == algorithm


def test_weights_are_packed_when_they_are_used():
    layer = cpu.Layer(np.zeros((64, 16, 3, 3), np.float32), np.zeros((64, 64), np.float32), part=4, pads=(1, 1, 1, 1))
    assert layer.weight_bytes() == 0
    layer(np.zeros((1, 20, 20, 64), np.float32))
    assert layer.weight_bytes() == 4 * 64 * (36 * 16 + 48)
