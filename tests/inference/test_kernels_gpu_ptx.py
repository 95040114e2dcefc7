"""The very PTX that an engine embeds, run by an emulator, against the oracle."""

import numpy as np
import pytest

pytest.importorskip('triton', reason='Triton is not installed (PyTorch brings it on Linux)')

from gpu_cases import INF, check, make_case, run

from inference.kernels.gpu import tiles
from inference.kernels.gpu.tiles import ANY, ITEM, TILES, Layer, Tile

# Name, layer, and batch, height and width of an input. 64 pixels are a tile.
LAYERS = {
    'dense': (Layer(64, 64, 1), (1, 8, 8)),
    'dense, tail of channels': (Layer(64, 80, 1), (1, 5, 7)),
    'groups of 64': (Layer(128, 128, 2), (2, 5, 7)),
    'groups of 32': (Layer(128, 128, 4), (1, 9, 9)),
    'groups of 16': (Layer(64, 64, 4), (1, 9, 9)),
    'more groups than a tile': (Layer(80, 160, 5), (1, 7, 7)),
    'groups of a tile and a half': (Layer(64, 192, 2), (1, 7, 7)),
    'P 8 of 256': (Layer(256, 256, 8), (1, 6, 6)),
    'P 16 of 256': (Layer(256, 256, 16), (1, 6, 6)),
    'P 64 of 64, merged': (Layer(64, 64, 64), (1, 6, 6)),
    'P 64 of 128, merged': (Layer(128, 64, 64), (1, 6, 6)),
    'few channels': (Layer(3, 20, 1), (1, 7, 7)),
    'few channels in groups': (Layer(15, 21, 3), (1, 7, 7)),
    'groups that do not fill steps': (Layer(72, 40, 2), (1, 7, 7)),
    'one output channel': (Layer(48, 1, 1), (1, 7, 7)),
    'stride': (Layer(64, 64, 2, stride=(2, 2)), (2, 11, 14)),
    'stride of 3 and 1': (Layer(64, 64, 2, stride=(3, 1)), (2, 11, 10)),
    'dilation': (Layer(64, 64, 2, dilation=(2, 3)), (1, 9, 9)),
    'stride and dilation': (Layer(64, 64, 4, stride=(1, 2), dilation=(3, 2)), (3, 7, 9)),
    '5x5': (Layer(64, 64, 4, (5, 5)), (1, 8, 9)),
    '1x3': (Layer(64, 64, 4, (1, 3)), (1, 8, 9)),
    'a pixel': (Layer(64, 64, 4), (1, 1, 1)),
    'smaller than the kernel': (Layer(64, 64, 4, dilation=(2, 2)), (5, 2, 1)),
    'more blocks than run at once': (Layer(16, 16, 1), (1, 70, 64)),
}
QUICK = {  # of the precisions beside fp16
    'groups of 32', 'more groups than a tile', 'P 64 of 64, merged', 'few channels in groups', 'stride and dilation',
}  # fmt: skip
SLOW = {'P 8 of 256', 'P 64 of 128, merged', 'stride of 3 and 1', '1x3'}  # fp16's others are as good
CLAMPS = [(-INF, INF), (0.0, INF), (-3.0, 6.0)]


def check_layer(name, precision, tile, seed):
    layer, size = LAYERS[name]
    low, high = CLAMPS[seed % 3]
    check(make_case(layer, precision, size, residual=seed % 2 == 1, low=low, high=high, seed=seed), tile)


@pytest.mark.parametrize(
    ('name', 'precision'),
    [(name, p) for p in ITEM for name in LAYERS if name in QUICK or (p == 'fp16' and name not in SLOW)],
)
def test_layers(name, precision):
    item = ITEM[precision]
    tile = tiles.candidates(LAYERS[name][0].merged(), item)[0]
    check_layer(name, precision, tile, seed=list(LAYERS).index(name))


@pytest.mark.long
@pytest.mark.parametrize('precision', ITEM)
@pytest.mark.parametrize('name', LAYERS)
def test_layers_in_all_tiles(name, precision):
    choices = {*tiles.candidates(LAYERS[name][0].merged(), ITEM[precision]), ANY[ITEM[precision]]}
    for i, tile in enumerate(sorted(choices, key=str)):
        check_layer(name, precision, tile, i)


