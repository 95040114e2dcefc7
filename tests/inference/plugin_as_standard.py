"""A graph with nodes of our TensorRT plugin as one of standard operators, which ONNX Runtime computes."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from inference.hetconv_op import PLUGIN_DOMAIN
from inference.kernels.gpu.tiles import ITEM, Layer, padded


def plugin_nodes(proto):
    return [node for node in proto.graph.node if node.domain == PLUGIN_DOMAIN]


def attributes(node):
    return {attr.name: helper.get_attribute_value(attr) for attr in node.attribute}


def dense_kernel(layer, packed, item):
    """(N, M, K, K) of what the kernel reads: see `tiles.pack`."""
    merged = layer.merged()
    rows, group_rows, _ = padded(merged, item)
    kernel = np.zeros((layer.out_channels, layer.in_channels, layer.taps + 1), packed.dtype)
    taps = [tap for tap in range(layer.taps + 1) if tap != layer.taps // 2]
    for n in range(layer.out_channels):
        kernel[n, :, layer.taps // 2] = packed[: layer.in_channels, n]
        first = n // merged.group_out * merged.group_in
        for index, tap in enumerate(taps):
            begin = rows + index * group_rows
            kernel[n, first : first + merged.group_in, tap] = packed[begin : begin + merged.group_in, n]
    return kernel.reshape(layer.out_channels, layer.in_channels, *layer.kernel_size)


def as_standard(proto, precision):
    """Every plugin node as a dense Conv, a sum and a Clip, so that ONNX Runtime computes what TensorRT should."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    shaped = [*proto.graph.value_info, *proto.graph.input]
    channels = {
        v.name: v.type.tensor_type.shape.dim[1].dim_value for v in shaped if len(v.type.tensor_type.shape.dim) == 4
    }
    nodes = []
    for node in proto.graph.node:
        if node.domain != PLUGIN_DOMAIN:
            nodes.append(node)
            continue
        x, w, epilogue, *residual = node.input
        assert node.op_type == ('HetConv2dResidual' if residual else 'HetConv2d')
        assert weights[epilogue].dtype == np.float32
        values = attributes(node)
        n, part = weights[epilogue].shape[1], values['part']
        kernel, stride, dilation = (tuple(values[key]) for key in ('kernel_shape', 'strides', 'dilations'))
        layer, name = Layer(channels[x], n, part, kernel, stride, dilation), node.output[0]
        kind, same = weights[w].dtype, [d * (k // 2) for d, k in zip(dilation, kernel)]
        conv = dict(kernel_shape=kernel, strides=stride, dilations=dilation, pads=same * 2)
        if kind == np.int8:
            nodes += _of_bytes(proto, node, dense_kernel(layer, weights[w], 1), weights[epilogue], conv)
            continue
        for key, array in (
            ('kernel', dense_kernel(layer, weights[w], ITEM[precision])),
            ('bias', weights[epilogue][0].astype(kind)),
            ('low', np.array(max(values['low'], np.finfo(kind).min), kind)),
            ('high', np.array(min(values['high'], np.finfo(kind).max), kind)),
        ):
            proto.graph.initializer.append(numpy_helper.from_array(array, f'{name}.{key}'))
        nodes.append(helper.make_node('Conv', [x, f'{name}.kernel', f'{name}.bias'], [f'{name}.conv'], **conv))
        if residual:
            nodes.append(helper.make_node('Add', [f'{name}.conv', *residual], [f'{name}.sum']))
        before = f'{name}.sum' if residual else f'{name}.conv'
        nodes.append(helper.make_node('Clip', [before, f'{name}.low', f'{name}.high'], [name]))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def _of_bytes(proto, node, kernel, epilogue, conv):
    """One in INT8: sums of bytes, exact in float32, then what kernel.py says of its epilogue."""
    x, name = node.input[0], node.output[0]
    values = attributes(node)
    arrays = {
        'kernel': kernel.astype(np.float32), 'scale': epilogue[0].reshape(1, -1, 1, 1),
        'bias': epilogue[1].reshape(1, -1, 1, 1), 'z_scale': epilogue[2].reshape(1, -1, 1, 1),
        'low': np.float32(max(values['low'], -128)), 'high': np.float32(min(values['high'], 127)),
    }  # fmt: skip
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array, np.float32), f'{name}.{key}') for key, array in arrays.items()
    )
    last, made = x, []

    def add(op, *others, **attrs):
        nonlocal last
        after = f'{name}.{len(made)}'
        made.append(helper.make_node(op, [last, *others], [after], **attrs))
        last = after

    add('Cast', to=onnx.TensorProto.FLOAT)
    add('Conv', f'{name}.kernel', **conv)
    add('Mul', f'{name}.scale')
    add('Add', f'{name}.bias')
    if len(node.input) > 3:
        real, last = last, node.input[3]
        add('Cast', to=onnx.TensorProto.FLOAT)
        add('Mul', f'{name}.z_scale')
        add('Add', real)
    add('Clip', f'{name}.low', f'{name}.high')
    add('Round')  # halves to even
    add('Cast', to=onnx.TensorProto.INT8)
    made[-1].output[0] = name
    return made
