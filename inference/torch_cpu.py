"""The CPU kernels in eager PyTorch: `conv2d`, which for inference is the operator `hetconv::conv2d_cpu`.

Arguments and result are those of `hetconv::conv2d` (see timm_hetconv/ops.py), with 'same' padding. The result is in
channels_last. `timm_hetconv.HetConv2d` finds `conv2d` through the entry point `timm_hetconv.kernels` and decides when
to take it (see timm_hetconv/cpu_kernel.py). Importing this module raises `UserError` where the library is not built.
"""

import weakref
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from timm_hetconv.ops import grouped_kernel

from .kernels.cpu import Layer, checksum, instruction_sets
from .torch_cpu_threads import OPENMP
from .torch_cpu_training import differentiable_conv2d

__all__ = ['conv2d']

instruction_sets()  # loads the library

SCHEMA = (
    '(Tensor x, Tensor weight, Tensor weight_kxk, Tensor? bias, '
    'SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation) -> Tensor'
)


class _Entry(NamedTuple):
    weight: weakref.ref
    key: tuple
    layer: Layer


# By id of the weight, as long as it lives. A copy or a reloaded module has tensors of its own.
_layers: dict[int, _Entry] = {}


def _pack(weight: Tensor, weight_kxk: Tensor, bias: Tensor | None, kernel_size, stride, padding, dilation) -> Layer:
    n, m = weight.shape[:2]
    kernel = grouped_kernel(weight_kxk.detach(), (kernel_size[0], kernel_size[1]))
    # Copies: for another size of image the layer may pack them again, after what they were copied from has changed.
    return Layer(
        kernel.numpy(),
        weight.detach().reshape(n, m).numpy().copy(),
        None if bias is None else bias.detach().numpy().copy(),
        part=m // kernel.shape[1],
        stride=tuple(stride),
        dilation=tuple(dilation),
        pads=(*padding, *padding),
    )


def _packed(weight: Tensor, weight_kxk: Tensor, bias: Tensor | None, *geometry: list[int]) -> Layer:
    """The layer with these weights, packed once as long as they stay what they are.

    That is told by their content. Version counters miss what is written through `.data` or a NumPy array, and an
    address may be that of new weights. Reading them costs a few hundredths of the time that using them takes.
    """
    threads = torch.get_num_threads()
    key = (
        *(
            None if t is None else (t.shape, checksum(t.data_ptr(), t.numel() * 4, threads, OPENMP))
            for t in (weight, weight_kxk, bias)
        ),
        geometry,
    )
    name = id(weight)
    entry = _layers.get(name)
    if entry is not None and entry.key == key:
        return entry.layer

    def forget(reference: weakref.ref) -> None:
        last = _layers.get(name)
        if last is not None and last.weight is reference:
            del _layers[name]

    layer = _pack(weight, weight_kxk, bias, *geometry)
    _layers[name] = _Entry(weakref.ref(weight, forget), key, layer)
    return layer


def _output_size(x: Tensor, kernel_size, stride, padding, dilation) -> list:
    return [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(x.shape[2:], kernel_size, stride, padding, dilation)
    ]


torch.library.define('hetconv::conv2d_cpu', SCHEMA)


@torch.library.impl('hetconv::conv2d_cpu', 'CPU')
def _run(x: Tensor, weight: Tensor, weight_kxk: Tensor, bias: Tensor | None, *geometry: list[int]) -> Tensor:
    tensors = [x, weight, weight_kxk] if bias is None else [x, weight, weight_kxk, bias]
    if any(t.dtype is not torch.float32 for t in tensors):
        raise ValueError('hetconv::conv2d_cpu takes float32')
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        raise RuntimeError('hetconv::conv2d_cpu has no gradient: hetconv::conv2d has')
    if x.dim() != 4 or x.shape[1] != weight.shape[1]:
        raise ValueError(f'an input of shape {tuple(x.shape)} does not fit a weight of {tuple(weight.shape)}')
    # No copies for the weights of a module, which lie dense in memory: (N, M, 1, 1) does so in either format.
    if weight.stride()[:2] != (weight.shape[1], 1):
        weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    layer = _packed(weight, weight_kxk.contiguous(), bias, *geometry)
    x = x.contiguous(memory_format=torch.channels_last)
    batch, _, height, width = x.shape
    y = torch.empty(
        [batch, layer.out_channels, *_output_size(x, *geometry)],
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    layer.run_at(x.data_ptr(), None, y.data_ptr(), batch, height, width, torch.get_num_threads(), OPENMP)
    return y


@torch.library.register_fake('hetconv::conv2d_cpu')
def _(x, weight, weight_kxk, bias, *geometry):
    return torch.empty(
        [x.shape[0], weight.shape[0], *_output_size(x, *geometry)],
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


flop_registry[torch.ops.hetconv.conv2d_cpu] = flop_registry[torch.ops.hetconv.conv2d]


def conv2d(
    x: Tensor, weight: Tensor, weight_kxk: Tensor, bias: Tensor | None, kernel_size, stride, padding, dilation
) -> Tensor:
    """HetConv on the CPU kernels, with a gradient where one is asked for; see above.

    Raises:
        ValueError: Another type than float32, shapes that do not fit, or sizes that make no sense.
    """
    tensors = (x, weight, weight_kxk, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return differentiable_conv2d(*tensors, kernel_size, stride, padding, dilation)
    return torch.ops.hetconv.conv2d_cpu(*tensors, kernel_size, stride, padding, dilation)