def check_tile(tile, precision, i, residual):
    """A layer of four groups in one or two tiles each, with all of stride, dilation, tails and a clamp."""
    n = 48 if i % 3 == 2 else max(tile.n // 2, 16)
    layer = Layer(4 * max(tile.k, 16), 4 * n, 4, stride=(2, 1), dilation=(1, 2))
    check(make_case(layer, precision, residual=residual, low=0.0, seed=i), tile)


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'int8'])  # bf16 is compiled as fp16 is
def test_every_tile(precision):
    for i, tile in enumerate(TILES[ITEM[precision]]):
        check_tile(tile, precision, i, residual=i % 2 == 1)


@pytest.mark.long
@pytest.mark.parametrize('precision', ITEM)
def test_every_variant(precision):
    for i, tile in enumerate((*TILES[ITEM[precision]], ANY[ITEM[precision]])):
        for residual in (False, True):
            check_tile(tile, precision, i + 1, residual)


@pytest.mark.parametrize('residual', [False, True])
def test_chw32(residual):
    layer = Layer(64, 96, 1, stride=(1, 2)) if residual else Layer(64, 64, 2, dilation=(2, 1))
    case = make_case(layer, 'int8', (2, 7, 9), residual=residual, low=0.0)
    check(case, Tile(64, 32, 32, 4, 4), channel_block=32)


@pytest.mark.long
@pytest.mark.parametrize('precision', ITEM)
def test_random_layers(precision):
    random = np.random.default_rng(len(precision))
    for seed in range(40):
        part = int(random.choice([1, 2, 3, 4, 8, 16, 64]))
        m, n = (int(random.choice([1, 2, 3, 8, 16, 24, 32, 48, 64])) for _ in range(2))
        if part * max(m, n) > 192:
            m, n = (int(random.integers(1, 4)) for _ in range(2))
        stride, dilation = (tuple(random.integers(1, 4, 2).tolist()) for _ in range(2))
        kernel = [(3, 3), (3, 3), (5, 5), (3, 1)][random.integers(4)]
        layer = Layer(part * m, part * n, part, kernel, stride, dilation)
        size = tuple(random.integers(1, [4, 12, 12]).tolist())
        low, high = CLAMPS[seed % 3]
        case = make_case(layer, precision, size, residual=bool(random.integers(2)), low=low, high=high, seed=seed)
        choices = tiles.candidates(layer.merged(), ITEM[precision])
        check(case, choices[random.integers(len(choices))])


@pytest.mark.parametrize(('channels', 'part'), [(128, 2), (256, 4)])
def test_executed_work_falls_as_the_flops_promise(channels, part):
    """Dense and HetConv in the same tile, a group or more of it a tile: 9 / (1 + 8/P) times the multiplies."""
    tile = TILES[2][0]
    work = [check(make_case(Layer(channels, channels, p), 'fp16', (1, 5, 6)), tile).multiplies for p in (1, part)]
    assert work[0] * (1 + 8 / part) == work[1] * 9


def test_fp32_operands_are_cut_to_tf32_and_not_rounded():
    """Nothing in the PTX rounds them, so the hardware leaves out 13 bits of each."""
    layer = Layer(64, 64, 2)
    tile = tiles.candidates(layer, 4)[0]
    exact = make_case(layer, 'fp32', cut=False)
    y, _ = run(exact, tile)
    error = np.abs(y - exact.expected)
    assert (error > exact.allowed).mean() > 0.5
    # Each operand loses less than 2^-10 of itself.
    products = exact.allowed / ((64 + 8 * 32 + 2) * 2.0**-24)
    assert (error <= 2 * 2.0**-10 * products).all()


def test_nan_and_infinity_come_through():
    layer = Layer(64, 64, 4)
    case = make_case(layer, 'fp16', (1, 6, 6), low=0.0, high=6.0)
    case.x[0, 0, 0, 3], case.x[0, 5, 5, 60] = np.nan, np.inf
    y, _ = run(case, tiles.candidates(layer, 2)[0])
    assert np.isnan(y[0, 0, 0]).all()  # the 1x1 kernels have every channel
    assert np.isnan(y[0, 1, 1, :16]).all()
    assert np.isin(y[0, 5, 5], (0, 6)).all()
    near = (slice(None), slice(2, 4), slice(2, 4))
    assert (np.abs(y[near].astype(np.float64) - case.expected[near]) <= case.allowed[near]).all()
