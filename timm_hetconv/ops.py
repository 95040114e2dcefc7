"""The operator `hetconv::conv2d`: one HetConv layer as one node that exporters and FLOP counters see.

A HetConv layer in blocked channel order (see `order.py`) is the sum of two convolutions that share no tap:

* a dense 1x1 convolution with the centre tap of every kernel, `weight` (N, M, 1, 1);
* a convolution in P groups with the other K*K - 1 taps of the K x K kernels, `weight_kxk` (N, M/P, K*K - 1), stored in
  row-major order without the centre.

Together M*N*(K*K/P + 1 - 1/P) weights, equation (4) of the paper over D_o^2. `compose` writes that sum with standard
operators: it is what TorchScript and torch.compile see, so that they can fuse it. In eager mode and under torch.export
the same arithmetic is wrapped as one operator with a FLOP formula.
"""

from typing import Callable, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._decomp import register_decomposition
from torch.utils.flop_counter import register_flop_formula

__all__ = ['compose', 'conv2d_backward', 'grouped_kernel', 'hetconv2d']


def grouped_kernel(weight_kxk: Tensor, kernel_size: Tuple[int, int]) -> Tensor:
    """Taps without the centre, (N, M/P, K*K - 1), as the kernel of a grouped convolution with a zero centre.

    Returns:
        Tensor of shape (N, M/P, K, K).
    """
    n, m, taps = weight_kxk.shape
    half = taps // 2
    zero = weight_kxk.new_zeros((n, m, 1))
    kernel = torch.cat([weight_kxk[:, :, :half], zero, weight_kxk[:, :, half:]], dim=2)
    return kernel.view(n, m, kernel_size[0], kernel_size[1])


