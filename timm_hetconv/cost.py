"""Exact cost of a model: multiply-accumulates (MACs) and parameters, counted on the real modules.

Counted are convolutions (HetConv among them) and linear layers, as is usual; norms, activations, pooling and sums are
not, and MACs are one multiply and one add each. `macs` is what the paper calls FLOPs. `minimal_multiplies`
counts the multiplies that are left when both sides use the fastest known algorithm, Winograd's F(4x4,3x3), for the 3x3
convolutions at stride 1: 36 multiplies for 16 outputs, 2.25 a weight instead of 9.
"""

import copy
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
import torch.nn as nn

from .conv import HetConv2d

__all__ = ['LayerCost', 'ModelCost', 'count', 'own_input_size']

# Multiplies of F(4x4,3x3) for one output pixel and one 3x3 kernel: (4 + 3 - 1)^2 / 4^2.
WINOGRAD_F4 = 36 / 16


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one input sample.

    Attributes:
        name: Module name.
        kind: 'conv', 'hetconv' or 'linear'.
        macs: Multiply-accumulates.
        params: Parameters, bias included.
        minimal_multiplies: Multiplies with F(4x4,3x3) where it applies and wins.
        shape: in_channels, out_channels, kernel_size, stride, padding, dilation, groups, part, and the input and output
            height and width; what two layers need to have in common to be equally fast.
    """

    name: str
    kind: str
    macs: int
    params: int
    minimal_multiplies: float
    shape: Dict[str, Any]


@dataclass(frozen=True)
class ModelCost:
    """Cost of a model for one input sample.

    Attributes:
        macs: Multiply-accumulates of all layers.
        params: All parameters of the model, those of norms included.
        minimal_multiplies: Of all layers.
        layers: In the order of execution.
    """

    macs: int
    params: int
    minimal_multiplies: float
    layers: List[LayerCost]


def _winograd(kernel_size: Tuple[int, ...], stride: Tuple[int, ...], dilation: Tuple[int, ...]) -> bool:
    return tuple(kernel_size) == (3, 3) and tuple(stride) == (1, 1) and tuple(dilation) == (1, 1)


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _conv_cost(name: str, m: nn.Conv2d, x: torch.Tensor, y: torch.Tensor) -> LayerCost:
    pixels = y.shape[2] * y.shape[3]
    weights = m.weight.numel()
    per_weight = WINOGRAD_F4 / 9 if _winograd(m.kernel_size, m.stride, m.dilation) else 1
    shape = dict(
        in_channels=m.in_channels,
        out_channels=m.out_channels,
        kernel_size=m.kernel_size,
        stride=m.stride,
        padding=m.padding,
        dilation=m.dilation,
        groups=m.groups,
        part=1,
        input=tuple(x.shape[2:]),
        output=tuple(y.shape[2:]),
    )
    return LayerCost(name, 'conv', pixels * weights, _params(m), pixels * weights * per_weight, shape)


def _hetconv_cost(name: str, m: HetConv2d, x: torch.Tensor, y: torch.Tensor) -> LayerCost:
    pixels = y.shape[2] * y.shape[3]
    weights = m.weight.numel() + m.weight_kxk.numel()
    minimal: float = weights
    if _winograd(m.kernel_size, m.stride, m.dilation):
        # The group's kernels, centre included, by Winograd; the 1x1 kernels of the other channels directly.
        full = m.out_channels * m.in_channels // m.part
        minimal = full * WINOGRAD_F4 + (m.weight.numel() - full)
    shape = dict(
        in_channels=m.in_channels,
        out_channels=m.out_channels,
        kernel_size=m.kernel_size,
        stride=m.stride,
        padding=m.padding,
        dilation=m.dilation,
        groups=1,
        part=m.part,
        input=tuple(x.shape[2:]),
        output=tuple(y.shape[2:]),
    )
    return LayerCost(name, 'hetconv', pixels * weights, _params(m), pixels * minimal, shape)


def _linear_cost(name: str, m: nn.Linear, x: torch.Tensor, y: torch.Tensor) -> LayerCost:
    macs = m.weight.numel() * (y.numel() // y.shape[-1] // y.shape[0])
    shape = dict(in_features=m.in_features, out_features=m.out_features)
    return LayerCost(name, 'linear', macs, _params(m), macs, shape)


_COUNTERS: List[Tuple[type, Callable[..., LayerCost]]] = [
    (HetConv2d, _hetconv_cost),
    (nn.Conv2d, _conv_cost),
    (nn.Linear, _linear_cost),
]


def own_input_size(model: nn.Module) -> Tuple[int, int, int]:
    """(C, H, W) that a timm model is made for: height and width of its config, and the channels of the model itself.

    Raises:
        ValueError: It is not timm's, so it has no config.
    """
    size = (getattr(model, 'pretrained_cfg', None) or {}).get('input_size')
    if size is None:
        raise ValueError('input_size is needed: the model has no pretrained_cfg to take it from')
    return getattr(model, 'in_chans', None) or size[0], size[1], size[2]


@torch.no_grad()
def count(model: nn.Module, input_size: Optional[Tuple[int, int, int]] = None) -> ModelCost:
    """Count a model by running it once on the meta device: no arithmetic, no memory, whatever its size.

    Args:
        model: Any module; it is left as it was.
        input_size: (C, H, W); by default the model's own, from `pretrained_cfg`.

    Raises:
        ValueError: No input size is given and the model has none.
    """

    if input_size is None:
        input_size = own_input_size(model)
    params = _params(model)
    meta = copy.deepcopy(model).to('meta').eval()
    layers: List[LayerCost] = []

    def hook(name: str, counter: Callable[..., LayerCost]):
        return lambda m, args, y: layers.append(counter(name, m, args[0], y))

    for name, module in meta.named_modules():
        counter = next((c for t, c in _COUNTERS if isinstance(module, t)), None)
        if counter:
            module.register_forward_hook(hook(name, counter))
    dtype = next(meta.parameters()).dtype
    meta(torch.empty(1, *input_size, device='meta', dtype=dtype))
    return ModelCost(
        sum(layer.macs for layer in layers), params, sum(layer.minimal_multiplies for layer in layers), layers
    )
