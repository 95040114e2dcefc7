"""The lowering of quantised graphs: what becomes of them, and that every layer computes what ONNX Runtime does."""

from collections import Counter

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper
from quantized_networks import quantized, reference
from torch import nn

from inference.build import build
from inference.engines.ort_cpu import make_session
from inference.export import export_model, kernels_of, save_model
from inference.kernels import cpu
from inference.kernels.cpu.int8 import int8_instruction_sets
from inference.lowering.ort_cpu import join_layers, to_ort_cpu
from inference.lowering.quantized import fuse_quantized
from inference.lowering.scaled import Scaled, floats_of
from inference.models import create_model
from timm_hetconv import HetConv2d

pytestmark = pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')
NHWC = 'hetconv.nhwc'
# Beside the layers in eight bits: how the input comes in, and the one pixel that goes into the classifier.
AROUND = {'Quantize': 1, 'QMean': 1, 'QuantizeLinear': 1, 'Reshape': 1}


def lower(proto):
    """A node for each layer, so that its values can be looked at."""
    return to_ort_cpu(proto, joined=False)


def operators(proto):
    return Counter(node.op_type for node in proto.graph.node)


def export(module, size, seed=0):
    """With norms that are not the identity, so that a layer mixed up with another would show."""
    torch.manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    return export_model(module.eval(), size)


def images(size, batch=2):
    return np.random.default_rng(1).standard_normal((batch, *size), np.float32)


def run(proto, x, **config):
    return make_session(proto.SerializeToString(), 2, **config).run(None, {'input': x})[0]


