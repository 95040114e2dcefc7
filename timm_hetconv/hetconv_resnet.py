"""ResNet with HetConv: the 3x3 convolutions of every block; stem and shortcuts stay dense.

The networks are timm's own ResNet with timm's own blocks, so every option of timm's ResNet works, and at P=1 they are
timm's resnet18, resnet34 and resnet50, parameter by parameter. Squeeze-and-excitation stands where timm's seresnet has
it, once a block; the paper's printed counts imply one after every convolution (see `timm_hetconv.paper`).
"""

from functools import partial
from typing import Any, Dict, Optional

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ._family import HETCONV_KINDS, init_convs, make_default_cfgs, register_variants, reset_norms, swap_conv
from ._timm import BasicBlock, Bottleneck, ResNet, build_model_with_cfg

__all__ = ['HetConvBasicBlock', 'HetConvBottleneck', 'HetConvResNet']


class HetConvBasicBlock(BasicBlock):
    """timm's BasicBlock with both 3x3 convolutions of the given kind."""

    def __init__(self, *args: Any, conv: str = 'p4', **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv1 = swap_conv(self.conv1, conv)
        self.conv2 = swap_conv(self.conv2, conv)


class HetConvBottleneck(Bottleneck):
    """timm's Bottleneck with its 3x3 convolution of the given kind."""

    def __init__(self, *args: Any, conv: str = 'p4', **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv2 = swap_conv(self.conv2, conv)


class HetConvResNet(ResNet):
    """timm's ResNet; its initialisation reaches the HetConv layers too."""

    def init_weights(self, zero_init_last: bool = True) -> None:
        init_convs(self)
        reset_norms(self)
        super().init_weights(zero_init_last=zero_init_last)


_KINDS = dict.fromkeys(('resnet18', 'resnet34', 'resnet50'), HETCONV_KINDS)
_LAYERS = {
    'resnet18': (HetConvBasicBlock, (2, 2, 2, 2)),
    'resnet34': (HetConvBasicBlock, (3, 4, 6, 3)),
    'resnet50': (HetConvBottleneck, (3, 4, 6, 3)),
}


def _cfg(arch: str) -> Dict[str, Any]:
    return {
        'url': '',
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (7, 7),
        'crop_pct': 0.875,
        'interpolation': 'bilinear',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'conv1',
        'classifier': 'fc',
        'license': 'apache-2.0',
    }


default_cfgs = make_default_cfgs(_KINDS, _cfg)


def _create_hetconv_resnet(
    variant: str,
    pretrained: bool = False,
    arch: str = 'resnet34',
    conv: str = 'p4',
    se: bool = False,
    block_args: Optional[Dict[str, Any]] = None,
    **kwargs: Any,
) -> HetConvResNet:
    block, layers = _LAYERS[arch]
    block_args = {**({'attn_layer': 'se'} if se else {}), **(block_args or {}), 'conv': conv}
    return build_model_with_cfg(
        HetConvResNet, variant, pretrained, block=block, layers=layers, block_args=block_args, **kwargs
    )


for _arch in _KINDS:
    register_variants(
        __name__,
        f'ResNet-{_arch[6:]} (He et al., CVPR 2016)',
        _arch,
        _KINDS[_arch],
        partial(_create_hetconv_resnet, arch=_arch),
    )
