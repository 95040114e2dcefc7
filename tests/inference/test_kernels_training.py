"""The CPU kernels for training, on every instruction set, against the composition in double precision."""

import random

import pytest
import torch

from inference.kernels import cpu
from inference.kernels.cpu import training
from timm_hetconv.ops import compose

pytestmark = pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')

ISAS = cpu.instruction_sets() if cpu.is_built() else []
GUARD = 64  # floats behind each result, which must stay what they are
POISON = 12345.0


class Result:
    """Memory full of NaN, with a guard behind it."""

    def __init__(self, *shape):
        self.size = torch.Size(shape).numel()
        self.memory = torch.full((self.size + GUARD,), float('nan'))
        self.memory[self.size :] = POISON
        self.tensor = self.memory[: self.size].view(shape)

    @property
    def address(self):
        return self.memory.data_ptr()

    def assert_whole(self):
        assert (self.memory[self.size :] == POISON).all(), 'written behind the end'
        assert self.tensor.isfinite().all(), 'not all was written, or something else was read'


def inside_nan(tensor):
    """The same numbers in memory that has NaN before and after them: what is read there would show."""
    memory = torch.full((tensor.numel() + 2 * GUARD,), float('nan'))
    inner = memory[GUARD : GUARD + tensor.numel()].view(tensor.shape)
    return inner.copy_(tensor)


def nhwc(tensor):
    return inside_nan(tensor.permute(0, 2, 3, 1).contiguous())


def draw_geometry(draw):
    part = draw.choice([1, 2, 3, 4, 8, 16])
    m, n = draw.choice([1, 2, 3, 4, 8, 16, 17, 32, 40]), draw.choice([1, 2, 3, 4, 8, 16, 20, 32, 48])
    if part * max(m, n) > 160:
        m, n = draw.choice([1, 2, 4, 8]), draw.choice([1, 2, 4, 8])
    return training.Geometry(
        part * m, part * n, part,
        draw.choice([(3, 3), (3, 3), (3, 3), (5, 5), (1, 3), (3, 1)]),
        draw.choice([(1, 1), (1, 1), (2, 2), (1, 2), (3, 3)]),
        draw.choice([(1, 1), (1, 1), (2, 1), (3, 3)]),
        draw.choice([1, 2, 5]), draw.randint(1, 13), draw.randint(1, 13),
    )  # fmt: skip


def algorithms(g):
    can = g.kernel == (3, 3) and g.stride == g.dilation == (1, 1)
    return ['auto', 'direct', *(['winograd2', 'patches', 'patches'] if can else [])]


