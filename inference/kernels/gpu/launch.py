"""Launching the kernel on tensors: on a GPU, or in Triton's interpreter with TRITON_INTERPRET=1 in the environment."""

import math
from typing import TYPE_CHECKING, Any

from .tiles import Layer, Tile, candidates, constants, is_even, tile_count

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ['hetconv', 'meta']


def meta(layer: Layer, tile: Tile, item: int, channel_block: int, precision: str) -> dict[str, Any]:
    """The kernel's constexpr parameters for a merged layer."""
    return dict(
        KERNEL_H=layer.kernel_size[0],
        KERNEL_W=layer.kernel_size[1],
        EVEN=is_even(layer, tile, item),
        CHANNEL_BLOCK=channel_block,
        BLOCK_PIXELS=tile.pixels,
        BLOCK_N=tile.n,
        BLOCK_K=tile.k,
        PRECISION=precision,
    )


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
        tile: One of `candidates`; by default the first.
        channel_block: 0 for channels last, 32 for TensorRT's CHW32.
        precision: 'tf32' or 'ieee', for float32.
    """
    from .kernel import hetconv_kernel

    item = x.element_size()
    tile = tile or candidates(layer, item)[0]
    batch, height, width = (x.shape[0], *(x.shape[2:4] if channel_block else x.shape[1:3]))
    out_height, out_width = layer.output_size(height, width)
    pixels = batch * out_height * out_width
    grid = (-(-pixels // tile.pixels) * tile_count(layer, tile),)
    hetconv_kernel[grid](
        x,
        w,
        epilogue,
        residual,
        pixels,
        height,
        width,
        out_height,
        out_width,
        *constants(layer, item, low, high).values(),
        y,
        **meta(layer, tile, item, channel_block, precision),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
