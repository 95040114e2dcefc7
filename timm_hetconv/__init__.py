"""HetConv for timm: layers, models, counts. Importing it registers the models with timm and does nothing else."""

from . import hetconv_mobilenet, hetconv_resnet, hetconv_resnet_cifar, hetconv_vgg
from .conv import DWCPWC2d, GWCPWC2d, HetConv2d, PC2d
from .cost import LayerCost, ModelCost, count

__all__ = ['DWCPWC2d', 'GWCPWC2d', 'HetConv2d', 'LayerCost', 'ModelCost', 'PC2d', 'count']
