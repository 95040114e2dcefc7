"""HetConv2d, the layer of the paper, and the layers that the paper compares it with."""

import math
from typing import Tuple, Type, Union

import numpy as np
import torch
import torch.nn as nn
from timm.layers import to_2tuple
from timm.models import register_notrace_module
from torch import Tensor

from .cpu_kernel import find_kernel
from .ops import compose, grouped_kernel, hetconv2d

__all__ = ['DWCPWC2d', 'GWCPWC2d', 'HetConv2d', 'PC2d', 'same_padding']

_Size = Union[int, Tuple[int, int]]
_Padding = Union[None, int, Tuple[int, int]]


def same_padding(kernel_size: _Size, dilation: _Size = 1) -> Tuple[int, int]:
    """Padding that keeps height and width at stride 1; `kernel_size` odd."""
    (rows, columns), (row_step, column_step) = to_2tuple(kernel_size), to_2tuple(dilation)
    return row_step * (rows // 2), column_step * (columns // 2)


def _whole(name: str, value: int, least: int) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f'{name}={value!r} must be an int')
    if value < least:
        raise ValueError(f'{name}={value} must be at least {least}')
    return int(value)


def _check_channels(in_channels: int, out_channels: int) -> None:
    _whole('in_channels', in_channels, 1)
    _whole('out_channels', out_channels, 1)


def _pair(name: str, value: _Size, least: int) -> Tuple[int, int]:
    """Rows and columns, checked."""
    pair = (value, value) if isinstance(value, (int, np.integer)) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f'{name}={value!r} must be an int or a pair of ints')
    return _whole(name, pair[0], least), _whole(name, pair[1], least)


