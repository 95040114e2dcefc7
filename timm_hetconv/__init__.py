"""HetConv for timm: layers, models, counts. Importing it registers the models with timm and does nothing else."""

from . import hetconv_mobilenet, hetconv_resnet, hetconv_resnet_cifar, hetconv_vgg
from ._family import parse_variant
from .conv import DWCPWC2d, GWCPWC2d, HetConv2d, PC2d
from .convert import Conversion, convert
from .cost import LayerCost, ModelCost, count

__all__ = [
    'Conversion',
    'convert',
    'DWCPWC2d',
    'GWCPWC2d',
    'HetConv2d',
    'LayerCost',
    'ModelCost',
    'PC2d',
    'count',
    'parse_variant',
]
