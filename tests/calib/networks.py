"""Networks of a few layers with random weights, as `hetconv export` would write them, in the blink of an eye."""

import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from inference.export import INPUT, METADATA_KEY, OUTPUT
from inference.hetconv_op import DOMAIN, VERSION, function

CONV = dict(kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1])
SIZE = [3, 8, 8]


def network(scale=1.0, classes=4, opset=18, zero=False, pool=False):
    """Conv, Relu, HetConv2d + shortcut Conv, Relu, mean, Gemm.

    Args:
        scale: Of the HetConv's K x K weights beside the 1 x 1, which share a scale of INT8.
        classes: Logits.
        opset: Of standard operators.
        zero: The first layer gives nothing but zeros.
        pool: With a MaxPool behind the first Relu, which gives 'p'.
    """
    random = np.random.default_rng(0)

    def weights(*shape):
        return random.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[1:])).astype(np.float32)

    kxk = weights(8, 2, 3, 3) * scale
    kxk[:, :, 1, 1] = 0
    stem = weights(8, 3, 3, 3)
    tensors = {
        'stem.weight': stem * (not zero), 'stem.bias': weights(8, 1)[:, 0] * (not zero),
        'mix.weight': weights(8, 8, 1, 1), 'mix.weight_kxk': kxk.astype(np.float32), 'mix.bias': weights(8, 1)[:, 0],
        'shortcut.weight': weights(8, 8, 1, 1), 'shortcut.bias': weights(8, 1)[:, 0],
        'fc.weight': weights(classes, 8), 'fc.bias': weights(classes, 1)[:, 0], 'axes': np.array([2, 3], np.int64),
    }  # fmt: skip
    pointwise = dict(kernel_shape=[1, 1], strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1])
    nodes = [
        helper.make_node('Conv', [INPUT, 'stem.weight', 'stem.bias'], ['a'], 'node_stem', **CONV),
        helper.make_node('Relu', ['a'], ['b'], 'node_relu'),
        helper.make_node('Conv', ['b', 'shortcut.weight', 'shortcut.bias'], ['s'], 'node_shortcut', **pointwise),
        helper.make_node(
            'HetConv2d', ['b', 'mix.weight', 'mix.weight_kxk', 'mix.bias'], ['c'], 'mix', domain=DOMAIN, part=4, **CONV
        ),
        helper.make_node('Add', ['c', 's'], ['d'], 'node_add'),
        helper.make_node('Relu', ['d'], ['e'], 'node_relu_1'),
        helper.make_node('ReduceMean', ['e', 'axes'], ['m'], 'node_mean', keepdims=1),
        helper.make_node('Flatten', ['m'], ['f'], 'node_flatten'),
        helper.make_node('Gemm', ['f', 'fc.weight', 'fc.bias'], [OUTPUT], 'node_fc', transB=1),
    ]
    if pool:
        for node in nodes[2:4]:
            node.input[0] = 'p'
        nodes.insert(2, helper.make_node('MaxPool', ['b'], ['p'], 'node_pool', kernel_shape=[2, 2], strides=[2, 2]))
    graph = helper.make_graph(
        nodes, 'small',
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ['batch', *SIZE])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ['batch', classes])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid('', opset), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[function()], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: json.dumps({'input_size': SIZE, 'num_classes': classes})})
    return model


def images(count=24, seed=1):
    """(count, 3, 8, 8)."""
    return np.random.default_rng(seed).standard_normal((count, *SIZE), np.float32)
