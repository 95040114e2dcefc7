"""MobileNet (Howard et al., 2017) and its HetConv form, in which one 3x3 HetConv replaces each DW + PW pair.

`hetconv_mobilenet_dwc` is MobileNet itself. `_cifar` starts without stride, so that 32x32 pixels end at 2x2, as in
table 4 of the paper.
"""

from functools import partial
from typing import Any, Dict, List

import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SEModule, get_act_layer, get_norm_layer
from torch import Tensor

from ._family import CIFAR10_MEAN, CIFAR10_STD, HETCONV_KINDS, make_default_cfgs, register_variants, swap_conv
from ._staged import Reduction, StagedNet
from ._timm import build_model_with_cfg
from .conv import same_padding

__all__ = ['HetConvMobileNet']

# (stride, channels of each block) a stage
_STAGES = ((1, (64,)), (2, (128, 128)), (2, (256, 256)), (2, (512,) * 6), (2, (1024, 1024)))


class MobileNetBlock(nn.Module):
    """3x3 convolution of the given kind, norm, activation, and squeeze-and-excitation (reduction 8) if asked for."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        dilation: int,
        conv: str,
        se: bool,
        act_layer,
        norm_layer,
        device=None,
        dtype=None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        dense = nn.Conv2d(in_channels, out_channels, 3, stride, same_padding(3, dilation), dilation, bias=False, **dd)
        self.conv = swap_conv(dense, conv)
        self.norm = norm_layer(out_channels, **dd)
        self.act = act_layer(inplace=True)
        self.se = SEModule(out_channels, rd_ratio=1 / 8, rd_divisor=1, **dd) if se else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.se(self.act(self.norm(self.conv(x))))


class HetConvMobileNet(StagedNet):
    """MobileNet of plain blocks without shortcuts (so there is no `drop_path_rate`).

    Args:
        conv: Convolution kind: 'p1' ... 'p64', or 'dwc' for MobileNet itself.
        se: Squeeze-and-excitation after every block.
        cifar: First convolution without stride.
        num_classes, in_chans, global_pool, drop_rate, act_layer, norm_layer: As of timm's models.
        output_stride: Largest reduction, a power of 2 up to 32 (16 with `cifar`); dilation takes the place of stride
            beyond it.

    Raises:
        ValueError: Another output_stride.
    """

    def __init__(
        self,
        conv: str = 'p32',
        se: bool = False,
        cifar: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 32,
        global_pool: str = 'avg',
        act_layer=nn.ReLU,
        norm_layer=nn.BatchNorm2d,
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        stem_stride, width = 1 if cifar else 2, 32
        if output_stride not in [r for r in (1, 2, 4, 8, 16, 32) if r >= stem_stride]:
            raise ValueError(f'output_stride={output_stride} must be a power of 2 from {stem_stride} to 32')
        dd = {'device': device, 'dtype': dtype}
        act_layer, norm_layer = get_act_layer(act_layer), get_norm_layer(norm_layer)
        stem = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, stem_stride, padding=1, bias=False, **dd),
            norm_layer(width, **dd),
            act_layer(inplace=True),
        )
        reduction = Reduction(stem_stride, output_stride)
        stages, feature_info = [], []
        for i, (stage_stride, channels) in enumerate(_STAGES):
            stride, first_dilation, dilation = reduction.step(stage_stride)
            blocks: List[nn.Module] = []
            for j, out_channels in enumerate(channels):
                first = j == 0
                blocks.append(
                    MobileNetBlock(
                        width,
                        out_channels,
                        stride if first else 1,
                        first_dilation if first else dilation,
                        conv,
                        se,
                        act_layer,
                        norm_layer,
                        **dd,
                    )
                )
                width = out_channels
            stages.append(nn.Sequential(*blocks))
            feature_info.append(dict(num_chs=width, reduction=reduction.reduction, module=f'stages.{i}'))
        super().__init__(stem, stages, feature_info, num_classes, in_chans, global_pool, drop_rate, **dd)


_KINDS = dict.fromkeys(('mobilenet', 'mobilenet_cifar'), (*HETCONV_KINDS, 'dwc'))


def _cfg(arch: str) -> Dict[str, Any]:
    cfg: Dict[str, Any] = {
        'url': '',
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (7, 7),
        'crop_pct': 0.875,
        'interpolation': 'bilinear',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'stem.0',
        'classifier': 'fc',
        'license': 'apache-2.0',
    }
    if arch.endswith('_cifar'):
        cfg.update(
            num_classes=10, input_size=(3, 32, 32), pool_size=(2, 2), crop_pct=1.0, mean=CIFAR10_MEAN, std=CIFAR10_STD
        )
    return cfg


default_cfgs = make_default_cfgs(_KINDS, _cfg)


def _create_hetconv_mobilenet(variant: str, pretrained: bool = False, **kwargs: Any) -> HetConvMobileNet:
    out_indices = kwargs.pop('out_indices', (0, 1, 2, 3, 4))
    return build_model_with_cfg(
        HetConvMobileNet,
        variant,
        pretrained,
        feature_cfg=dict(out_indices=out_indices, flatten_sequential=True),
        **kwargs,
    )


register_variants(__name__, 'MobileNet', 'mobilenet', _KINDS['mobilenet'], _create_hetconv_mobilenet)
register_variants(
    __name__,
    'MobileNet for CIFAR-10',
    'mobilenet_cifar',
    _KINDS['mobilenet_cifar'],
    partial(_create_hetconv_mobilenet, cifar=True),
)
