"""HetConv for timm: layers, models, counts. Importing it registers the models with timm and does nothing else."""

import sys

# `python -m timm_hetconv SCRIPT` imports this package before its `__main__`, which must first put the script's folder
# on sys.path: a script in a clone of timm brings its own timm. So do nothing that once; `__main__` imports it again.
# While Python looks for the module of `-m`, sys.argv is ['-m', ARGS...].
if sys.argv[:1] != ['-m'] or not sys.orig_argv[-len(sys.argv)].endswith(__name__):
    from . import hetconv_mobilenet, hetconv_resnet, hetconv_resnet_cifar, hetconv_vgg
    from ._family import parse_variant
    from .conv import DWCPWC2d, GWCPWC2d, HetConv2d, PC2d
    from .convert import Conversion, convert
    from .cost import LayerCost, ModelCost, count, own_input_size
    from .cpu_kernel import set_cpu_kernel, use_cpu_kernel

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
    'own_input_size',
    'parse_variant',
    'set_cpu_kernel',
    'use_cpu_kernel',
]
