"""ResNet-20 and ResNet-56 for CIFAR (He et al., CVPR 2016, section 4.2) with HetConv in every block.

Three stages of 16, 32 and 64 channels, a 3x3 stem that stays dense, and shortcuts without parameters (option A): every
second pixel, new channels zero. Blocks are timm's BasicBlock. Squeeze-and-excitation stands once a block.
"""

from functools import partial
from typing import Any, Dict, List

import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath, get_act_layer, get_norm_layer
from torch import Tensor

from ._family import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    HETCONV_KINDS,
    RIVAL_KINDS,
    make_default_cfgs,
    register_variants,
)
from ._staged import Reduction, StagedNet
from ._timm import build_model_with_cfg
from .hetconv_resnet import HetConvBasicBlock

__all__ = ['HetConvCifarResNet']

_CHANNELS = (16, 32, 64)


class PadShortcut(nn.Module):
    """Option A shortcut: (B, C, H, W) -> (B, C + channels, H/stride, W/stride), new channels zero on both sides."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = channels // 2, channels - channels // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        # Pooling over one pixel: every engine has it, which cannot be said of a slice with steps.
        return F.pad(F.avg_pool2d(x, 1, self.stride), [0, 0, 0, 0, self.before, self.after])


class HetConvCifarResNet(StagedNet):
    """ResNet for CIFAR.

    Args:
        depth: Blocks a stage: 3 for ResNet-20, 9 for ResNet-56.
        conv: Convolution kind: 'p1' ... 'p64', 'gwc4', 'dwc', 'pc'.
        se: Squeeze-and-excitation in every block.
        num_classes, in_chans, global_pool, drop_rate, drop_path_rate, act_layer, norm_layer: As of timm's ResNet.
        output_stride: Largest reduction: 1, 2 or 4; dilation takes the place of stride beyond it.

    Raises:
        ValueError: Another output_stride.
    """

    def __init__(
        self,
        depth: int = 3,
        conv: str = 'p4',
        se: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        output_stride: int = 4,
        global_pool: str = 'avg',
        act_layer=nn.ReLU,
        norm_layer=nn.BatchNorm2d,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        if output_stride not in (1, 2, 4):
            raise ValueError(f'output_stride={output_stride} must be 1, 2 or 4')
        dd = {'device': device, 'dtype': dtype}
        act_layer, norm_layer = get_act_layer(act_layer), get_norm_layer(norm_layer)
        stem = nn.Sequential(
            nn.Conv2d(in_chans, _CHANNELS[0], 3, padding=1, bias=False, **dd),
            norm_layer(_CHANNELS[0], **dd),
            act_layer(inplace=True),
        )
        reduction = Reduction(1, output_stride)
        stages, feature_info, width = [], [], _CHANNELS[0]
        for i, channels in enumerate(_CHANNELS):
            stride, first_dilation, dilation = reduction.step(1 if i == 0 else 2)
            blocks: List[nn.Module] = []
            for j in range(depth):
                first = j == 0
                drop_path = drop_path_rate * (i * depth + j) / (len(_CHANNELS) * depth - 1)
                blocks.append(
                    HetConvBasicBlock(
                        width,
                        channels,
                        stride if first else 1,
                        downsample=PadShortcut(channels - width, stride) if width != channels else None,
                        dilation=dilation,
                        first_dilation=first_dilation if first else dilation,
                        act_layer=act_layer,
                        norm_layer=norm_layer,
                        attn_layer='se' if se else None,
                        drop_path=DropPath(drop_path) if drop_path else None,
                        conv=conv,
                        **dd,
                    )
                )
                width = channels
            stages.append(nn.Sequential(*blocks))
            feature_info.append(dict(num_chs=channels, reduction=reduction.reduction, module=f'stages.{i}'))
        super().__init__(stem, stages, feature_info, num_classes, in_chans, global_pool, drop_rate, **dd)


_KINDS = dict.fromkeys(('resnet20_cifar', 'resnet56_cifar'), (*HETCONV_KINDS, *RIVAL_KINDS))


def _cfg(arch: str) -> Dict[str, Any]:
    return {
        'url': '',
        'num_classes': 10,
        'input_size': (3, 32, 32),
        'pool_size': (8, 8),
        'crop_pct': 1.0,
        'interpolation': 'bilinear',
        'mean': CIFAR10_MEAN,
        'std': CIFAR10_STD,
        'first_conv': 'stem.0',
        'classifier': 'fc',
        'license': 'apache-2.0',
    }


default_cfgs = make_default_cfgs(_KINDS, _cfg)


def _create_hetconv_resnet_cifar(variant: str, pretrained: bool = False, **kwargs: Any) -> HetConvCifarResNet:
    out_indices = kwargs.pop('out_indices', (0, 1, 2))
    return build_model_with_cfg(
        HetConvCifarResNet,
        variant,
        pretrained,
        feature_cfg=dict(out_indices=out_indices, flatten_sequential=True),
        **kwargs,
    )


register_variants(
    __name__,
    'ResNet-20 for CIFAR',
    'resnet20_cifar',
    _KINDS['resnet20_cifar'],
    partial(_create_hetconv_resnet_cifar, depth=3),
)
register_variants(
    __name__,
    'ResNet-56 for CIFAR',
    'resnet56_cifar',
    _KINDS['resnet56_cifar'],
    partial(_create_hetconv_resnet_cifar, depth=9),
)
