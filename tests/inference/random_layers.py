"""Random layers on the Triton kernel beside the oracle: in Triton's interpreter, or on a GPU."""

import random

import numpy as np
import torch

from inference.kernels.gpu.launch import hetconv
from inference.kernels.gpu.tiles import ITEM, Layer, candidates, pack
from inference.kernels.reference import conv2d

DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16, 'int8': torch.int8}
INF = float('inf')


def array(tensor):
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def draw_layer(draw, precision):
    part = draw.choice([1, 2, 3, 4, 8, 16, 64])
    m, n = draw.choice([1, 2, 3, 4, 8, 16, 24, 32]), draw.choice([1, 2, 3, 4, 8, 16, 24, 32])
    if part * max(m, n) > 128:
        m, n = (draw.choice([1, 2]) for _ in range(2))
    if precision == 'int8' and draw.random() < 0.5:  # what CHW32 takes
        part, m, n = draw.choice([(1, 32, 64), (2, 32, 32), (1, 64, 32)])
    return Layer(
        part * m, part * n, part,
        draw.choice([(3, 3), (3, 3), (3, 3), (5, 5), (1, 3), (3, 1), (7, 7), (1, 1)]),
        draw.choice([(1, 1), (2, 2), (1, 2)]),
        draw.choice([(1, 1), (1, 1), (2, 1)]),
    )  # fmt: skip


def values(generator, shape, precision, spread=9):
    if precision == 'int8':
        return torch.randint(-spread, spread + 1, shape, generator=generator, dtype=torch.int8)
    return torch.randn(shape, generator=generator).to(DTYPES[precision])


def blocked(x):
    """(B, H, W, C) -> (B, C/32, H, W, 32), TensorRT's CHW32."""
    b, h, w, c = x.shape
    return x.view(b, h, w, c // 32, 32).permute(0, 3, 1, 2, 4).contiguous()


def run(seed, device='cpu', tf32=False):
    """Compute a random layer, and compare.

    Args:
        seed: Of the layer and its values.
        device: Where; 'cpu' is the interpreter.
        tf32: Whether float32 is multiplied in TF32.

    Returns:
        What it was, its error, and whether anything outside the output was written.
    """
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    precision = draw.choice(list(ITEM))
    layer = draw_layer(draw, precision)
    merged, item = layer.merged(), ITEM[precision]
    batch, height, width = draw.randint(1, 2), draw.randint(1, 6), draw.randint(1, 6)
    tile = draw.choice(candidates(merged, item))
    size = (batch, *layer.output_size(height, width), layer.out_channels)
    x = values(generator, (batch, height, width, layer.in_channels), precision)
    w = values(generator, (layer.out_channels, layer.in_channels), precision)
    w_kxk = values(generator, (layer.out_channels, layer.group_in, layer.taps), precision)
    residual = values(generator, size, precision, 99) if draw.random() < 0.5 else None
    low, high = draw.choice([(-INF, INF), (0.0, INF), (0.0, 6.0), (-1.0, 1.0)])
    epilogue = torch.randn(3 if precision == 'int8' else 1, layer.out_channels, generator=generator)
    if precision == 'int8':
        epilogue[[0, 2]] = epilogue[[0, 2]].abs() * 0.1
    blocks = merged.in_channels % 32 == 0 and merged.group_in % 32 == 0 and layer.out_channels % 32 == 0
    channel_block = 32 if precision == 'int8' and tile.k == 32 and blocks and draw.random() < 0.7 else 0
    layout = blocked if channel_block else lambda tensor: tensor

    poison = -77 if precision == 'int8' else float('nan')
    memory = torch.full((int(np.prod(size)) + 128,), poison).to(DTYPES[precision])
    memory = memory.to(device)
    y = memory[64:-64].view(layout(torch.empty(size)).shape)
    hetconv(
        merged,
        layout(x).to(device),
        torch.from_numpy(pack(layer, array(w), array(w_kxk), item)).to(device, DTYPES[precision]),
        epilogue.to(device),
        None if residual is None else layout(residual).to(device),
        y=y,
        low=low,
        high=high,
        tile=tile,
        channel_block=channel_block,
        precision='tf32' if tf32 else 'ieee',
    )
    y, memory = y.cpu(), memory.cpu()
    if channel_block:
        y = y.permute(0, 2, 3, 1, 4).reshape(size)

    half, kernel = layer.taps // 2, np.zeros((layer.out_channels, layer.group_in, layer.taps + 1))
    kernel[:, :, :half], kernel[:, :, half + 1 :] = array(w_kxk)[:, :, :half], array(w_kxk)[:, :, half:]
    same = [d * (k // 2) for d, k in zip(layer.dilation, layer.kernel_size)]
    expected = conv2d(
        array(x), kernel.reshape(*kernel.shape[:2], *layer.kernel_size), array(w).astype(np.float64),
        part=layer.part, stride=layer.stride, dilation=layer.dilation, pads=(*same, *same),
    )  # fmt: skip
    added = 0 if residual is None else array(residual).astype(np.float64)
    scale = epilogue.double().numpy()
    largest = np.abs(expected + (0 if precision == 'int8' else scale[0] + added)).max()  # before the clamp
    if precision == 'int8':
        expected = np.clip(expected * scale[0] + scale[1] + added * scale[2], low, high)
        expected = np.clip(np.round(expected), -128, 127)
    else:
        expected = np.clip(expected + scale[0] + added, low, high)
    difference = np.abs(array(y).astype(np.float64) - expected).max()
    outside = torch.cat([memory[:64], memory[-64:]])
    return dict(
        seed=seed,
        precision=precision,
        layer=str(layer),
        merged=merged.part,
        tile=str(tile),
        channel_block=channel_block,
        residual=residual is not None,
        # In steps of 8 bits, or relative to the largest value. Not finite where a poisoned value was left.
        error=float(difference if precision == 'int8' else difference / max(largest, 1e-3)),
        untouched=bool((outside == poison).all() if precision == 'int8' else outside.isnan().all()),
    )
