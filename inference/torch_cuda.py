"""The fused GPU kernel in PyTorch, eager and compiled: `fuse(model)`, inference only.

    model = timm.create_model('hetconv_resnet34_p4').eval().half().cuda().to(memory_format=torch.channels_last)
    model = fuse(model)

Every HetConv2d becomes a `FusedHetConv2d`, which holds the weights as the kernel reads them, as they were when it was
made. It calls the operator `hetconv::fused_conv2d`, which torch.compile keeps as it is; its tile is chosen by Triton's
autotuner, once for each layer and number of pixels: give it batches of few sizes.
"""

import copy
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from timm_hetconv import HetConv2d

from .errors import UserError
from .kernels.gpu.launch import hetconv
from .kernels.gpu.tiles import MAX_ELEMENTS, Layer, pack, to_tf32

__all__ = ['FusedHetConv2d', 'fuse']

TYPES = (torch.float32, torch.float16, torch.bfloat16)


def _layer(in_channels: int, out_channels: int, geometry: list[int]) -> Layer:
    part, *sizes = geometry
    kernel, stride, dilation = ((sizes[i], sizes[i + 1]) for i in (0, 2, 4))
    return Layer(in_channels, out_channels, part, kernel, stride, dilation)


def _empty(x: Tensor, bias: Tensor, geometry: list[int]) -> Tensor:
    layer = _layer(x.shape[1], bias.shape[0], geometry)
    size = [x.shape[0], layer.out_channels, *layer.output_size(x.shape[2], x.shape[3])]
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _check(x: Tensor, packed: Tensor, bias: Tensor, geometry: list[int]) -> None:
    if x.dtype not in TYPES or packed.dtype is not x.dtype or bias.dtype is not torch.float32:
        raise ValueError(f'hetconv::fused_conv2d takes weights of the type of x and a float32 bias, not {packed.dtype}')
    if x.dim() != 4 or x.numel() > MAX_ELEMENTS:
        raise ValueError(f'an input of shape {tuple(x.shape)} is no (B, M, H, W) of less than 2^31 values')
    if not x.is_cuda and os.environ.get('TRITON_INTERPRET') != '1':
        raise RuntimeError(f'hetconv::fused_conv2d runs on CUDA, and x is on {x.device}')


@torch.library.custom_op('hetconv::fused_conv2d', mutates_args=())
def fused_conv2d(x: Tensor, packed: Tensor, bias: Tensor, geometry: list[int]) -> Tensor:
    """A HetConv layer with 'same' padding.

    Args:
        x: (B, M, H, W), made channels_last where it is not.
        packed: Of `tiles.pack`, x's type.
        bias: (N,), float32.
        geometry: part, kernel_size, stride and dilation: seven numbers.

    Returns:
        (B, N, H', W'), channels_last.
    """
    _check(x, packed, bias, geometry)
    y = _empty(x, bias, geometry)
    if y.numel() > MAX_ELEMENTS:
        raise ValueError(f'an output of shape {tuple(y.shape)} has 2^31 values or more: take a smaller batch')
    if y.numel():
        layer = _layer(x.shape[1], bias.shape[0], geometry).merged()
        nhwc = x.permute(0, 2, 3, 1).contiguous()
        hetconv(layer, nhwc, packed, bias.view(1, -1), y=y.permute(0, 2, 3, 1))
    return y


@fused_conv2d.register_fake
def _(x, packed, bias, geometry):
    return _empty(x, bias, geometry)


@register_flop_formula(torch.ops.hetconv.fused_conv2d)
def _flops(x_shape, packed_shape, bias_shape, geometry, out_shape=None, **_: Any) -> int:
    layer = _layer(x_shape[1], bias_shape[0], geometry)
    pixels = out_shape[0] * out_shape[2] * out_shape[3]
    return 2 * pixels * layer.out_channels * (layer.in_channels + layer.taps * layer.group_in)


class FusedHetConv2d(nn.Module):
    """A HetConv2d for inference, whose weights are packed for the GPU kernel.

    Args:
        layer: With 'same' padding; its weights are copied, in their type (float32, float16, bfloat16).

    Raises:
        UserError: Another padding or type.
    """

    def __init__(self, layer: HetConv2d) -> None:
        super().__init__()
        weight, taps = layer.weight.detach(), layer.weight_kxk.detach()
        padding = tuple(d * (k // 2) for d, k in zip(layer.dilation, layer.kernel_size))
        if tuple(layer.padding) != padding:
            raise UserError(f"the GPU kernel has 'same' padding {padding} only, not {tuple(layer.padding)}")
        if weight.dtype not in TYPES:
            raise UserError(f'the GPU kernel computes in float32, float16 and bfloat16, not in {weight.dtype}')
        n, m = weight.shape[:2]
        self.geometry = [m // taps.shape[1], *layer.kernel_size, *layer.stride, *layer.dilation]
        # float32 holds the half types' values; NumPy has no bfloat16.
        w, w_kxk = (tensor.float().cpu().numpy() for tensor in (weight.reshape(n, m), taps))
        packed = pack(_layer(m, n, self.geometry), w, w_kxk, weight.element_size())
        if weight.dtype is torch.float32:
            packed = to_tf32(packed)
        self.register_buffer('packed', torch.from_numpy(packed).to(weight.device, weight.dtype))
        bias = torch.zeros(n) if layer.bias is None else layer.bias.detach()
        self.register_buffer('bias', bias.to(weight.device, torch.float32, copy=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, H, W) -> (B, N, H', W')."""
        return torch.ops.hetconv.fused_conv2d(x, self.packed, self.bias, self.geometry)


def fuse(model: nn.Module) -> nn.Module:
    """A copy of a model in eval mode whose HetConv layers run on the GPU kernel.

    Raises:
        UserError: The model is in training mode, has no HetConv layer, or one that the kernel does not take.
    """
    if model.training:
        raise UserError('fuse() is for inference: call model.eval() first')
    fused = copy.deepcopy(model)
    layers = [(name, module) for name, module in fused.named_modules() if isinstance(module, HetConv2d)]
    if not layers:
        raise UserError('the model has no HetConv2d layer to fuse')
    for name, layer in layers:
        packed = FusedHetConv2d(layer).eval()
        if not name:  # the model is the layer
            return packed
        fused.set_submodule(name, packed)
    return fused
