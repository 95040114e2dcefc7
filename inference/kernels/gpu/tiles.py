"""How a HetConv layer is cut into tiles for the GPU kernel, and its weights packed for it. Needs no Triton and no GPU.

A tensor core multiplies 16 channels or more at a time. A layer whose groups have fewer is computed as one of fewer
groups (`Layer.merged`), whose weights have zeros where two channels are in different groups of the original: more is
multiplied than the paper counts, and `multiplies` says how much.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = [
    'ITEM', 'MAX_SHARED', 'Layer', 'Tile', 'candidates', 'constants', 'is_even', 'multiplies', 'pack', 'tile_count',
    'to_tf32', 'unpadded_multiplies',
]  # fmt: skip

ITEM = {'fp32': 4, 'fp16': 2, 'bf16': 2, 'int8': 1}  # bytes a value
MAX_SHARED = 48 * 1024  # bytes that a kernel has without asking for more, which a TensorRT plugin's cannot
LEAST = 16  # channels of a group, in and out
MAX_ELEMENTS = 2**31 - 1  # of a tensor: offsets have 32 bits


@dataclass(frozen=True)
class Layer:
    """A layer as the kernel sees it, with 'same' padding; `part` is P.

    Attributes:
        in_channels, out_channels: M and N.
        part: Groups of the taps beside the centre.
        kernel_size, stride, dilation: Height and width.
    """

    in_channels: int
    out_channels: int
    part: int
    kernel_size: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        sizes = (self.in_channels, self.out_channels, self.part, *self.kernel_size, *self.stride, *self.dilation)
        if min(sizes) < 1:
            raise ValueError(f'sizes must be positive: {self}')
        if self.in_channels % self.part or self.out_channels % self.part:
            raise ValueError(f'part {self.part} must divide {self.in_channels} and {self.out_channels}')
        if not all(k % 2 for k in self.kernel_size):
            raise ValueError(f'kernel_size {self.kernel_size} has no centre: it must be odd')

    @property
    def group_in(self) -> int:
        """Input channels of a group, M/P."""
        return self.in_channels // self.part

    @property
    def group_out(self) -> int:
        """Output channels of a group, N/P."""
        return self.out_channels // self.part

    @property
    def taps(self) -> int:
        """Taps of a kernel beside its centre, K*K - 1."""
        return self.kernel_size[0] * self.kernel_size[1] - 1

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output."""
        return (height - 1) // self.stride[0] + 1, (width - 1) // self.stride[1] + 1

    def merged(self) -> 'Layer':
        """The same layer in fewer groups, such that each has at least 16 channels in and out, where there are so many.

        Among the divisors of P, the most groups whose padded channels are fewest.
        """
        choices = [dataclasses.replace(self, part=part) for part in range(1, self.part + 1) if self.part % part == 0]
        wide = [c for c in choices if min(c.group_in, c.group_out) >= LEAST] or choices[:1]
        return min(wide, key=lambda c: (_pad(c.group_in, LEAST), -c.part))


@dataclass(frozen=True)
class Tile:
    """What a program makes: block sizes, and how it is compiled.

    Attributes:
        pixels: Output pixels.
        n: Output channels.
        k: Input channels a step.
        warps, stages: Triton's num_warps and num_stages.
    """

    pixels: int
    n: int
    k: int
    warps: int
    stages: int


# What autotuning picks from, by bytes a value; the first that fits is the one without tuning. Their buffers,
# stages * k * (pixels + n) values, are 48 KiB at most.
TILES = {
    2: (
        Tile(64, 64, 64, 4, 3),
        Tile(128, 64, 32, 8, 4),
        Tile(64, 64, 32, 4, 4),
        Tile(64, 32, 32, 4, 4),
        Tile(128, 64, 16, 8, 4),
        Tile(64, 64, 16, 4, 4),
        Tile(64, 16, 16, 4, 4),
    ),
    4: (
        Tile(64, 64, 32, 4, 3),
        Tile(128, 64, 16, 8, 4),
        Tile(64, 64, 16, 4, 4),
        Tile(64, 16, 16, 4, 4),
    ),
    1: (
        Tile(64, 64, 64, 4, 4),
        Tile(64, 64, 32, 4, 4),
        Tile(64, 32, 32, 4, 4),
    ),
}
ANY = {2: Tile(64, 32, 16, 4, 2), 4: Tile(64, 32, 16, 4, 2), 1: Tile(64, 32, 32, 4, 2)}  # for what is not even