def assert_close(result, expected, what):
    result.assert_whole()
    y = result.tensor.permute(0, 3, 1, 2) if result.tensor.dim() == 4 else result.tensor
    expected = expected.reshape(y.shape)
    error = (y - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
    assert error < 1e-5, what  # also false for NaN


def run(seed, isa):
    draw = random.Random(seed)
    check(draw_geometry(draw), draw, isa, seed)


def check(g, draw, isa, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    taps = g.kernel[0] * g.kernel[1] - 1
    x, w = normal(g.batch, g.in_channels, g.height, g.width), normal(g.out_channels, g.in_channels, 1, 1)
    w_kxk = normal(g.out_channels, g.in_channels // g.part, taps)
    bias = normal(g.out_channels) if draw.random() < 0.5 else None
    padding = [d * (k // 2) for k, d in zip(g.kernel, g.dilation)]
    doubles = [t.double().requires_grad_() for t in (x, w, w_kxk)]
    expected = compose(*doubles, None if bias is None else bias.double(), g.kernel, g.stride, padding, g.dilation)
    grad = normal(*expected.shape)
    grad_x, grad_w, grad_kxk = torch.autograd.grad(expected, doubles, grad.double())

    x, grad, w, w_kxk = nhwc(x), nhwc(grad), inside_nan(w), inside_nan(w_kxk)
    for algorithm in draw.sample(algorithms(g), 1):
        options, what = training.Options(draw.choice([1, 2, 3]), None, algorithm, isa), f'{seed}, {algorithm}, {g}'
        y = Result(g.batch, *expected.shape[2:], g.out_channels)
        at = None if bias is None else bias.data_ptr()
        training.forward(g, w.data_ptr(), w_kxk.data_ptr(), at, x.data_ptr(), y.address, options)
        assert_close(y, expected, what)
        if g.stride == (1, 1):
            result = Result(*x.shape)
            training.input_gradient(g, w.data_ptr(), w_kxk.data_ptr(), grad.data_ptr(), result.address, options)
            assert_close(result, grad_x, what)
        results = Result(g.out_channels * g.in_channels), Result(*w_kxk.shape)
        training.weight_gradient(g, x.data_ptr(), grad.data_ptr(), *(r.address for r in results), options)
        for result, oracle in zip(results, (grad_w, grad_kxk)):
            assert_close(result, oracle, what)


@pytest.mark.parametrize('isa', ISAS)
def test_random_layers(isa):
    for seed in range(60):
        run(seed, isa)


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('channels', [(32, 32, 2), (64, 64, 4), (51, 60, 3), (40, 96, 2), (16, 48, 1)])
@pytest.mark.parametrize('size', [(10, 9), (7, 10), (11, 8), (12, 33)])
def test_groups_that_fill_vectors(isa, channels, size):
    """The gradient to the weights is Winograd's then: tiles over the edges of odd sizes, channels that fill no whole
    vectors, blocks that end inside an image."""
    g = training.Geometry(*channels, (3, 3), (1, 1), (1, 1), 6, *size)
    check(g, random.Random(0), isa, 0)


@pytest.mark.long
@pytest.mark.parametrize('isa', ISAS)
def test_many_random_layers(isa):
    for seed in range(1000, 2500):
        run(seed, isa)


def gradient(g, x, grad, threads):
    results = torch.empty(g.out_channels, g.in_channels), torch.empty(g.out_channels, g.in_channels // g.part, 8)
    addresses = [r.data_ptr() for r in results]
    training.weight_gradient(g, x.data_ptr(), grad.data_ptr(), *addresses, training.Options(threads))
    return results


@pytest.mark.parametrize(('channels', 'part'), [(16, 4), (32, 8), (64, 1), (512, 4)])
def test_threads_change_no_bit(channels, part):
    """The largest has more weights than are summed in several shares."""
    g = training.Geometry(channels, channels, part, (3, 3), (1, 1), (1, 1), 9, 7, 5)
    x, grad = torch.randn(9, 7, 5, channels), torch.randn(9, 7, 5, channels)
    expected = gradient(g, x, grad, 1)
    for threads in (2, 3, 7):
        assert all(map(torch.equal, gradient(g, x, grad, threads), expected))


def test_an_empty_batch_has_gradients_of_zero():
    g = training.Geometry(16, 16, 4, (3, 3), (1, 1), (1, 1), 0, 7, 5)
    x = torch.empty(0)
    assert all((result == 0).all() for result in gradient(g, x, x, 2))


def test_what_it_refuses():
    g = training.Geometry(16, 16, 4, (3, 3), (2, 2), (1, 1), 1, 8, 8)
    with pytest.raises(ValueError, match='stride 1'):
        training.input_gradient(g, 1, 1, 1, 1)
    with pytest.raises(ValueError, match='Winograd needs'):
        training.forward(g, 1, 1, None, 1, 1, training.Options(algorithm='winograd2'))
    with pytest.raises(ValueError, match='part 3 must divide'):
        training.weight_gradient(g._replace(part=3), 1, 1, 1, 1)
    with pytest.raises(ValueError, match='the batch is negative'):
        training.weight_gradient(g._replace(batch=-1), 1, 1, 1, 1)
    with pytest.raises(ValueError, match='too large'):
        training.weight_gradient(g._replace(batch=1 << 60), 1, 1, 1, 1)
    with pytest.raises(ValueError, match='32 bits'):
        training.forward(g._replace(stride=(2**32 + 1,) * 2), 1, 1, None, 1, 1)
    with pytest.raises(ValueError, match='unknown instruction set'):
        training.forward(g, 1, 1, None, 1, 1, training.Options(isa='mmx'))
