"""VGG-16 with HetConv in the 12 3x3 convolutions after the first.

`vgg16` is timm's vgg16_bn (batch norm, since without it a VGG-16 hardly trains from scratch), with the 4096-4096-1000
head. `vgg16_cifar` is the paper's CIFAR-10 network: convolutions without bias, batch norm, head 512 (batch norm) - 10.
Squeeze-and-excitation follows the batch norm of every convolution, as the paper's parameter counts imply.
"""

from functools import partial
from typing import Any, Dict

import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead, SEModule
from torch import Tensor

from ._family import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    HETCONV_KINDS,
    RIVAL_KINDS,
    init_convs,
    make_default_cfgs,
    register_variants,
    reset_norms,
    swap_conv,
)
from ._timm import VGG, build_model_with_cfg, checkpoint, vgg_cfgs

__all__ = ['HetConvVGG']


class NormSE2d(nn.Sequential):
    """A norm, then squeeze-and-excitation (reduction 16), where VGG expects a norm layer."""

    def __init__(self, num_features: int, norm_layer=nn.BatchNorm2d, device=None, dtype=None) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__(norm_layer(num_features, **dd), SEModule(num_features, rd_ratio=1 / 16, rd_divisor=1, **dd))


class CifarMlp(nn.Sequential):
    """The hidden layer of the CIFAR head as a 1x1 convolution: 512 -> 512, batch norm, ReLU."""

    def __init__(self, in_features: int, out_features: int, device=None, dtype=None) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__(
            nn.Conv2d(in_features, out_features, 1, **dd), nn.BatchNorm2d(out_features, **dd), nn.ReLU(inplace=True)
        )


class HetConvVGG(VGG):
    """timm's VGG with its 3x3 convolutions after the first of the given kind.

    Args:
        cfg: Channel counts and 'M' for max pooling, as of timm's VGG.
        conv: Convolution kind: 'p1' ... 'p64', 'gwc4', 'dwc', 'pc'.
        se: Squeeze-and-excitation after every batch norm.
        cifar: Convolutions without bias and the small head of the CIFAR network.
        norm_layer: After every convolution.
        kwargs: As of timm's VGG.
    """

    def __init__(
        self, cfg, conv: str = 'p4', se: bool = False, cifar: bool = False, norm_layer=nn.BatchNorm2d, **kwargs: Any
    ) -> None:
        if se:
            norm_layer = partial(NormSE2d, norm_layer=norm_layer)
        if cifar:
            # mlp_ratio: the parent's ImageNet head is replaced below, so let it be one channel wide, not 100 M weights.
            kwargs.update(conv_layer=partial(nn.Conv2d, bias=False), mlp_ratio=1 / 4096)
        super().__init__(cfg, norm_layer=norm_layer, **kwargs)
        _stem, *body = [i for i, m in enumerate(self.features) if isinstance(m, nn.Conv2d)]
        for i in body:
            self.features[i] = swap_conv(self.features[i], conv)
        if cifar:
            dd = {'device': kwargs.get('device'), 'dtype': kwargs.get('dtype')}
            hidden = self.num_features
            self.pre_logits = CifarMlp(self.num_features, hidden, **dd)
            init_convs(self.pre_logits)
            self.head = ClassifierHead(
                hidden, self.num_classes, pool_type=kwargs.get('global_pool', 'avg'), drop_rate=self.drop_rate, **dd
            )
            self.head_hidden_size = getattr(self.head, 'num_features', hidden)  # counts the pooled width; newer timm

    def init_weights(self) -> None:
        """Initialise all weights again, as after `to_empty`."""
        self._initialize_weights()
        init_convs(self)
        reset_norms(self)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def _checkpointed_features(self, x: Tensor) -> Tensor:
        start = 0
        for end in [i for i, m in enumerate(self.features) if isinstance(m, nn.MaxPool2d)]:
            # A segment ends before a pool: one that began with an in-place ReLU would spoil its saved input.
            x = checkpoint(self.features[start:end], x)
            start = end
        return self.features[start:](x)

    def forward_features(self, x: Tensor) -> Tensor:
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return self._checkpointed_features(x)
        return self.features(x)


_KINDS = {'vgg16': HETCONV_KINDS, 'vgg16_cifar': (*HETCONV_KINDS, *RIVAL_KINDS)}


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
        'first_conv': 'features.0',
        'classifier': 'head.fc',
        'license': 'apache-2.0',
    }
    if arch.endswith('_cifar'):
        cfg.update(
            num_classes=10, input_size=(3, 32, 32), pool_size=(1, 1), crop_pct=1.0, mean=CIFAR10_MEAN, std=CIFAR10_STD
        )
    return cfg


default_cfgs = make_default_cfgs(_KINDS, _cfg)


def _create_hetconv_vgg(variant: str, pretrained: bool = False, **kwargs: Any) -> HetConvVGG:
    out_indices = kwargs.pop('out_indices', (0, 1, 2, 3, 4, 5))
    return build_model_with_cfg(
        HetConvVGG,
        variant,
        pretrained,
        model_cfg=vgg_cfgs['vgg16'],
        feature_cfg=dict(flatten_sequential=True, out_indices=out_indices),
        **kwargs,
    )


register_variants(__name__, 'VGG-16 (Simonyan and Zisserman, ICLR 2015)', 'vgg16', _KINDS['vgg16'], _create_hetconv_vgg)
register_variants(
    __name__, 'VGG-16 for CIFAR-10', 'vgg16_cifar', _KINDS['vgg16_cifar'], partial(_create_hetconv_vgg, cifar=True)
)