def _pad(value: int, block: int) -> int:
    return -(-value // block) * block


def _least(item: int) -> int:
    return 32 if item == 1 else 16  # a tensor core's K of 8-bit integers is 32


def padded(layer: Layer, item: int) -> tuple[int, int, int]:
    """Rows of the packed weights for the 1x1 kernels, rows for a tap, and columns."""
    least = _least(item)
    return _pad(layer.in_channels, least), _pad(layer.group_in, least), _pad(layer.out_channels, 16)


def is_even(layer: Layer, tile: Tile, item: int) -> bool:
    """Whether all of the layer's channels fill the tile's steps, and its groups 16 lanes: then little is masked."""
    return (
        layer.in_channels % tile.k == 0
        and layer.group_in % tile.k == 0
        and layer.group_out % 16 == 0
        and padded(layer, item) == (layer.in_channels, layer.group_in, layer.out_channels)
    )


def groups_per_tile(layer: Layer, tile: Tile) -> int:
    """Whole groups that a tile has; 1 where a group fills it."""
    return max(1, min(tile.n // layer.group_out, layer.part))


def tile_count(layer: Layer, tile: Tile) -> int:
    """Tiles that the output channels are cut into."""
    groups = groups_per_tile(layer, tile)
    return -(-layer.part // groups) * -(-layer.group_out // tile.n)


def candidates(layer: Layer, item: int) -> tuple[Tile, ...]:
    """Tiles that a layer can be computed with, the default first; `item` is bytes a value.

    `layer` is as `Layer.merged` gives it.
    """
    fitting = [tile for tile in TILES[item] if is_even(layer, tile, item)]
    useful = [tile for tile in fitting if tile.n <= max(_pad(layer.out_channels, 16), 16)]
    return tuple(useful or fitting) or (ANY[item],)


def unpadded_multiplies(layer: Layer) -> int:
    """Multiplies a pixel as the paper counts them: N * (M + (K*K - 1) * M/P)."""
    return layer.out_channels * (layer.in_channels + layer.taps * layer.group_in)


def multiplies(layer: Layer, tile: Tile, item: int) -> int:
    """Multiplies a pixel that the tensor cores do for a (merged) layer: padding and zeros of other groups included."""
    rows, group_rows, _ = padded(layer, item)
    steps = rows + layer.taps * groups_per_tile(layer, tile) * group_rows
    return tile_count(layer, tile) * tile.n * steps


def constants(layer: Layer, item: int, low: float, high: float) -> dict[str, int]:
    """Integers that the kernel takes after `pixels`, `height`, `width`, `out_height` and `out_width`, in its order.

    Args:
        layer: Merged.
        low, high: The clamp; infinite for none.
    """
    rows, group_rows, columns = padded(layer, item)
    # The usual bounds, none, 0 and 6, are positive numbers so: TensorRT's expressions were made for sizes.
    low_bits, high_bits = (np.array([-low, high], np.float32) + np.float32(0)).view(np.int32).tolist()
    return dict(
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        group_in=layer.group_in,
        group_out=layer.group_out,
        pad_in=rows,
        pad_group=group_rows,
        columns=columns,
        stride_h=layer.stride[0],
        stride_w=layer.stride[1],
        dilation_h=layer.dilation[0],
        dilation_w=layer.dilation[1],
        minus_low=low_bits,
        high=high_bits,
    )


def _merge(layer: Layer, merged: Layer, w_kxk: np.ndarray) -> np.ndarray:
    """(N, M/P, taps) of `layer` -> (N, M/P', taps) of `merged`, with zeros between its groups."""
    wide = np.zeros((layer.out_channels, merged.group_in, layer.taps), w_kxk.dtype)
    for n in range(layer.out_channels):
        begin = n // layer.group_out * layer.group_in % merged.group_in
        wide[n, begin : begin + layer.group_in] = w_kxk[n]
    return wide


def pack(layer: Layer, w: np.ndarray, w_kxk: np.ndarray, item: int) -> np.ndarray:
    """Weights as the kernel reads them, whatever its tile.

    Args:
        layer: Not merged.
        w: (N, M), the 1x1 kernels.
        w_kxk: (N, M/P, K*K - 1), the other taps.
        item: Bytes a value.

    Returns:
        (rows, columns): first a row an input channel for the 1x1 kernels, then, tap by tap, a row an input channel of a
        group of `layer.merged()`; a column an output channel. Padded with zeros.
    """
    merged = layer.merged()
    rows, group_rows, columns = padded(merged, item)
    packed = np.zeros((rows + layer.taps * group_rows, columns), w.dtype)
    packed[: layer.in_channels, : layer.out_channels] = w.T
    taps = packed[rows:].reshape(layer.taps, group_rows, columns)
    taps[:, : merged.group_in, : layer.out_channels] = _merge(layer, merged, w_kxk).transpose(2, 1, 0)
    return packed


def to_tf32(values: np.ndarray) -> np.ndarray:
    """float32 rounded to the 10 bits that tensor cores keep of a fraction, to the nearest: they cut the others off.

    For weights this halves the error of cutting, and costs nothing when the kernel runs.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)


def every_tile() -> Iterator[tuple[int, Tile, bool]]:
    """Bytes a value, tile, and whether it is for even layers: all that there is to compile."""
    for item, tiles in TILES.items():
        yield from ((item, tile, True) for tile in tiles)
        yield item, ANY[item], False
