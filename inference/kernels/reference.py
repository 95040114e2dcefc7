"""What the kernels compute, slowly and obviously: in double, one loop over the filters, no algorithm at all."""

import numpy as np

__all__ = ['conv2d']


def conv2d(
    x: np.ndarray,
    w_kxk: np.ndarray,
    w: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    *,
    part: int = 1,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    low: float = -np.inf,
    high: float = np.inf,
) -> np.ndarray:
    """HetConv2d, or without `w` a convolution in `part` groups.

    Args:
        x: (B, H, W, M).
        w_kxk: (N, M/part, K, K).
        w: (N, M), the 1x1 kernels over all channels, added at the centre of the K x K; needs 'same' padding.
        bias: (N,).
        residual: Of the shape of the result, added before the clamp to [low, high].
        part, stride, dilation, pads: pads are top, left, bottom, right.

    Returns:
        (B, H', W', N), float64.
    """
    n, m, *kernel = w_kxk.shape
    padded = np.pad(x.astype(np.float64), ((0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0)))
    size = [(padded.shape[1 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    y = np.zeros((x.shape[0], *size, n))
    for i in range(n):
        group = i // (n // part)
        # The filter as a dense one: K x K kernels for its group's channels, a centre tap for every channel.
        filters = np.zeros((x.shape[3], *kernel))
        filters[group * m : (group + 1) * m] = w_kxk[i]
        if w is not None:
            filters[:, kernel[0] // 2, kernel[1] // 2] += w[i]
        for ky in range(kernel[0]):
            for kx in range(kernel[1]):
                top, left = ky * dilation[0], kx * dilation[1]
                rows = slice(top, top + (size[0] - 1) * stride[0] + 1, stride[0])
                columns = slice(left, left + (size[1] - 1) * stride[1] + 1, stride[1])
                y[..., i] += padded[:, rows, columns] @ filters[:, ky, kx]
    if bias is not None:
        y += bias
    if residual is not None:
        y += residual
    return np.clip(y, low, high)
