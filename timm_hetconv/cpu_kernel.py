"""The compiled CPU kernel, where one is installed, and when HetConv2d takes it.

This package is pure Python and imports nothing of what stands above it. A kernel announces itself by an entry point of
the group `timm_hetconv.kernels` with the name `cpu`: a function with the arguments and the result of `ops.hetconv2d`,
gradients included, which raises when it is loaded if it cannot run here.
"""

import functools
import importlib.metadata
import os
from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor, nn

__all__ = ['find_kernel', 'is_recording', 'set_cpu_kernel', 'use_cpu_kernel']

_USE_CPU_KERNEL = os.environ.get('HETCONV_CPU_KERNEL', '1').lower() not in ('0', 'false', 'no', 'off')


def use_cpu_kernel() -> bool:
    """Whether HetConv2d may take the compiled CPU kernel."""
    return _USE_CPU_KERNEL


def set_cpu_kernel(enable: bool = True) -> None:
    """Let HetConv2d take the compiled CPU kernel, or keep it to PyTorch's own operators.

    The environment variable HETCONV_CPU_KERNEL=0 is the same as `set_cpu_kernel(False)` at the start.
    """
    global _USE_CPU_KERNEL
    _USE_CPU_KERNEL = enable


@functools.cache
def _load() -> Optional[Callable[..., Tensor]]:
    for entry in importlib.metadata.entry_points(group='timm_hetconv.kernels', name='cpu'):
        try:
            return entry.load()
        except Exception:  # not built, or broken: PyTorch's own operators do the same
            continue
    return None


def _is_plain(tensor: Tensor, kinds: Tuple[type, ...]) -> bool:
    return type(tensor) in kinds and tensor.is_cpu and tensor.dtype is torch.float32 and tensor.layout is torch.strided


def is_recording() -> bool:
    """Whether anything looks at operators as they run, or stands in for them: a compiler, a mode, a transform."""
    try:
        return (
            torch.compiler.is_compiling()  # of which exporting is a part
            or torch.is_autocast_enabled('cpu')
            or torch._C._len_torch_dispatch_stack() > 0
            or torch._C._functorch.peek_interpreter_stack() is not None
            or torch.autograd.forward_ad._current_level >= 0
        )
    except AttributeError:  # a PyTorch that tells it in another way: then its own operators, which always do
        return True


def find_kernel(layer: Any, x: Tensor) -> Optional[Callable[..., Tensor]]:
    """The kernel, if it is there and is for this call of a HetConv2d; None for PyTorch's own operators.

    It is for float32 on a CPU with 'same' padding and x in channels_last, where nothing records (see `is_recording`):

    * for inference in eval, when weights are packed once and must be parameters: what is computed anew for each call,
      as by torch.nn.utils.parametrize, would be packed anew for each call;
    * for training, where a gradient is asked for: weights are packed for each call, and may be any tensors.
    """
    if not _USE_CPU_KERNEL or not _is_plain(x, (Tensor,)) or is_recording():
        return None
    # Of one channel or one pixel it cannot be told which format it has: PyTorch's own rules are for those.
    if x.dim() != 4 or x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    weights = [layer.weight, layer.weight_kxk] if layer.bias is None else [layer.weight, layer.weight_kxk, layer.bias]
    learns = torch.is_grad_enabled() and (x.requires_grad or any(weight.requires_grad for weight in weights))
    if layer.training and not learns:
        return None
    kinds = (Tensor, nn.Parameter) if learns else (nn.Parameter,)
    if not all(_is_plain(weight, kinds) for weight in weights) or x.shape[1] != layer.in_channels:
        return None
    if any(p != d * (k // 2) for p, d, k in zip(layer.padding, layer.dilation, layer.kernel_size)):
        return None
    return _load()