@register_notrace_module  # FX cannot follow the choice between one operator and its composition
class HetConv2d(nn.Module):
    """Heterogeneous kernel-based convolution (Singh et al., CVPR 2019, section 3 and figure 3).

    Of the M kernels of each of the N filters, M/P are K x K and the others 1 x 1. Channels are in blocked order (see
    `timm_hetconv.order`): filter n has its K x K kernels at the M/P input channels of its own of P equal blocks.

    Weights, M*N*(K*K/P + 1 - 1/P) of them, which is also the number of multiply-accumulates an output pixel
    (equation (4)); no tap is stored twice:

    * `weight` (N, M, 1, 1): the centre tap of every kernel;
    * `weight_kxk` (N, M/P, K*K - 1): the taps around the centre of the K x K kernels, row by row;
    * `bias` (N,), or None.

    Shapes: (B, M, H, W) -> (B, N, H', W'), where H' and W' are those of `nn.Conv2d` with the same arguments.

    Args:
        in_channels: M.
        out_channels: N.
        kernel_size: K, odd and more than 1; an int or a pair.
        stride: As of `nn.Conv2d`.
        padding: Zeros on each side; None for 'same', dilation * (K // 2).
        dilation: As of `nn.Conv2d`.
        part: P, which must divide M and N. 1 is a dense convolution.
        bias: Learn a bias.

    Raises:
        TypeError: A size that is no int and no pair of ints.
        ValueError: `part` does not divide the channels, or an even kernel, or one of 1 x 1, or a size below 1 (below 0
            for the padding).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size = 3,
        stride: _Size = 1,
        padding: _Padding = None,
        dilation: _Size = 1,
        part: int = 4,
        bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        _check_channels(in_channels, out_channels)
        kernel = _pair('kernel_size', kernel_size, 1)
        _whole('part', part, 1)
        if in_channels % part or out_channels % part:
            raise ValueError(
                f'part={part} must divide in_channels={in_channels} and out_channels={out_channels}; '
                f'the largest divisor of {part} that does is {math.gcd(part, in_channels, out_channels)}'
            )
        if any(k % 2 == 0 for k in kernel) or kernel == (1, 1):
            raise ValueError(
                f'kernel_size={kernel} must be odd and more than 1: the 1x1 kernels sit at the centre of the K x K'
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = _pair('stride', stride, 1)
        self.dilation = _pair('dilation', dilation, 1)
        self.padding = same_padding(kernel, self.dilation) if padding is None else _pair('padding', padding, 0)
        self.part = part

        taps = kernel[0] * kernel[1] - 1
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1, **dd))
        self.weight_kxk = nn.Parameter(torch.empty(out_channels, in_channels // part, taps, **dd))
        self.bias = nn.Parameter(torch.empty(out_channels, **dd)) if bias else None
        self.reset_parameters()

    @property
    def fan_in(self) -> int:
        """Weights of one filter: M*(K*K/P + 1 - 1/P)."""
        return self.in_channels + self.weight_kxk.shape[1] * self.weight_kxk.shape[2]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as `nn.Conv2d` does, with the fan-in of a HetConv filter."""
        bound = 1 / math.sqrt(self.fan_in)
        for parameter in self.parameters():
            parameter.uniform_(-bound, bound)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise as timm's convolutional networks do: Kaiming normal over the fan-out, bias 0."""
        fan_out = self.fan_in * self.out_channels / self.in_channels
        for weight in (self.weight, self.weight_kxk):
            weight.normal_(0, math.sqrt(2 / fan_out))
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and not torch.jit.is_tracing():  # noqa: SIM102  TorchScript compiles the rest
            if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
                operator = find_kernel(self, x) or hetconv2d
                return operator(
                    x,
                    self.weight,
                    self.weight_kxk,
                    self.bias,
                    self.kernel_size,
                    self.stride,
                    self.padding,
                    self.dilation,
                )
        return compose(
            x, self.weight, self.weight_kxk, self.bias, self.kernel_size, self.stride, self.padding, self.dilation
        )

    @torch.no_grad()
    def to_dense(self) -> nn.Conv2d:
        """The same function as a dense `nn.Conv2d` of (N, M, K, K), zeros where HetConv has no tap."""
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            bias=self.bias is not None,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        rows, columns = self.kernel_size
        n, m = self.out_channels // self.part, self.in_channels // self.part
        kernel = grouped_kernel(self.weight_kxk, self.kernel_size)
        conv.weight.zero_()
        for p in range(self.part):
            conv.weight[p * n : (p + 1) * n, p * m : (p + 1) * m] = kernel[p * n : (p + 1) * n]
        conv.weight[:, :, rows // 2, columns // 2] = self.weight[:, :, 0, 0]
        if self.bias is not None:
            conv.bias.copy_(self.bias)
        return conv.train(self.training)

    @classmethod
    @torch.no_grad()
    def from_dense(cls, conv: nn.Conv2d, part: int = 4, projection: str = 'nearest') -> 'HetConv2d':
        """A HetConv layer that starts from a dense one, channel for channel (channels count as blocked already).

        Both projections keep the K x K kernels of the diagonal blocks whole; they differ in the 1 x 1 kernels:

        * 'nearest' keeps the centre tap and drops the rest. It is the orthogonal projection, the nearest HetConv weight
          in the Frobenius norm, hence the least squared output error where neighbouring pixels are uncorrelated. It is
          the default since it also leaves a HetConv weight unchanged: `from_dense(layer.to_dense(), part)` is `layer`.
        * 'sum' puts the sum of all taps in the centre: exact where the input is constant over the kernel, as smooth
          feature maps nearly are.

        Args:
            conv: Dense convolution: groups=1, odd kernel, zero padding of a fixed size.
            part: P.
            projection: 'nearest' or 'sum'.

        Raises:
            ValueError: The convolution has no HetConv form; the message says why.
        """
        if projection not in ('nearest', 'sum'):
            raise ValueError(f"projection={projection!r} must be 'nearest' or 'sum'")
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f'from_dense takes an nn.Conv2d, not a {type(conv).__name__}')
        if conv.groups != 1 or conv.padding_mode != 'zeros' or isinstance(conv.padding, str):
            raise ValueError(f'only a dense, zero-padded convolution has a HetConv form, not {conv}')
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            to_2tuple(conv.kernel_size),
            to_2tuple(conv.stride),
            to_2tuple(conv.padding),
            to_2tuple(conv.dilation),
            part,
            conv.bias is not None,
            conv.weight.device,
            conv.weight.dtype,
        )
        rows, columns = conv.kernel_size
        n, m = conv.out_channels // part, conv.in_channels // part
        centre = conv.weight[:, :, rows // 2, columns // 2].clone()
        total = conv.weight.sum((2, 3))
        for p in range(part):
            out, inp = slice(p * n, (p + 1) * n), slice(p * m, (p + 1) * m)
            taps = conv.weight[out, inp].flatten(2)
            half = taps.shape[2] // 2
            layer.weight_kxk[out] = torch.cat([taps[:, :, :half], taps[:, :, half + 1 :]], dim=2)
            total[out, inp] = centre[out, inp]
        layer.weight.copy_((total if projection == 'sum' else centre)[:, :, None, None])
        if conv.bias is not None:
            layer.bias.copy_(conv.bias)
        return layer.train(conv.training)

    def extra_repr(self) -> str:
        return (
            f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, '
            f'padding={self.padding}, dilation={self.dilation}, part={self.part}, bias={self.bias is not None}'
        )


class GWCPWC2d(nn.Module):
    """The paper's rival GWC + PWC: a K x K convolution in groups, M -> M, then a 1 x 1 convolution, M -> N.

    M*M*K*K/groups + M*N multiply-accumulates a pixel. Norm and activation stand between the two as in MobileNet; the
    paper's parameter counts of table 1 imply that norm as well. The two stages run one after the other: latency 2 in
    the paper's figure 4, against 1 of HetConv.

    Shapes: (B, M, H, W) -> (B, N, H', W') as `nn.Conv2d`.

    Args:
        in_channels: M.
        out_channels: N.
        kernel_size: K, odd.
        stride: Of the K x K stage.
        padding: Zeros on each side; None for 'same'.
        dilation: Of the K x K stage.
        groups: G, which must divide M.
        bias: Learn a bias in the 1 x 1 stage.
        norm_layer: Norm between the stages.
        act_layer: Activation between the stages.

    Raises:
        ValueError: `groups` does not divide `in_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size = 3,
        stride: _Size = 1,
        padding: _Padding = None,
        dilation: _Size = 1,
        groups: int = 4,
        bias: bool = True,
        norm_layer: Type[nn.Module] = nn.BatchNorm2d,
        act_layer: Type[nn.Module] = nn.ReLU,
        device=None,
        dtype=None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        if groups < 1 or in_channels % groups:
            raise ValueError(f'groups={groups} must divide in_channels={in_channels}')
        padding = same_padding(kernel_size, dilation) if padding is None else padding
        self.gwc = nn.Conv2d(
            in_channels, in_channels, kernel_size, stride, padding, dilation, groups=groups, bias=False, **dd
        )
        self.norm = norm_layer(in_channels, **dd)
        self.act = act_layer(inplace=True)
        self.pwc = nn.Conv2d(in_channels, out_channels, 1, bias=bias, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.pwc(self.act(self.norm(self.gwc(x))))


class DWCPWC2d(GWCPWC2d):
    """The paper's rival DWC + PWC, MobileNet's depthwise separable convolution: GWC + PWC with groups = M."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: _Size = 3, **kwargs) -> None:
        super().__init__(in_channels, out_channels, kernel_size, groups=in_channels, **kwargs)


class PC2d(HetConv2d):
    """The paper's rival PC: HetConv at the largest P, gcd(M, N); one K x K kernel a filter where M divides N."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: _Size = 3, **kwargs) -> None:
        super().__init__(in_channels, out_channels, kernel_size, part=math.gcd(in_channels, out_channels), **kwargs)


register_notrace_module(PC2d)
