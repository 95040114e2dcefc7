"""Planning and packing for the GPU kernel, without Triton."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.kernels.gpu import tiles
from inference.kernels.gpu.tiles import Layer

CHANNELS = st.sampled_from([1, 2, 3, 4, 8, 12, 16, 24, 32])


@st.composite
def layers(draw):
    part = draw(st.sampled_from([1, 2, 3, 4, 8]))
    kernel = draw(st.sampled_from([(3, 3), (5, 5), (1, 3), (1, 1)]))
    return Layer(part * draw(CHANNELS), part * draw(CHANNELS), part, kernel)


def dense(layer, w, w_kxk):
    """(N, M, taps + 1) with the centre last: the layer as a dense convolution, filter by filter."""
    result = np.zeros((layer.out_channels, layer.in_channels, layer.taps + 1), np.float32)
    result[:, :, -1] = w
    for n in range(layer.out_channels):
        first = n // layer.group_out * layer.group_in
        result[n, first : first + layer.group_in, :-1] = w_kxk[n]
    return result


def unpack(layer, packed, item):
    """What the kernel makes of packed weights, in the same form."""
    merged = layer.merged()
    rows, group_rows, _ = tiles.padded(merged, item)
    result = np.zeros((layer.out_channels, layer.in_channels, layer.taps + 1), np.float32)
    for n in range(layer.out_channels):
        first = n // merged.group_out * merged.group_in
        result[n, :, -1] = packed[: layer.in_channels, n]
        for tap in range(layer.taps):
            begin = rows + tap * group_rows
            result[n, first : first + merged.group_in, tap] = packed[begin : begin + merged.group_in, n]
    return result


@settings(max_examples=40, deadline=None)
@given(layers(), st.sampled_from([1, 2, 4]))
def test_packed_weights_are_the_layer(layer, item):
    random = np.random.default_rng(0)
    w = random.standard_normal((layer.out_channels, layer.in_channels)).astype(np.float32)
    w_kxk = random.standard_normal((layer.out_channels, layer.group_in, layer.taps)).astype(np.float32)
    packed = tiles.pack(layer, w, w_kxk, item)
    np.testing.assert_array_equal(unpack(layer, packed, item), dense(layer, w, w_kxk))
    assert np.count_nonzero(packed) == w.size + w_kxk.size  # and nothing where nobody looks
    assert all(size % 16 == 0 for size in packed.shape)


@settings(max_examples=40, deadline=None)
@given(layers())
def test_merged_groups_are_wide_enough_and_whole(layer):
    merged = layer.merged()
    assert layer.part % merged.part == 0
    assert min(merged.group_in, merged.group_out) >= 16 or merged.part == 1
    if min(layer.group_in, layer.group_out) >= 16 and layer.group_in % 16 == 0:
        assert merged == layer


@settings(max_examples=40, deadline=None)
@given(layers(), st.sampled_from([1, 2, 4]))
def test_tiles_cover_every_channel_once(layer, item):
    layer = layer.merged()
    for tile in tiles.candidates(layer, item):
        groups, covered = tiles.groups_per_tile(layer, tile), []
        per_group = -(-layer.group_out // tile.n)
        for index in range(tiles.tile_count(layer, tile)):  # as the kernel does
            first, part = index // per_group * groups, index % per_group * tile.n
            for lane in range(tile.n):
                n = first * layer.group_out + part + lane
                if n < layer.out_channels and part + lane < groups * layer.group_out:
                    covered.append(n)
        assert sorted(covered) == list(range(layer.out_channels))


@pytest.mark.parametrize('part', [1, 2, 4, 8])
@pytest.mark.parametrize('item', [1, 2, 4])
def test_nothing_more_is_multiplied_where_groups_fill_tiles(part, item):
    layer = Layer(512, 512, part)
    for tile in tiles.candidates(layer, item):
        assert tiles.multiplies(layer, tile, item) == tiles.unpadded_multiplies(layer)


@pytest.mark.parametrize(('channels', 'part', 'ratio'), [(64, 64, 3 / 1.125), (64, 8, 3 / 2), (128, 64, 2 / 1.125)])
def test_merging_costs_what_it_says(channels, part, ratio):
    """P64 of 64 channels is 1 + 8/64 = 1.125 of a 1x1 convolution in theory, and 1 + 8/4 = 3 in groups of 16."""
    layer = Layer(channels, channels, part)
    tile = min(tiles.candidates(layer.merged(), 2), key=lambda tile: tiles.multiplies(layer.merged(), tile, 2))
    assert tiles.multiplies(layer.merged(), tile, 2) / tiles.unpadded_multiplies(layer) == pytest.approx(ratio)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ((8, 8, 3), 'part 3 must divide'),
        ((8, 12, 8), 'part 8 must divide'),
        ((8, 8, 2, (2, 2)), 'no centre'),
        ((0, 8, 1), 'positive'),
        ((8, 8, 1, (3, 3), (0, 1)), 'positive'),
    ],
)
def test_what_is_no_layer(arguments, words):
    with pytest.raises(ValueError, match=words):
        Layer(*arguments)


@given(st.floats(width=32, allow_nan=False))
def test_tf32_is_the_nearest(value):
    rounded = tiles.to_tf32(np.array([value], np.float32))
    assert not np.any(rounded.view(np.uint32) & 0x1FFF) or not np.isfinite(value)
    if np.isfinite(rounded).all() and abs(value) > 1e-37:
        assert abs(float(rounded[0]) - value) <= abs(value) * 2.0**-11


def test_tf32_rounds_halves_to_even_and_keeps_what_is_not_finite():
    step = 2.0**-10
    values = np.array([1 + step / 2, 1 + 1.5 * step, 1 + 0.51 * step, -1 - step / 2, np.inf, -np.inf, 0], np.float32)
    expected = [1, 1 + 2 * step, 1 + step, -1, np.inf, -np.inf, 0]
    np.testing.assert_array_equal(tiles.to_tf32(values), expected)
    assert np.isnan(tiles.to_tf32(np.array([np.nan], np.float32))).all()


def test_a_tile_fits_into_shared_memory():
    for item, tile, _ in tiles.every_tile():
        assert tile.stages * tile.k * (tile.pixels + tile.n) * item <= tiles.MAX_SHARED
