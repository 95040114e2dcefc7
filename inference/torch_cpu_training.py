"""The CPU kernels in training: HetConv with gradients, in eager PyTorch, float32 and channels_last.

The forward pass and, at stride 1, the gradient to the input are one pass each over memory, instead of a grouped
convolution, a 1x1 convolution and their sum; the gradient to the weights multiplies only where there are weights.
Weights are packed anew for each call, as an optimizer changes them. What the kernels cannot do, PyTorch's own operators
do: the gradient to the input at other strides, gradients of gradients, and gradients under a mode or a transform.
"""

import torch
from torch import Tensor

from timm_hetconv.cpu_kernel import is_recording
from timm_hetconv.ops import conv2d_backward

from .kernels.cpu.training import Geometry, Options, check_library, forward, input_gradient, weight_gradient
from .torch_cpu_threads import OPENMP

__all__ = ['differentiable_conv2d']

check_library()


def _options() -> Options:
    return Options(torch.get_num_threads(), OPENMP)


def _nhwc(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _dense(weight: Tensor) -> Tensor:
    """(N, M, 1, 1) with its M numbers side by side, as a parameter has them in either format."""
    return weight if weight.stride()[:2] == (weight.shape[1], 1) else weight.contiguous()


def _has_memory(tensor: Tensor) -> bool:
    """Whether its numbers lie at an address: not those of a subclass or of `is_grads_batched`."""
    return type(tensor) is Tensor and torch._C._has_storage(tensor) and tensor.layout is torch.strided


class _HetConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, weight_kxk, bias, kernel_size, stride, padding, dilation):
        batch, in_channels, *size = x.shape
        out_channels, part = weight.shape[0], in_channels // weight_kxk.shape[1]
        geometry = Geometry(
            in_channels, out_channels, part, tuple(kernel_size), tuple(stride), tuple(dilation), batch, *size
        )
        x, weight, weight_kxk = _nhwc(x), _dense(weight), weight_kxk.contiguous()
        bias = None if bias is None else bias.contiguous()
        out_size = [(n - 1) // s + 1 for n, s in zip(size, stride)]  # 'same' padding
        y = torch.empty(
            [batch, out_channels, *out_size], dtype=x.dtype, device=x.device, memory_format=torch.channels_last
        )
        forward(
            geometry,
            weight.data_ptr(),
            weight_kxk.data_ptr(),
            None if bias is None else bias.data_ptr(),
            x.data_ptr(),
            y.data_ptr(),
            _options(),
        )
        ctx.save_for_backward(x, weight, weight_kxk)
        ctx.geometry = geometry
        ctx.pairs = list(kernel_size), list(stride), list(padding), list(dilation)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, weight_kxk = ctx.saved_tensors
        kernel_size, stride, padding, dilation = ctx.pairs
        needed = list(ctx.needs_input_grad[:4])
        if torch.is_grad_enabled() or is_recording() or not _has_memory(grad):
            grads = conv2d_backward(grad, x, weight, weight_kxk, kernel_size, stride, padding, dilation, needed)
            return *grads, None, None, None, None
        g = ctx.geometry
        grad = _nhwc(grad)
        grad_x = grad_weight = grad_kxk = grad_bias = None
        if needed[0] and g.stride == (1, 1):
            grad_x = torch.empty_like(x)
            input_gradient(g, weight.data_ptr(), weight_kxk.data_ptr(), grad.data_ptr(), grad_x.data_ptr(), _options())
        elif needed[0]:
            mask = [True, False, False, False]
            grad_x = conv2d_backward(grad, x, weight, weight_kxk, kernel_size, stride, padding, dilation, mask)[0]
        if needed[1] or needed[2]:
            grad_weight, grad_kxk = torch.empty_like(weight), torch.empty_like(weight_kxk)
            weight_gradient(g, x.data_ptr(), grad.data_ptr(), grad_weight.data_ptr(), grad_kxk.data_ptr(), _options())
        if needed[3]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_kxk, grad_bias, None, None, None, None


def differentiable_conv2d(
    x: Tensor, weight: Tensor, weight_kxk: Tensor, bias: Tensor | None, kernel_size, stride, padding, dilation
) -> Tensor:
    """HetConv whose result has a gradient; arguments and result as of `timm_hetconv.ops.hetconv2d`, 'same' padding,
    float32. The result is in channels_last.

    Raises:
        ValueError: Shapes that do not fit, another type, other padding, or sizes that make no sense.
    """
    tensors = [x, weight, weight_kxk] if bias is None else [x, weight, weight_kxk, bias]
    if any(t.dtype is not torch.float32 for t in tensors):
        raise ValueError('the CPU kernels take float32')
    n, m = weight.shape[:2]
    taps = kernel_size[0] * kernel_size[1] - 1
    fits = x.dim() == 4 and x.shape[1] == m and weight_kxk.shape[::2] == (n, taps) and not m % weight_kxk.shape[1]
    if not fits or (bias is not None and bias.shape != (n,)):
        shapes = ', '.join(str(tuple(t.shape)) for t in tensors)
        raise ValueError(f'shapes do not fit: {shapes}')
    if any(p != d * (k // 2) for p, d, k in zip(padding, dilation, kernel_size)):
        raise ValueError("the CPU kernels take 'same' padding")
    return _HetConv.apply(x, weight, weight_kxk, bias, kernel_size, stride, padding, dilation)
