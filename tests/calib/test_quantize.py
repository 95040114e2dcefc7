"""The INT8 graph against an oracle that rounds by hand, and what engines make of it."""

import collections

import numpy as np
import onnx
import pytest
from networks import images, network

from calib.layers import find_layers, residuals, tensors_of
from calib.presets import PRESETS, preset_of
from calib.quantize import quantize, weight_scales
from calib.ranges import tapped_session
from inference.errors import UserError
from inference.export import metadata
from inference.kernels import reference
from inference.lowering.portable import to_portable

RANGES = {'input': (-4.0, 4.0), 'b': (0.0, 3.0), 'f': (0.0, 2.0), 's': (-3.0, 2.0), 'e': (0.0, 5.0)}
SYMMETRIC = {name: (-max(-low, high), max(-low, high)) for name, (low, high) in RANGES.items()}


def quantised(preset='cpu', keep=(), proto=None, **options):
    proto = proto or network()
    layers = [layer for layer in find_layers(proto) if layer.name not in keep]
    return quantize(proto, layers, SYMMETRIC if PRESETS[preset].symmetric else RANGES, PRESETS[preset], **options)


def weights_of(proto):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def steps(values, low, high, signed):
    """Round to 256 steps, as numbers."""
    scale = (high - low) / 255 if low != -high or not signed else high / 127.5
    zero = np.round(-low / scale)
    return (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale


def test_one_scale_a_channel_for_both_weights_of_a_hetconv():
    weights = weights_of(quantised(proto=network(scale=5)))
    scale, kxk = weights['mix.weight_scale'], weights['mix.weight_kxk_scale']
    assert scale.shape == (8,)
    np.testing.assert_array_equal(scale, kxk)
    for name in ('mix.weight', 'mix.weight_kxk'):
        exact = weights_of(network(scale=5))[name]
        found = weights[f'{name}_quantized']
        assert found.dtype == np.int8
        np.testing.assert_allclose(found * scale[:, None, None, None], exact, atol=0.5001 * scale.max(), rtol=0)
    assert max(abs(weights['mix.weight_quantized']).max(), abs(weights['mix.weight_kxk_quantized']).max()) == 127


def test_a_channel_of_zeros_has_a_scale():
    np.testing.assert_array_equal(weight_scales([np.zeros((2, 3, 1, 1)), np.zeros((2, 1, 3, 3))]), [1, 1])


def test_seven_bits():
    weights = weights_of(quantised(reduce_range=True))
    assert max(abs(value).max() for name, value in weights.items() if name.endswith('weight_quantized')) == 63


def test_each_layer_is_one_unit():
    """Q/DQ before every layer and the mean and on the shortcut, none after a layer whose output is added to."""
    graph = quantised().graph
    assert collections.Counter(node.op_type for node in graph.node)['QuantizeLinear'] == 5
    producer = {output: node for node in graph.node for output in node.output}
    add = next(node for node in graph.node if node.op_type == 'Add')
    assert {producer[name].op_type for name in add.input} == {'HetConv2d', 'DequantizeLinear'}
    for node in graph.node:
        if node.op_type in ('Conv', 'HetConv2d', 'Gemm'):
            count = 3 if node.op_type == 'HetConv2d' else 2
            assert [producer[name].op_type for name in node.input[:count]] == ['DequantizeLinear'] * count


def test_a_pooling_has_one_scale_and_gives_the_same():
    proto = network(pool=True)
    assert tensors_of(proto, find_layers(proto)) == ['input', 'b', 'f', 's', 'e']
    graph = quantised(proto=proto).graph
    producer = {output: node for node in graph.node for output in node.output}
    pool = next(node for node in graph.node if node.op_type == 'MaxPool')
    after = next(node for node in graph.node if node.op_type == 'QuantizeLinear' and node.input[0] == 'p')
    before = producer[pool.input[0]]
    assert before.op_type == 'DequantizeLinear'
    assert list(before.input[1:]) == list(after.input[1:])
    session = tapped_session(quantised(proto=proto), ['p', after.output[0].replace('Quantize', 'Dequantize')])
    pooled, rounded = session.run(None, {'input': images()})[1:]
    np.testing.assert_array_equal(pooled, rounded)


def test_a_layer_that_stays_in_float_is_as_it_was():
    proto = quantised(keep=('mix',))
    node = next(node for node in proto.graph.node if node.op_type == 'HetConv2d')
    assert list(node.input[1:]) == ['mix.weight', 'mix.weight_kxk', 'mix.bias']
    # The shortcut is rounded only where the layer that it is added to is.
    assert residuals(network(), [layer for layer in find_layers(network()) if layer.name != 'mix']) == []


@pytest.mark.parametrize('name', PRESETS)
def test_types(name):
    preset = preset_of(name)
    zeros = {key: value for key, value in weights_of(quantised(name)).items() if key.endswith('_zero_point')}
    activations = [value for key, value in zeros.items() if 'weight' not in key]
    assert {value.dtype for value in activations} == {np.dtype(np.int8 if preset.signed else np.uint8)}
    if preset.symmetric:
        assert not any(activations)


def test_values_are_those_of_rounding_by_hand():
    """The whole network in NumPy, in double, with every activation that has a scale and every weight rounded."""
    weights, x = weights_of(network()), images(8)
    both = weight_scales([weights['mix.weight'], weights['mix.weight_kxk']])
    for name, value in weights.items():
        if 'weight' in name:
            scale = both if name.startswith('mix') else weight_scales([value])
            scale = scale.astype(np.float64).reshape(-1, *[1] * (value.ndim - 1))
            weights[name] = np.round(value / scale) * scale

    def rounded(name, value):
        return steps(value, *RANGES[name], False)

    def conv(value, name, **options):
        return reference.conv2d(value, weights[name], bias=weights[name.split('.')[0] + '.bias'], **options)

    pads = dict(pads=(1, 1, 1, 1))
    b = rounded('b', np.maximum(conv(rounded('input', x).transpose(0, 2, 3, 1), 'stem.weight', **pads), 0))
    c = conv(b, 'mix.weight_kxk', w=weights['mix.weight'][:, :, 0, 0], part=4, **pads)
    e = rounded('e', np.maximum(c + rounded('s', conv(b, 'shortcut.weight')), 0))
    expected = rounded('f', e.mean((1, 2))) @ weights['fc.weight'].T + weights['fc.bias']
    found = dict(zip(['c', 'logits'], tapped_session(quantised(), ['c']).run(['c', 'logits'], {'input': x})))
    # A tie may fall to the other side: then one input of a sum is a step off.
    assert np.mean(np.abs(found['c'].transpose(0, 2, 3, 1) - c) < 1e-4) > 0.99
    assert np.abs(found['c'].transpose(0, 2, 3, 1) - c).max() < 0.05
    np.testing.assert_allclose(found['logits'], expected, atol=0.02)


def test_metadata_says_what_it_is():
    facts = metadata(quantised(facts={'preset': 'cpu'}))
    assert facts['input_size'] == [3, 8, 8]
    assert facts['int8'] == {'preset': 'cpu'}


def test_the_registry_of_onnxruntime_is_left_as_it_was():
    from onnxruntime.quantization.registry import QDQRegistry

    before = dict(QDQRegistry)
    quantised()
    assert before == QDQRegistry


def test_an_unknown_preset():
    with pytest.raises(UserError, match="unknown preset 'tensort'; did you mean tensorrt"):
        preset_of('tensort')


@pytest.mark.parametrize('name', PRESETS)
def test_openvino_takes_it(name):
    openvino = pytest.importorskip('openvino')
    proto, x = quantised(name), images()
    expected = tapped_session(proto, []).run(None, {'input': x})[0]
    core = openvino.Core()
    model = core.compile_model(core.read_model(to_portable(proto).SerializeToString()), 'CPU')
    np.testing.assert_allclose(model({'input': x})['logits'], expected, atol=0.05 * abs(expected).max())
