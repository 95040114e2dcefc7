"""Channel orders: the paper's shifted arrangement and the blocked one that this package computes in.

Paper, figure 3: filter n has its K x K kernels at the input channels c with c = n (mod P), shifted by one from filter
to filter. Sort input and output channels by (c mod P, c div P) and those pairs become P contiguous blocks on the
diagonal: a grouped convolution. The order depends on P and the channel count only, so a whole network can live in it,
through residual sums and squeeze-and-excitation, and nothing is shuffled at run time.
"""

import torch
from torch import Tensor

__all__ = ['blocked_order', 'blocked_to_shifted', 'shifted_to_blocked']


def blocked_order(channels: int, part: int) -> Tensor:
    """Index of the shifted channel that stands at each blocked position.

    Args:
        channels: Channel count; a multiple of `part`.
        part: The paper's P.

    Returns:
        (channels,) int64: `blocked = shifted[blocked_order(channels, part)]`.

    Raises:
        ValueError: `part` does not divide `channels`.
    """
    if part < 1 or channels % part:
        raise ValueError(f'part {part} does not divide {channels} channels')
    return torch.arange(channels).view(channels // part, part).t().reshape(-1)


def shifted_to_blocked(tensor: Tensor, part: int, dims=(0, 1)) -> Tensor:
    """Reorder channel dimensions from the paper's shifted order to blocked order.

    Args:
        tensor: Any tensor with channel dimensions: a dense weight (N, M, K, K), a bias, an activation.
        part: The paper's P.
        dims: The channel dimensions; (0, 1) for a weight, (1,) for an activation, (0,) for a bias.
    """
    for dim in dims:
        index = blocked_order(tensor.shape[dim], part).to(tensor.device)
        tensor = tensor.index_select(dim, index)
    return tensor


def blocked_to_shifted(tensor: Tensor, part: int, dims=(0, 1)) -> Tensor:
    """Reorder channel dimensions from blocked order to the paper's shifted order: undoes `shifted_to_blocked`."""
    for dim in dims:
        index = torch.argsort(blocked_order(tensor.shape[dim], part)).to(tensor.device)
        tensor = tensor.index_select(dim, index)
    return tensor
