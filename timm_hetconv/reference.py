"""The slow, obvious oracle: a dense convolution times the mask of the paper's figure 3.

Nothing here is shared with the fast path. The mask is written as the figure draws it, kernel by kernel, in the paper's
shifted channel order; `blocked` only sorts the channels.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['dense_mask', 'masked_conv2d']


def dense_mask(in_channels: int, out_channels: int, kernel_size, part: int, blocked: bool = True) -> Tensor:
    """Which taps of a dense K x K weight a HetConv layer has.

    Args:
        blocked: Channels in blocked order; False for the paper's shifted order, which figure 3 shows.

    Returns:
        (out_channels, in_channels, K, K) of 0 and 1.
    """
    rows, columns = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    mask = torch.zeros(out_channels, in_channels, rows, columns)
    for n in range(out_channels):
        for c in range(in_channels):
            if blocked:
                full = n // (out_channels // part) == c // (in_channels // part)
            else:
                full = n % part == c % part
            if full:
                mask[n, c] = 1  # a K x K kernel
            else:
                mask[n, c, rows // 2, columns // 2] = 1  # a 1 x 1 kernel
    return mask


def masked_conv2d(
    x: Tensor,
    dense_weight: Tensor,
    bias: Optional[Tensor],
    mask: Tensor,
    stride=1,
    padding=0,
    dilation=1,
) -> Tensor:
    """Dense convolution of (B, M, H, W) with `dense_weight * mask`, both (N, M, K, K)."""
    return F.conv2d(x, dense_weight * mask, bias, stride, padding, dilation)
