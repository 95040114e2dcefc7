"""What is quantised, by which name, and what is refused."""

import numpy as np
import onnx
import pytest
from networks import network

from calib.layers import check_float_graph, find_layers, means, residuals, select, tensors_of
from inference.errors import UserError


def names(layers):
    return [layer.name for layer in layers]


def test_layers_have_their_modules_names_and_their_cost():
    layers = find_layers(network())
    assert names(layers) == ['stem', 'shortcut', 'mix', 'fc']
    # 8 x 8 pixels; HetConv: M N (1 + 8 / P).
    assert [layer.macs for layer in layers] == [64 * 8 * 27, 64 * 64, 64 * 64 * 3, 32]
    assert layers[2].weights == ('mix.weight', 'mix.weight_kxk')


@pytest.mark.parametrize('name', ['hetconv_resnet20_cifar_p4', 'hetconv_mobilenet_cifar_p32_se'])
def test_registered_networks(name, exported):
    """Every counted multiply-accumulate is of a layer here, but for those of squeeze-and-excitation."""
    import timm

    import timm_hetconv

    counted = timm_hetconv.count(timm.create_model(name, device='meta')).layers
    expected = sum(layer.macs for layer in counted if '.se.' not in layer.name)
    layers = find_layers(exported(name))
    assert sum(layer.macs for layer in layers) == expected
    assert not any('node_' in layer.name for layer in layers)


def test_layers_that_stay_in_float():
    layers = find_layers(network())
    assert names(select(layers, ())) == names(layers)
    assert names(select(layers, ('first', 'mix', 'last'))) == ['shortcut']
    with pytest.raises(UserError, match="unknown layer 'mox'; did you mean mix"):
        select(layers, ('mox',))
    with pytest.raises(UserError, match='nothing is left'):
        select(layers, names(layers))


def test_the_shortcut_is_rounded_and_what_it_is_added_to_is_not():
    proto = network()
    assert residuals(proto, find_layers(proto)) == ['s']
    assert tensors_of(proto, find_layers(proto)) == ['input', 'b', 'f', 's', 'e']


def node_of(proto, name):
    return next(node for node in proto.graph.node if node.name == name)


@pytest.mark.parametrize('op', ['ReduceMean', 'GlobalAveragePool'])
def test_a_mean_between_quantised_layers_reads_bytes(op):
    proto = network()
    if op == 'GlobalAveragePool':
        mean = node_of(proto, 'node_mean')
        mean.op_type = op
        del mean.input[1:], mean.attribute[:]
    layers = find_layers(proto)
    assert [node.name for node in means(proto, layers)] == ['node_mean']
    assert means(proto, select(layers, ('last',))) == []
    assert means(proto, select(layers, ('mix', 'shortcut'))) == []


def a_sum_of_bytes_and_floats(proto):
    """The last convolution in float, and an identity shortcut from a quantised one."""
    node_of(proto, 'node_add').input[1] = 'b'
    return ('mix',)


def gated(proto):
    """Squeeze-and-excitation before the sum: no layer's epilogue reaches the mean."""
    at = list(proto.graph.node).index(node_of(proto, 'node_add'))
    proto.graph.node.insert(at, onnx.helper.make_node('Mul', ['c', 'c'], ['g'], 'node_gate'))
    proto.graph.node[at + 1].input[0] = 'g'
    proto.graph.node[at + 1].input[1] = 'b'
    return ()


def over_channels(proto):
    axes = next(tensor for tensor in proto.graph.initializer if tensor.name == 'axes')
    axes.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 2]), 'axes'))
    return ()


def without_sizes(proto):
    node_of(proto, 'node_mean').attribute[0].i = 0
    return ()


def added_elsewhere(proto):
    """Rounding what the mean reads would round what a residual adds."""
    proto.graph.node.append(onnx.helper.make_node('Add', ['e', 'e'], ['twice'], 'node_twice'))
    return ()


@pytest.mark.parametrize('change', [a_sum_of_bytes_and_floats, gated, over_channels, without_sizes, added_elsewhere])
def test_means_that_stay_in_float(change):
    proto = network()
    kept = change(proto)
    assert means(proto, select(find_layers(proto), kept)) == []


def test_small_maps_are_no_gates():
    """A network of small images ends in maps of one pixel: only what leads to a sigmoid is left out."""
    import timm

    import timm_hetconv
    from inference.export import export_model

    model, _ = timm_hetconv.convert(timm.create_model('resnet18', num_classes=10).eval(), part=4)
    found = find_layers(export_model(model, (3, 32, 32)))
    assert sum(layer.macs for layer in found) == timm_hetconv.count(model, (3, 32, 32)).macs


def test_a_layer_that_is_used_twice_has_two_names():
    proto = network()
    again = onnx.helper.make_node('Conv', ['e', 'shortcut.weight', 'shortcut.bias'], ['e2'], 'node_again')
    at = next(i for i, node in enumerate(proto.graph.node) if node.op_type == 'ReduceMean')
    proto.graph.node[at].input[0] = 'e2'
    proto.graph.node.insert(at, again)
    assert names(find_layers(proto)) == ['stem', 'shortcut', 'mix', 'shortcut#2', 'fc']


def test_graphs_that_cannot_be_quantised():
    check_float_graph(network())
    with pytest.raises(UserError, match='opset 12 is too old'):
        check_float_graph(network(opset=12))
    quantised = network()
    quantised.graph.node.insert(0, onnx.helper.make_node('QuantizeLinear', ['input', 's', 'z'], ['q']))
    with pytest.raises(UserError, match='quantised already'):
        check_float_graph(quantised)
    empty = network()
    del empty.graph.initializer[:]
    with pytest.raises(UserError, match='no convolution or linear layer'):
        find_layers(empty)
