"""What the quantised kernels compute, slowly and obviously: sums as in `reference.conv2d`, which are integers and exact
in double, then the epilogue in float32, one rounding after the other."""

import numpy as np

from . import reference

__all__ = ['conv2d']


def conv2d(
    x: np.ndarray,
    w_kxk: np.ndarray,
    w: np.ndarray | None,
    scale: np.ndarray,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    *,
    low: float = -np.inf,
    high: float = np.inf,
    x_zero_point: int = 0,
    y_scale: float | None = None,
    y_zero_point: int = 0,
    z_scale: float | None = None,
    z_zero_point: int = 0,
    **shape,
) -> np.ndarray:
    """Quantised HetConv2d, or without `w` a convolution in groups.

    Args:
        x: (B, H, W, M) uint8.
        w_kxk: (N, M/part, K, K) int8.
        w: (N, M) int8.
        scale: (N,) float32, of x times those of the weights.
        bias: (N,) float32.
        residual: Of the shape of the result, uint8 or, with a z_scale of None, float32.
        low, high: Bounds of the real result.
        x_zero_point, y_scale, y_zero_point, z_scale, z_zero_point: Real is (number - zero point) * scale.
        shape: part, stride, dilation and pads of `reference.conv2d`.

    Returns:
        (B, H', W', N), uint8 or, with a y_scale of None, float32.
    """
    sums = reference.conv2d(x.astype(np.int64) - x_zero_point, w_kxk, w, **shape)
    steps = 1.0 if y_scale is None else 1 / np.float64(np.float32(y_scale))
    real = sums.astype(np.int32).astype(np.float32) * (scale.astype(np.float64) * steps).astype(np.float32)
    if bias is not None:
        real += (bias.astype(np.float64) * steps).astype(np.float32)
    if residual is not None:
        z_steps = 1.0 if z_scale is None else np.float64(np.float32(z_scale))
        real += (residual.astype(np.float32) - np.float32(z_zero_point)) * np.float32(z_steps * steps)
    if y_scale is None:
        return np.clip(real, np.float32(low), np.float32(high))
    bounds = np.clip(
        np.array([np.float32(low), np.float32(high)], np.float64) * steps, -y_zero_point, 255 - y_zero_point
    )
    return (np.rint(np.clip(real, *bounds.astype(np.float32))) + y_zero_point).astype(np.uint8)
