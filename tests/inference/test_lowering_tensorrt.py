"""The graph that TensorRT gets: plugin nodes with what the plugin reads, and the network is still the same."""

import math
from collections import Counter

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from plugin_as_standard import as_standard, attributes, plugin_nodes
from torch import nn

from inference.export import export_model
from inference.hetconv_op import DOMAIN
from inference.lowering.tensorrt import to_tensorrt
from inference.models import create_model
from timm_hetconv import HetConv2d

NAMES = timm.list_models('hetconv_*')
# Relative to the largest: the weights are rounded to TF32, or all of 19 layers to fp16.
TOLERANCE = {'fp32': 2e-3, 'fp16': 2e-2}


def compare(module, size, precision='fp32', exported=None):
    """Lower, and compare with PyTorch; returns the lowered graph."""
    module = module.eval()
    lowered = to_tensorrt(exported or export_model(module, size), precision, 86)
    assert not any(node.domain == DOMAIN for node in lowered.graph.node)
    session = onnxruntime.InferenceSession(
        as_standard(lowered, precision).SerializeToString(), providers=['CPUExecutionProvider']
    )
    x = torch.randn(2, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module(x).numpy()
    (output,) = session.run(None, {'input': x.numpy()})
    assert output.dtype == np.float32
    assert np.abs(output - expected).max() <= TOLERANCE[precision] * np.abs(expected).max()
    return lowered


@pytest.mark.parametrize('precision', TOLERANCE)
@pytest.mark.parametrize('name', ['hetconv_resnet20_cifar_p4', 'hetconv_vgg16_cifar_p8_se'])
def test_models(exported, name, precision):
    module, proto = exported(name)
    lowered = compare(module, (3, 32, 32), precision, proto)
    names = Counter(node.op_type for node in plugin_nodes(lowered))
    layers = sum(isinstance(layer, HetConv2d) for layer in module.modules())
    assert names.total() == layers
    assert names['HetConv2dResidual'] == (9 if 'resnet' in name else 0)


@pytest.mark.long
@pytest.mark.parametrize('name', NAMES)
def test_every_model(name):
    module = create_model(name)
    size = (3, 64, 64) if 'cifar' not in name else (3, 32, 32)
    lowered = compare(module, size)
    layers = sum(isinstance(layer, HetConv2d) for layer in module.modules())
    assert len(plugin_nodes(lowered)) == layers


class Block(nn.Module):
    """Two layers with what may stand around them."""

    def __init__(self, channels=16, part=2, *, bias=True, activation=None, kernel_size=3, out=None):
        super().__init__()
        self.first = HetConv2d(channels, out or channels, kernel_size, part=part, bias=bias)
        self.activation = activation or nn.ReLU()

    def forward(self, x):
        y = self.activation(self.first(x))
        return y.mean((2, 3))


class Shared(Block):
    def forward(self, x):
        y = self.first(x)  # two readers: neither may be fused
        return (y.relu() + y).mean((2, 3))


class Sum(Block):
    def forward(self, x):
        return (x + self.first(x)).relu().mean((2, 3))


@pytest.mark.parametrize(
    ('module', 'low', 'high', 'residual'),
    [
        (Block(), 0, math.inf, False),
        (Block(bias=False), 0, math.inf, False),
        (Block(activation=nn.ReLU6()), 0, 6, False),
        (Block(activation=nn.Sigmoid()), -math.inf, math.inf, False),
        (Block(kernel_size=(5, 3), part=8), 0, math.inf, False),
        (Shared(), -math.inf, math.inf, False),
        (Sum(), 0, math.inf, True),
        (Sum(bias=False), 0, math.inf, True),
    ],
)
def test_what_is_fused(module, low, high, residual):
    (node,) = plugin_nodes(compare(module, (16, 9, 7)))
    values = attributes(node)
    assert (values['low'], values['high']) == (low, high)
    assert len(node.input) == (4 if residual else 3)
    assert (values['plugin_namespace'], values['plugin_version']) == (b'hetconv', b'1')
    assert (values['aot'], values['sm']) == (1, 86)


@pytest.mark.parametrize(('channels', 'out'), [(12, 16), (16, 12)])
def test_channels_that_fill_no_vectors_are_left_to_tensorrt(channels, out):
    module = Block(channels, 4, out=out)
    lowered = to_tensorrt(export_model(module.eval(), (channels, 9, 7)), 'fp16', 86)
    assert not plugin_nodes(lowered)
    assert Counter(node.op_type for node in lowered.graph.node)['Conv'] == 2
    assert len(plugin_nodes(to_tensorrt(export_model(module, (channels, 9, 7)), 'fp32', 86))) == 1


def test_a_network_without_hetconv_has_no_plugin(exported):
    module, proto = exported('hetconv_resnet20_cifar_p1')
    assert not plugin_nodes(compare(module, (3, 32, 32), exported=proto))


def test_the_real_parser_gives_the_plugin_what_the_node_has(exported):
    """The ONNX parser of TensorRT-RTX shares TensorRT's code; it makes a plugin's fields before it refuses it."""
    trt = pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX is not installed')
    _, proto = exported('hetconv_resnet20_cifar_p4')
    lowered = to_tensorrt(proto, 'fp16', 86)
    asked = []

    class Creator(trt.IPluginCreatorV3One):
        def __init__(self, name):
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = name, '1', 'hetconv'
            fields = ['part', 'kernel_shape', 'strides', 'dilations', 'low', 'high', 'sm']
            self.arrays = [np.zeros(1, np.int32) for _ in fields]
            self.field_names = trt.PluginFieldCollection(
                [trt.PluginField(f, a, trt.PluginFieldType.INT32) for f, a in zip(fields, self.arrays)]
            )

        def create_plugin(self, name, fields, phase):
            asked.append((name, {field.name: field.data.tolist() for field in fields}))

    registry, creators = trt.get_plugin_registry(), [Creator('HetConv2d'), Creator('HetConv2dResidual')]
    for creator in creators:
        assert registry.register_creator(creator, 'hetconv')
    try:
        logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        assert not trt.OnnxParser(network, logger).parse(lowered.SerializeToString())
    finally:
        for creator in creators:
            registry.deregister_creator(creator)
    node = plugin_nodes(lowered)[0]
    values = attributes(node)
    expected = {key: np.atleast_1d(values[key]).tolist() for key in asked[0][1]}
    assert asked[0] == (node.name, expected)
    assert len(expected) == 7
