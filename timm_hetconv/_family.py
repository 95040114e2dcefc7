"""What the model families share: the name of a convolution kind, swapping one in, and registering the variants.

A kind is the last part of a model's name: 'p1' (dense), 'p2' ... 'p64' (HetConv with that P), and the paper's rivals
'gwc4' (GWC + PWC in 4 groups), 'dwc' (DWC + PWC) and 'pc'.
"""

import math
import re
import sys
from typing import Any, Callable, Dict, Iterable, List, Mapping

import torch.nn as nn

from ._pretrained import tagged_cfgs
from ._timm import generate_default_cfgs, register_model
from .conv import DWCPWC2d, GWCPWC2d, HetConv2d, PC2d

PARTS = (1, 2, 4, 8, 16, 32, 64)
HETCONV_KINDS = tuple(f'p{part}' for part in PARTS)
RIVAL_KINDS = ('gwc4', 'dwc', 'pc')

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


def swap_conv(conv: nn.Conv2d, kind: str) -> nn.Module:
    """The layer of the given kind that takes the place of a dense K x K convolution, freshly initialised.

    A P that does not divide both channel counts is clamped to gcd(P, M, N), the largest of its divisors that does (the
    16-channel layers of `hetconv_resnet20_cifar_p64` run at P=16). `HetConv2d` itself raises instead.

    Args:
        conv: The dense convolution, returned as it is for 'p1'.
        kind: 'p4', 'gwc4', 'dwc' or 'pc'.

    Raises:
        ValueError: No such kind.
    """
    match = re.fullmatch(r'(p|gwc)([1-9]\d*)|dwc|pc', kind)
    if match is None:
        raise ValueError(f"convolution kind {kind!r} is none of 'p1', 'p2', ..., 'gwc4', 'dwc', 'pc'")
    if kind == 'p1':
        return conv
    args: Dict[str, Any] = dict(
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        bias=conv.bias is not None,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    layer: nn.Module
    if match[1] == 'p':
        layer = HetConv2d(part=math.gcd(int(match[2]), conv.in_channels, conv.out_channels), **args)
    elif match[1] == 'gwc':
        layer = GWCPWC2d(groups=math.gcd(int(match[2]), conv.in_channels), **args)
    elif kind == 'dwc':
        layer = DWCPWC2d(**args)
    else:
        layer = PC2d(**args)
    init_convs(layer)
    return layer


def init_convs(module: nn.Module) -> None:
    """Kaiming normal over the fan-out for every convolution in `module`, HetConv included, as timm's families do."""
    for m in module.modules():
        if isinstance(m, HetConv2d):
            m.init_weights()
        elif isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def reset_norms(module: nn.Module) -> None:
    """Norms at 1 and 0 with their running statistics, linear layers as torch does: for memory that nobody wrote."""
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm2d, nn.Linear)):
            m.reset_parameters()


def variant_names(arch: str, kinds: Iterable[str]) -> List[str]:
    """Model names of an architecture: each kind, plain and with squeeze-and-excitation."""
    return [f'hetconv_{arch}_{kind}{se}' for se in ('', '_se') for kind in kinds]


def parse_variant(name: str) -> Dict[str, Any]:
    """Architecture, convolution kind and squeeze-and-excitation of a model name.

    >>> parse_variant('hetconv_vgg16_cifar_p4_se')
    {'arch': 'vgg16_cifar', 'conv': 'p4', 'se': True}
    """
    match = re.fullmatch(r'hetconv_(\w+?)_(p\d+|gwc\d+|dwc|pc)(_se)?', name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a HetConv model, like 'hetconv_resnet34_p4'")
    return dict(arch=match[1], conv=match[2], se=match[3] is not None)


def _describe(kind: str) -> str:
    if kind == 'p1':
        return 'dense convolutions: the baseline'
    if kind.startswith('p') and kind != 'pc':
        return f'HetConv, P={kind[1:]}'
    return {'gwc4': 'GWC+PWC in 4 groups', 'dwc': 'DWC+PWC', 'pc': 'PC: HetConv at the largest P'}[kind]


def register_variants(
    module: str,
    title: str,
    arch: str,
    kinds: Iterable[str],
    create: Callable[..., nn.Module],
) -> None:
    """Make an entrypoint for every variant of an architecture and register it with timm.

    Args:
        module: The family's `__name__`; the entrypoints become its attributes, and `default_cfgs` there must have them.
        title: The architecture in words, for the docstrings.
        arch: The architecture as in the model name.
        kinds: Convolution kinds.
        create: `create(variant, pretrained, conv=kind, se=bool, **kwargs)` builds the model.
    """
    for name in variant_names(arch, kinds):
        variant = parse_variant(name)

        def entrypoint(
            pretrained: bool = False,
            _name: str = name,
            _conv: str = variant['conv'],
            _se: bool = variant['se'],
            **kwargs: Any,
        ) -> nn.Module:
            return create(_name, pretrained, conv=_conv, se=_se, **kwargs)

        entrypoint.__name__ = entrypoint.__qualname__ = name
        entrypoint.__module__ = module
        se = ', squeeze-and-excitation' if variant['se'] else ''
        entrypoint.__doc__ = f'{title}, {_describe(variant["conv"])}{se}.'
        setattr(sys.modules[module], name, register_model(entrypoint))


def make_default_cfgs(cfgs: Mapping[str, Iterable[str]], make: Callable[[str], Dict[str, Any]]):
    """default_cfgs of a family: `make(arch)` for every variant of every architecture (`cfgs`: arch -> kinds),
    with the weights that there are."""
    return generate_default_cfgs(
        {
            full: cfg
            for arch, kinds in cfgs.items()
            for name in variant_names(arch, kinds)
            for full, cfg in tagged_cfgs(name, make(arch)).items()
        }
    )
