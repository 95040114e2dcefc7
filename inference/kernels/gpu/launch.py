"""Launching the kernel on tensors: on a GPU, or in Triton's interpreter with TRITON_INTERPRET=1 in the environment."""

import functools
import math
import os
from typing import TYPE_CHECKING, Any

from .tiles import Layer, Tile, candidates, constants, every_tile, is_even, tile_count

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ['hetconv']


def _blocks(tile: Tile) -> dict[str, int]:
    return dict(BLOCK_PIXELS=tile.pixels, BLOCK_N=tile.n, BLOCK_K=tile.k)


@functools.cache
def _autotuned() -> Any:
    """The kernel with Triton's autotuner, which measures the candidates of a layer and keeps the fastest."""
    import triton

    from .kernel import hetconv_kernel

    tiles = dict.fromkeys(tile for _, tile, _ in every_tile())  # each once
    configs = [triton.Config(_blocks(tile), num_warps=tile.warps, num_stages=tile.stages) for tile in tiles]

    def prune(configs: list[Any], arguments: dict[str, Any], **fixed: Any) -> list[Any]:
        part = arguments['in_channels'] // arguments['group_in']
        layer = Layer(arguments['in_channels'], arguments['out_channels'], part, (fixed['KERNEL_H'], fixed['KERNEL_W']))
        fitting = candidates(layer, arguments['x_ptr'].element_size())
        return [config for config, tile in zip(configs, tiles) if tile in fitting]

    key = [
        'pixels',
        'height',
        'width',
        'in_channels',
        'out_channels',
        'group_in',
        'stride_h',
        'stride_w',
        'KERNEL_H',
        'KERNEL_W',
    ]
    return triton.autotune(configs, key=key, prune_configs_by={'early_config_prune': prune})(hetconv_kernel)


def hetconv(
    layer: Layer,
    x: 'Tensor',
    w: 'Tensor',
    epilogue: 'Tensor',
    residual: 'Tensor | None' = None,
    *,
    y: 'Tensor',
    low: float = -math.inf,
    high: float = math.inf,
    tile: Tile | None = None,
    channel_block: int = 0,
    precision: str = 'tf32',
) -> None:
    """Compute a layer.

    Args:
        layer: Merged.
        x: (B, H, W, M), contiguous, float32, float16, bfloat16 or int8; with `channel_block` (B, M/32, H, W, 32).
        w: What `tiles.pack` gave, of x's type.
        epilogue: float32 (1, N): the bias; for int8 (3, N): scales of the sum, bias, scales of the residual.
        residual: Of y's shape and type; added before the clamp.
        y: Output, contiguous; written.
        low, high: The clamp.
        tile: One of `candidates`; by default the fastest on this GPU, in the interpreter the first.
        channel_block: 0 for channels last, 32 for TensorRT's CHW32.
        precision: 'tf32' or 'ieee', for float32.
    """
    item = x.element_size()
    if tile is None and os.environ.get('TRITON_INTERPRET') == '1':
        tile = candidates(layer, item)[0]
    batch, height, width = (x.shape[0], *(x.shape[2:4] if channel_block else x.shape[1:3]))
    out_height, out_width = layer.output_size(height, width)
    pixels = batch * out_height * out_width
    arguments = (
        x, w, epilogue, residual,
        pixels, height, width, out_height, out_width, *constants(layer, item, low, high).values(),
        y,
    )  # fmt: skip
    fixed = dict(
        KERNEL_H=layer.kernel_size[0],
        KERNEL_W=layer.kernel_size[1],
        EVEN=is_even(layer, tile or candidates(layer, item)[0], item),  # all candidates are, or none is
        CHANNEL_BLOCK=channel_block,
        PRECISION=precision,
    )
    if tile is None:

        def grid(blocks: dict[str, Any]) -> tuple[int]:
            sizes = (blocks['BLOCK_PIXELS'], blocks['BLOCK_N'], blocks['BLOCK_K'])
            return (_programs(layer, Tile(*sizes, 0, 0), pixels),)

        _autotuned()[grid](*arguments, **fixed)
        return
    from .kernel import hetconv_kernel

    hetconv_kernel[(_programs(layer, tile, pixels),)](
        *arguments, **fixed, **_blocks(tile), num_warps=tile.warps, num_stages=tile.stages
    )


def _programs(layer: Layer, tile: Tile, pixels: int) -> int:
    return -(-pixels // tile.pixels) * tile_count(layer, tile)