def _centre_offset(kernel_size: Tuple[int, int], padding: Tuple[int, int], dilation: Tuple[int, int]) -> List[int]:
    """Rows and columns from the first input pixel to the first pixel under a centre tap; negative: in the padding."""
    return [
        dilation[0] * (kernel_size[0] // 2) - padding[0],
        dilation[1] * (kernel_size[1] // 2) - padding[1],
    ]


def _crop(x: Tensor, offset: List[int]) -> Tensor:
    """Cut the border that no centre tap reaches: needed where the padding is less than 'same'."""
    if offset[0] > 0:
        x = x[:, :, offset[0] : x.shape[2] - offset[0]]
    if offset[1] > 0:
        x = x[:, :, :, offset[1] : x.shape[3] - offset[1]]
    return x


def compose(
    x: Tensor,
    weight: Tensor,
    weight_kxk: Tensor,
    bias: Optional[Tensor],
    kernel_size: Tuple[int, int],
    stride: Tuple[int, int],
    padding: Tuple[int, int],
    dilation: Tuple[int, int],
) -> Tensor:
    """HetConv from standard operators: grouped convolution + 1x1 convolution. Scriptable and differentiable.

    Args:
        x: (B, M, H, W).
        weight: (N, M, 1, 1), the centre taps of all kernels.
        weight_kxk: (N, M/P, K*K - 1), the other taps of the K x K kernels.
        bias: (N,) or None.

    Returns:
        (B, N, H', W') with H', W' as of a dense convolution of the same kernel size, stride, padding and dilation.
    """
    kernel = grouped_kernel(weight_kxk, kernel_size)
    groups = weight.shape[1] // kernel.shape[1]
    y = F.conv2d(x, kernel, bias, stride, padding, dilation, groups)
    offset = _centre_offset(kernel_size, padding, dilation)
    return y + F.conv2d(_crop(x, offset), weight, None, stride, [max(-offset[0], 0), max(-offset[1], 0)])


def _compose_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    weight_kxk: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    mask: Sequence[bool],
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `compose` to (x, weight, weight_kxk, bias); an empty tensor where `mask` says it is not needed."""
    convolution_backward = torch.ops.aten.convolution_backward
    empty = grad.new_empty((0,))
    grad_x = grad_weight = grad_kxk = grad_bias = empty
    n = weight.shape[0]
    if mask[0] or mask[2] or mask[3]:
        kernel = grouped_kernel(weight_kxk, (kernel_size[0], kernel_size[1]))
        groups = weight.shape[1] // kernel.shape[1]
        grad_x, grad_kernel, grad_bias = convolution_backward(
            grad, x, kernel, [n], stride, padding, dilation, False, [0, 0], groups, [mask[0], mask[2], mask[3]]
        )
        if mask[2]:
            taps = grad_kernel.flatten(2)
            half = taps.shape[2] // 2
            grad_kxk = torch.cat([taps[:, :, :half], taps[:, :, half + 1 :]], dim=2)
    if mask[0] or mask[1]:
        offset = _centre_offset((kernel_size[0], kernel_size[1]), (padding[0], padding[1]), (dilation[0], dilation[1]))
        grad_centre, grad_weight, _ = convolution_backward(
            grad,
            _crop(x, offset),
            weight,
            [0],
            stride,
            [max(-o, 0) for o in offset],
            [1, 1],
            False,
            [0, 0],
            1,
            [mask[0], mask[1], False],
        )
        if mask[0]:
            rows, columns = max(offset[0], 0), max(offset[1], 0)
            grad_x = grad_x + F.pad(grad_centre, [columns, columns, rows, rows])
    # A custom operator may not return one of its outputs twice, nor None.
    grads = [
        g if needed and g is not None else grad.new_empty((0,))
        for g, needed in zip((grad_x, grad_weight, grad_kxk, grad_bias), mask)
    ]
    return grads[0], grads[1], grads[2], grads[3]


@torch.library.custom_op('hetconv::conv2d', mutates_args=())
def _conv2d(
    x: Tensor,
    weight: Tensor,
    weight_kxk: Tensor,
    bias: Optional[Tensor],
    kernel_size: List[int],
    stride: List[int],
    padding: List[int],
    dilation: List[int],
) -> Tensor:
    return compose(
        x,
        weight,
        weight_kxk,
        bias,
        (kernel_size[0], kernel_size[1]),
        (stride[0], stride[1]),
        (padding[0], padding[1]),
        (dilation[0], dilation[1]),
    )


@_conv2d.register_fake
def _(x, weight, weight_kxk, bias, kernel_size, stride, padding, dilation):
    return compose(x, weight, weight_kxk, bias, kernel_size, stride, padding, dilation)


@torch.library.custom_op('hetconv::conv2d_backward', mutates_args=())
def _conv2d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    weight_kxk: Tensor,
    kernel_size: List[int],
    stride: List[int],
    padding: List[int],
    dilation: List[int],
    mask: List[bool],
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    return _compose_backward(grad, x, weight, weight_kxk, kernel_size, stride, padding, dilation, mask)


@_conv2d_backward.register_fake
def _(grad, x, weight, weight_kxk, kernel_size, stride, padding, dilation, mask):
    return _compose_backward(grad, x, weight, weight_kxk, kernel_size, stride, padding, dilation, mask)


# What `torch.onnx.export` does with the operator when it is given no translation, as by timm's onnx_export.py.
register_decomposition(torch.ops.hetconv.conv2d.default)(compose)


def _setup_context(ctx, inputs, output):
    x, weight, weight_kxk, _bias, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight, weight_kxk)


def conv2d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    weight_kxk: Tensor,
    kernel_size: List[int],
    stride: List[int],
    padding: List[int],
    dilation: List[int],
    mask: List[bool],
) -> List[Optional[Tensor]]:
    """Gradients of HetConv to (x, weight, weight_kxk, bias), from `grad` (B, N, H', W'); None where `mask` is False."""
    # With create_graph=True the gradient is differentiated again: then the composition, which autograd can follow.
    backward: Callable = _compose_backward if torch.is_grad_enabled() else torch.ops.hetconv.conv2d_backward
    grads = backward(grad, x, weight, weight_kxk, kernel_size, stride, padding, dilation, mask)
    return [g if needed else None for g, needed in zip(grads, mask)]


def _backward(ctx, grad):
    x, weight, weight_kxk = ctx.saved_tensors
    kernel_size, stride, padding, dilation = ctx.geometry
    mask = list(ctx.needs_input_grad[:4])
    grads = conv2d_backward(grad, x, weight, weight_kxk, kernel_size, stride, padding, dilation, mask)
    return *grads, None, None, None, None


_conv2d.register_autograd(_backward, setup_context=_setup_context)


def hetconv2d(
    x: Tensor,
    weight: Tensor,
    weight_kxk: Tensor,
    bias: Optional[Tensor],
    kernel_size: Tuple[int, int],
    stride: Tuple[int, int],
    padding: Tuple[int, int],
    dilation: Tuple[int, int],
) -> Tensor:
    """HetConv as the single operator `hetconv::conv2d`; arguments and result as of `compose`.

    Follows autocast as `torch.nn.functional.conv2d` does.
    """
    device_type = x.device.type
    if device_type != 'meta' and torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        x, weight, weight_kxk = x.to(dtype), weight.to(dtype), weight_kxk.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return torch.ops.hetconv.conv2d(x, weight, weight_kxk, bias, kernel_size, stride, padding, dilation)


def _macs(weight_shape: Sequence[int], kxk_shape: Sequence[int], out_shape: Sequence[int]) -> int:
    """Multiply-accumulates of one call: M*N*(1 + (K*K - 1)/P) an output pixel, which is equation (4)."""
    n, m = weight_shape[:2]
    pixels = out_shape[0] * out_shape[2] * out_shape[3]
    return pixels * n * (m + kxk_shape[1] * kxk_shape[2])


@register_flop_formula(torch.ops.hetconv.conv2d)
def _conv2d_flops(x_shape, weight_shape, kxk_shape, *args, out_shape=None, **kwargs) -> int:
    return 2 * _macs(weight_shape, kxk_shape, out_shape)


@register_flop_formula(torch.ops.hetconv.conv2d_backward)
def _conv2d_backward_flops(
    grad_shape,
    x_shape,
    weight_shape,
    kxk_shape,
    kernel_size,
    stride,
    padding,
    dilation,
    mask,
    out_shape=None,
    **kwargs,
) -> int:
    # The gradient to the input and the gradient to the weights each multiply as often as the forward pass.
    return 2 * _macs(weight_shape, kxk_shape, grad_shape) * (int(mask[0]) + int(mask[1] or mask[2]))