def with_values(proto, kinds):
    """The model with the outputs of all nodes of these kinds, and their names."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    names = [node.output[0] for node in model.graph.node if node.op_type in kinds]
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    return model, names


def check_layers(proto, lowered, x):
    """Each quantised operator by itself, on the bytes that the reference has there, beside the reference's result.

    A byte may differ by one step, where the exact sum is a tie and the reference's, in float32, is not, or the other
    way round.
    """
    import onnxruntime

    values, _ = with_values(proto, ['QuantizeLinear', 'Conv'])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(values.SerializeToString(), options, providers=['CPUExecutionProvider'])
    expected = dict(zip([value.name for value in session.get_outputs()], session.run(None, {'input': x})))
    constants = {tensor.name: tensor for tensor in lowered.graph.initializer}
    checked, differing, count = 0, 0, 0
    for node in lowered.graph.node:
        if node.op_type not in ('QHetConv2d', 'QConv'):
            continue
        feeds = {name: value_of(expected, name) for name in node.input if name not in constants}
        graph = helper.make_graph(
            [node], 'layer',
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                for name, value in feeds.items()
            ],
            [helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UINT8, [None] * 4)],
            [constants[name] for name in node.input if name in constants],
        )  # fmt: skip
        one = helper.make_model(graph, opset_imports=[helper.make_opsetid(NHWC, 1)], ir_version=10)
        (y,) = make_session(one.SerializeToString(), 1).run(None, feeds)
        difference = np.abs(y.astype(int) - value_of(expected, node.output[0]))
        assert difference.max() <= 1, node.name
        checked, differing, count = checked + 1, differing + np.count_nonzero(difference), count + difference.size
    assert differing <= 1e-4 * count + 1
    return checked


def value_of(expected, name):
    """In NHWC, by the name of a value of the lowered graph, which begins with that of the exported one."""
    value = expected[name.split('.Q')[0].removesuffix('.nhwc')]
    return np.ascontiguousarray(value.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ('name', 'size', 'expected'),
    [
        ('hetconv_resnet18_p4', 64, {'QConv': 1, 'QConvFloat': 4, 'QHetConv2d': 16, 'QMaxPool': 1, **AROUND}),
        (
            'hetconv_resnet20_cifar_p4', 32,
            {'QConv': 1, 'QConvFloat': 1, 'QHetConv2d': 18, **AROUND, 'QuantizeLinear': 3, 'AveragePool': 2,
             'Pad': 2, 'DequantizeLinear': 2},
        ),
    ],
)  # fmt: skip
def test_a_network_has_nothing_left_between_its_layers(name, size, expected):
    proto, x = export(create_model(name), (3, size, size)), images((3, size, size))
    graph = quantized(proto, x)
    lowered = lower(graph)
    assert operators(lowered) == expected
    assert check_layers(graph, lowered, x) == expected.get('QConv', 0) + expected.get('QHetConv2d', 0)
    # Ties are carried on and grow: a few hundredths of what quantisation itself changes would be too strict.
    wanted, exact = reference(graph, x), reference(proto, x)
    y = run(lowered, x)
    joined = join_layers(lowered)
    assert operators(joined)['Sequence'] + operators(joined)['QSequence'] > 0
    np.testing.assert_array_equal(run(joined, x), y)
    assert np.abs(y - wanted).max() < 0.02 * np.abs(wanted).max()
    assert np.abs(y - exact).max() < 0.05 * np.abs(exact).max()


def test_signed_activations_give_the_same_bits():
    proto, x = export(create_model('hetconv_resnet20_cifar_p8'), (3, 32, 32)), images((3, 32, 32))
    unsigned, signed = (lower(quantized(proto, x, signed=signed)) for signed in (False, True))
    assert operators(signed) == operators(unsigned)
    np.testing.assert_array_equal(run(signed, x), run(unsigned, x))


def test_every_instruction_set_gives_the_same_bits():
    proto, x = export(create_model('hetconv_resnet20_cifar_p16'), (3, 32, 32)), images((3, 32, 32))
    # The two layers in floats, an average and a padding, are sums of one number.
    lowered = lower(quantized(proto, x))
    outputs = [run(lowered, x, isa=isa) for isa in int8_instruction_sets()]
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


class Net(nn.Module):
    """Two layers, and what a test puts behind the first."""

    def __init__(self, between, first=None):
        super().__init__()
        self.first, self.second = first or HetConv2d(8, 8, part=2), nn.Conv2d(8, 8, 1)
        self.between = between

    def forward(self, x):
        return self.second(self.between(self.first(x), x))


NETS = {
    'relu': (lambda y, x: y.relu(), {}),
    'relu6': (lambda y, x: nn.functional.relu6(y), {}),
    'nothing': (lambda y, x: y, {}),
    'residual': (lambda y, x: (y + x).relu(), {}),
    'residual first': (lambda y, x: x + y, {}),
    'read twice': (lambda y, x: y.relu() + y, {'QuantizeLinear': 2, 'DequantizeLinear': 1, 'Relu': 1, 'Add': 1}),
    'slope': (lambda y, x: nn.functional.leaky_relu(y), {'LeakyRelu': 1, 'QuantizeLinear': 1}),
    'pool': (lambda y, x: nn.functional.max_pool2d(y.relu(), 3, 2, 1), {'QMaxPool': 1}),
}
LAYERS = {
    'hetconv': lambda: HetConv2d(8, 8, part=2),
    'stride': lambda: HetConv2d(8, 8, 5, part=4, stride=1, dilation=2),
    'grouped': lambda: nn.Conv2d(8, 8, 3, padding=1, groups=4),
    'depthwise': lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
}


@pytest.mark.parametrize(
    ('layer', 'case'),
    [('hetconv', case) for case in NETS]
    + [(layer, case) for layer in LAYERS for case in ('relu', 'residual') if layer != 'hetconv'],
)
def test_what_is_fused_and_what_is_not(layer, case):
    between, left = NETS[case]
    torch.manual_seed(0)
    x = images((8, 9, 7), 3)
    graph = quantized(export_model(Net(between, LAYERS[layer]()).eval(), (8, 9, 7)), x)
    lowered = lower(graph)
    found = operators(lowered)
    wanted = reference(graph, x)
    assert np.abs(run(lowered, x) - wanted).max() < 0.01 * np.abs(wanted).max()  # a step or less
    assert found.pop('QConvFloat') == 1
    assert found.pop('Quantize') == 1
    assert found.pop('Transpose') <= 2
    first = [op for op in found if op.startswith(('QHetConv2d', 'QConv'))]
    assert len(first) == 1
    found.pop(first[0])
    assert found == left


def test_layers_that_stay_in_floats():
    """One that was left out, and one whose weights have two scales: on the fp32 kernels, between Q and DQ."""
    size = (3, 32, 32)
    proto, x = export(create_model('hetconv_resnet20_cifar_p4'), size), images(size)
    layers = [node.output[0] for node in proto.graph.node if node.op_type == 'HetConv2d']
    left = quantized(proto, x, skip=layers[4:6])
    lowered = lower(left)
    found = operators(lowered)
    assert (found['HetConv2d'], found['QHetConv2d'] + found['QHetConv2dFloat']) == (2, 16)
    wanted = reference(left, x)
    assert np.abs(run(lowered, x) - wanted).max() < 0.02 * np.abs(wanted).max()

    apart = quantized(proto, x, joint=False)
    lowered = lower(apart)
    assert operators(lowered)['HetConv2d'] == 18
    assert not any(node.op_type.startswith('QHetConv2d') for node in lowered.graph.node)
    wanted = reference(apart, x)
    assert np.abs(run(lowered, x) - wanted).max() < 0.02 * np.abs(wanted).max()


def tampered(proto, change):
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    weights = [node for node in model.graph.node if node.op_type == 'DequantizeLinear' and '.weight' in node.output[0]]
    constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def set_constant(name, array):
        constants[name].CopyFrom(numpy_helper.from_array(array, name))

    change(model, weights[0], {name: numpy_helper.to_array(t) for name, t in constants.items()}, set_constant)
    return model


def weight_zero_point(model, node, constants, put):
    del model
    put(node.input[2], constants[node.input[2]] + np.int8(1))


def weight_axis(model, node, constants, put):
    del model, put
    assert constants[node.input[0]].shape[0] == constants[node.input[0]].shape[1]
    node.attribute[0].i = 1


def weight_type(model, node, constants, put):
    del model
    put(node.input[0], (constants[node.input[0]].astype(np.int16) + 128).astype(np.uint8))
    put(node.input[2], np.full_like(constants[node.input[2]], 0).astype(np.uint8) + np.uint8(128))


@pytest.mark.parametrize('change', [weight_zero_point, weight_axis, weight_type])
def test_weights_of_another_kind_stay_in_floats(change):
    torch.manual_seed(0)
    x = images((8, 9, 7))
    first = nn.Conv2d(8, 8, 3, padding=1)
    graph = tampered(quantized(export_model(Net(lambda y, x: y.relu(), first).eval(), (8, 9, 7)), x), change)
    lowered = lower(graph)
    assert operators(lowered)['FloatConv'] == 1
    wanted = reference(graph, x)
    assert np.abs(run(lowered, x) - wanted).max() < 0.01 * np.abs(wanted).max()


def test_the_bias_may_be_quantised():
    torch.manual_seed(0)
    x = images((8, 9, 7))
    proto = quantized(export_model(Net(lambda y, x: y.relu()).eval(), (8, 9, 7)), x)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    layer = next(node for node in proto.graph.node if node.op_type == 'HetConv2d')
    scale = constants['input.scale'] * constants[f'{layer.output[0]}.weight1.scale']
    bias = np.rint(np.linspace(-1, 1, 8) / scale).astype(np.int32)
    node = helper.make_node('DequantizeLinear', ['bias.q', 'bias.scale'], ['bias.dq'], axis=0)
    proto.graph.node.insert(0, node)
    proto.graph.initializer.extend(
        [numpy_helper.from_array(bias, 'bias.q'), numpy_helper.from_array(scale, 'bias.scale')]
    )
    layer.input[3] = 'bias.dq'
    lowered = lower(proto)
    assert operators(lowered)['QHetConv2d'] == 1
    wanted = reference(proto, x)
    assert np.abs(run(lowered, x) - wanted).max() < 0.01 * np.abs(wanted).max()
    assert check_layers(proto, lowered, x) == 1


def test_a_type_without_a_zero_point_is_read_off_the_node():
    """Signed inputs, whose node says so and has no zero point: it is 0, and negative numbers are not lost."""
    torch.manual_seed(0)
    x = images((8, 9, 7))
    x = np.concatenate([x, -x])  # the zero point is in the middle
    graph = quantized(export_model(Net(lambda y, x: y.relu()).eval(), (8, 9, 7)), x, signed=True)
    entry = next(node for node in graph.graph.node if node.op_type == 'QuantizeLinear')
    zero_point = next(tensor for tensor in graph.graph.initializer if tensor.name == entry.input[2])
    zero_point.CopyFrom(numpy_helper.from_array(np.int8(0), zero_point.name))
    wanted = reference(graph, x)
    for node in graph.graph.node:
        if entry.output[0] in (*node.input, *node.output):
            del node.input[2]
    entry.attribute.append(helper.make_attribute('output_dtype', onnx.TensorProto.INT8))
    graph.opset_import[0].version = 21
    del graph.graph.value_info[:]
    assert np.abs(run(lower(graph), x) - wanted).max() < 0.01 * np.abs(wanted).max()


@pytest.mark.parametrize('what', ['bias', 'scale', 'step'])
def test_a_layer_that_the_kernel_would_refuse_stays_in_floats(what):
    """A bias that is not finite; scales whose product leaves float32; a step of the output that is too small."""
    torch.manual_seed(0)
    x = images((8, 9, 7))
    net = Net(lambda y, x: y.relu(), nn.Conv2d(8, 8, 3, padding=1)).eval()
    if what == 'bias':
        net.first.bias.data[3] = -torch.inf
        graph = quantized(export_model(net, (8, 9, 7)), x)
    else:
        graph = tampered(quantized(export_model(net, (8, 9, 7)), x), large_scale if what == 'scale' else small_step)
    lowered = lower(graph)
    assert operators(lowered)['FloatConv'] == 1
    assert run(lowered, x).shape == (2, 8, 9, 7)


def small_step(model, node, constants, put):
    rounded = next(n for n in model.graph.node if n.op_type == 'QuantizeLinear' and n.input[0] != 'input')
    put(rounded.input[1], np.float32(1e-38))


def large_scale(model, node, constants, put):
    put(node.input[1], np.full_like(constants[node.input[1]], 1e30))
    put('input.scale', np.float32(1e30))


def test_bounds_as_attributes_are_not_lost():
    """Of a Clip in a file of an opset before 11."""
    torch.manual_seed(0)
    x = images((8, 9, 7))
    graph = quantized(export_model(Net(lambda y, x: y.relu()).eval(), (8, 9, 7)), x)
    relu = next(node for node in graph.graph.node if node.op_type == 'Relu')
    relu.op_type = 'Clip'
    relu.attribute.extend([helper.make_attribute('min', 0.0), helper.make_attribute('max', 1.0)])
    fused = ir.from_proto(graph)
    fuse_quantized(fused)
    assert [node.op_type for node in fused.graph].count('Clip') == 1


def test_fractions_of_float8_constants_are_kept():
    weights = np.array([[0.5, -1.75]], ml_dtypes.float8_e4m3fn)
    zero = np.zeros((), ml_dtypes.float8_e4m3fn)
    value = ir.Value(name='w', const_value=ir.tensor(weights))
    assert floats_of(Scaled(value, np.float32(2.0), zero), 0).tolist() == [[1.0, -3.5]]


def test_an_empty_batch_has_no_logits():
    proto, x = export_model(create_model('hetconv_resnet20_cifar_p4')), images((3, 32, 32))
    assert run(lower(quantized(proto, x)), x[:0]).shape == (0, 10)


def test_a_quantised_file_builds(tmp_path):
    proto, x = export_model(create_model('hetconv_resnet20_cifar_p4')), images((3, 32, 32), 8)
    save_model(quantized(proto, x), tmp_path / 'quantised.onnx')
    lowered, error = build(str(tmp_path / 'quantised.onnx'), 'ort-cpu')
    assert kernels_of(lowered).count('QHetConv2d') == 18
    assert 0 <= error < 0.02
    assert {entry.key for entry in lowered.metadata_props} >= {'hetconv', 'plugin'}
