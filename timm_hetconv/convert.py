"""Turn the eligible convolutions of any timm model into HetConv, and say what was changed, what was left, and why."""

import math
import re
import warnings
from dataclasses import dataclass
from typing import Dict, List, Tuple

import torch.nn as nn

from .conv import HetConv2d

__all__ = ['Conversion', 'convert']

# Projection shortcuts and heads, by the names that timm's families give them.
_SHORTCUT = re.compile(r'(^|\.)(downsample|shortcut)(\.|$)')
_HEAD = re.compile(r'^(head|pre_logits|fc|classifier)(\.|$)')


@dataclass(frozen=True)
class Conversion:
    """What became of one convolution.

    Attributes:
        name: Module name in the model; '' where the model itself is the convolution.
        changed: It is a `HetConv2d` now.
        reason: Why it was left, or the P it has.
    """

    name: str
    changed: bool
    reason: str


def _stem_names(model: nn.Module) -> Tuple[str, ...]:
    """The first convolution by position: the one the model's config names, or else the first there is."""
    first = (getattr(model, 'pretrained_cfg', None) or {}).get('first_conv')
    if first:
        return (first,) if isinstance(first, str) else tuple(first)
    return next(((name,) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)), ())


def _reason_to_leave(name: str, conv: nn.Conv2d, stem: Tuple[str, ...], part: int) -> str:
    """Why a convolution stays as it is; '' if it has a HetConv form."""
    if conv.kernel_size == (1, 1):
        return '1x1 kernels'
    if name in stem:
        return 'stem'
    if _SHORTCUT.search(name):
        return 'shortcut'
    if _HEAD.search(name):
        return 'head'
    if type(conv) is not nn.Conv2d:
        return f'{type(conv).__name__} has a forward of its own'
    if conv.groups != 1:
        return f'{conv.groups} groups'
    if any(k % 2 == 0 for k in conv.kernel_size):
        return f'even kernel {conv.kernel_size[0]}x{conv.kernel_size[1]}'
    if isinstance(conv.padding, str) or conv.padding_mode != 'zeros':
        return f'padding {conv.padding!r}, mode {conv.padding_mode!r}'
    if math.gcd(part, conv.in_channels, conv.out_channels) == 1:
        return f'no divisor of {part} divides {conv.in_channels} and {conv.out_channels} channels'
    return ''


def convert(
    model: nn.Module, part: int = 4, init: str = 'from_dense', projection: str = 'nearest'
) -> Tuple[nn.Module, List[Conversion]]:
    """Replace the eligible convolutions of a model by HetConv, in place.

    Eligible is a dense K x K `nn.Conv2d` with an odd kernel and fixed zero padding. The stem and the projection
    shortcuts stay dense, chosen by position and not by divisibility, as in the paper, and so does a convolution that
    is really a linear layer of the head (VGG's 7x7). P is clamped to gcd(P, M, N) where it does not divide the
    channels, as in this package's models.

    Args:
        model: Any module; timm's models say which convolution is their stem.
        part: P, at least 2.
        init: 'from_dense' starts from the dense weights (see `HetConv2d.from_dense`), 'random' from fresh ones.
        projection: As of `HetConv2d.from_dense`.

    Returns:
        The model (a new module only if `model` itself is a convolution) and an entry for every convolution in it.

    Raises:
        TypeError: `model` is no module.
        ValueError: `part` is less than 2, or `init` or `projection` is unknown.

    Warns:
        UserWarning: Nothing was changed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f'convert takes a module, not {model!r}; timm.create_model makes one')
    if part < 2:
        raise ValueError(f'part={part} must be at least 2: HetConv with P=1 is the dense convolution itself')
    if init not in ('from_dense', 'random'):
        raise ValueError(f"init={init!r} must be 'from_dense' or 'random'")
    stem = _stem_names(model)
    if isinstance(model, nn.Conv2d):
        stem = ()  # a lone layer is no network with a stem
    entries: List[Conversion] = []
    replaced: Dict[nn.Module, HetConv2d] = {}  # a module that two names share stays one module
    for name, conv in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(conv, nn.Conv2d):
            continue
        reason = _reason_to_leave(name, conv, stem, part)
        if reason:
            entries.append(Conversion(name, False, reason))
            continue
        clamped = math.gcd(part, conv.in_channels, conv.out_channels)
        if conv not in replaced:
            layer = HetConv2d.from_dense(conv, clamped, projection)
            if init == 'random':
                layer.init_weights()
            layer.requires_grad_(conv.weight.requires_grad)
            replaced[conv] = layer
        entries.append(Conversion(name, True, f'P={clamped}' + ('' if clamped == part else f', clamped from {part}')))
        if name == '':
            return replaced[conv], entries
        parent, _, child = name.rpartition('.')
        setattr(model.get_submodule(parent), child, replaced[conv])
    if not replaced:
        warnings.warn('convert changed nothing: no convolution has a HetConv form; the entries say why', stacklevel=2)
    return model, entries
