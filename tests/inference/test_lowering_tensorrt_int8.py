"""A network in INT8 with the layers of our TensorRT plugin: what becomes of it, and that it computes the same."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

pytest.importorskip('triton', reason='Triton compiles the plugin')
from plugin_as_standard import as_standard, attributes, plugin_nodes

from calib.layers import find_layers, tensors_of
from calib.presets import PRESETS
from calib.quantize import quantize
from calib.ranges import collect_ranges, session_of
from inference.export import INPUT, export_model, metadata
from inference.lowering.tensorrt import to_tensorrt
from inference.models import create_model
from timm_hetconv import HetConv2d


def images(size, batch=4):
    return np.random.default_rng(0).standard_normal((batch, *size), np.float32)


def quantised(proto, x, preset='tensorrt', layers=None):
    preset, layers = PRESETS[preset], layers or find_layers(proto)
    size = metadata(proto)['input_size']
    ranges = collect_ranges(proto, tensors_of(proto, layers), [(x, None)], size, symmetric=preset.symmetric)
    return quantize(proto, layers, ranges, preset, facts={'preset': preset.name})


def run(proto, x):
    return session_of(proto, optimised=False).run(None, {INPUT: x})[0]


@pytest.fixture(scope='module')
def resnet():
    proto = export_model(create_model('hetconv_resnet20_cifar_p4'))
    x = images((3, 32, 32))
    return quantised(proto, x), x


def test_a_network_computes_the_same(resnet):
    """But for ties: the sum of a layer is exact here, and of floats in the graph as it stands."""
    graph, x = resnet
    lowered = to_tensorrt(graph, 'fp32', 86)
    wanted = run(graph, x)
    assert np.abs(run(as_standard(lowered, 'fp32'), x) - wanted).max() < 0.02 * np.abs(wanted).max()
    kinds = Counter(node.op_type for node in plugin_nodes(lowered))
    # Two add a shortcut of average pooling, which stays in float.
    assert kinds == {'HetConv2d': 9, 'HetConv2dResidual': 7}
    values = {value.name: value.type.tensor_type.elem_type for value in lowered.graph.value_info}
    constants = {tensor.name: tensor.data_type for tensor in lowered.graph.initializer}
    for node in plugin_nodes(lowered):
        images_in = [node.input[0], *node.input[3:], node.output[0]]
        assert {values[name] for name in images_in} == {onnx.TensorProto.INT8}
        assert constants[node.input[1]] == onnx.TensorProto.INT8
        assert constants[node.input[2]] == onnx.TensorProto.FLOAT


def test_every_layer_gives_the_bytes_that_the_graph_has(resnet):
    """Each plugin node beside the QuantizeLinear that it has taken in; a tie may go the other way."""
    graph, x = resnet
    standard = as_standard(to_tensorrt(graph, 'fp32', 86), 'fp32')
    names = [node.output[0] for node in plugin_nodes(to_tensorrt(graph, 'fp32', 86))]
    found, wanted = (_values(proto, names, x) for proto in (standard, graph))
    first = np.abs(found[0].astype(int) - wanted[0])  # later ones have other inputs where a tie went the other way
    assert first.max() <= 1
    assert np.count_nonzero(first) <= 1e-3 * first.size
    for a, b in zip(found, wanted):
        assert np.abs(a.astype(int) - b).mean() < 0.1


def _values(proto, names, x):
    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    tapped.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return session_of(tapped, optimised=False).run(names, {INPUT: x})


def test_half_precision_leaves_bytes_and_epilogues_alone(resnet):
    graph, _ = resnet
    lowered = to_tensorrt(graph, 'fp16', 86)
    constants = {tensor.name: tensor.data_type for tensor in lowered.graph.initializer}
    nodes = plugin_nodes(lowered)
    assert len(nodes) == 16
    assert {constants[node.input[1]] for node in nodes} == {onnx.TensorProto.INT8}
    assert {constants[node.input[2]] for node in nodes} == {onnx.TensorProto.FLOAT}
    values = {value.name: value.type.tensor_type.elem_type for value in lowered.graph.value_info}
    assert {values[name] for node in nodes for name in (node.input[0], node.output[0])} == {onnx.TensorProto.INT8}


class Net(nn.Module):
    """A HetConv between what gives and what takes bytes."""

    def __init__(self, activation=None, channels=32, residual=False):
        super().__init__()
        self.first, self.last = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.het = HetConv2d(channels, channels, part=2, bias=True)
        self.activation, self.residual = activation or nn.Identity(), residual

    def forward(self, x):
        y = self.first(x)
        y = self.het(y) + y if self.residual else self.het(y)
        return self.last(self.activation(y))


@pytest.mark.parametrize(
    ('activation', 'residual', 'bounds'),
    [
        (None, False, (-np.inf, np.inf)),
        (nn.ReLU(), False, (0, np.inf)),
        (nn.ReLU6(), True, (0, 6)),
        (None, True, (-np.inf, np.inf)),
    ],
)
def test_bounds_are_in_steps_of_the_output(activation, residual, bounds):
    torch.manual_seed(0)
    x = images((32, 7, 5))
    graph = quantised(export_model(Net(activation, residual=residual).eval(), (32, 7, 5)), x)
    lowered = to_tensorrt(graph, 'fp32', 86)
    (node,) = plugin_nodes(lowered)
    assert len(node.input) == 3 + residual
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    rounding = next(n for n in graph.graph.node if n.output[0] == node.output[0])
    scale = float(constants[rounding.input[1]])
    found = attributes(node)
    np.testing.assert_allclose((found['low'], found['high']), np.array(bounds) / scale, rtol=1e-6)
    wanted = run(graph, x)
    assert np.abs(run(as_standard(lowered, 'fp32'), x) - wanted).max() < 0.01 * np.abs(wanted).max()


def test_channels_that_fill_no_vectors_stay_two_convolutions():
    x = images((24, 7, 5))
    assert not plugin_nodes(to_tensorrt(quantised(export_model(Net(channels=24).eval(), (24, 7, 5)), x), 'fp16', 86))


def test_zero_points_stay_two_convolutions():
    x = images((32, 7, 5))
    assert not plugin_nodes(to_tensorrt(quantised(export_model(Net().eval(), (32, 7, 5)), x, 'cpu'), 'fp16', 86))


def test_a_layer_in_float_is_a_plugin_in_float():
    """In float32: ONNX's QuantizeLinear behind it takes no half precision in this opset."""
    x = images((32, 7, 5))
    proto = export_model(Net().eval(), (32, 7, 5))
    others = [layer for layer in find_layers(proto) if layer.op_type != 'HetConv2d']
    lowered = to_tensorrt(quantised(proto, x, layers=others), 'fp16', 86)
    (node,) = plugin_nodes(lowered)
    constants = {tensor.name: tensor.data_type for tensor in lowered.graph.initializer}
    assert constants[node.input[1]] == onnx.TensorProto.FLOAT
