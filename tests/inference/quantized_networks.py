"""An exported network with QuantizeLinear and DequantizeLinear, as a calibrator writes it: ranges from a few images."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

WEIGHTS = {'Conv': [1], 'HetConv2d': [1, 2], 'Gemm': [1]}
READERS = (*WEIGHTS, 'MaxPool', 'AveragePool', 'ReduceMean', 'Add')


def quantized(proto, images, *, skip=(), signed=False, joint=True):
    """Quantize what convolutions, pools and sums read, and the weights.

    Args:
        proto: From `export_model`.
        images: A batch that gives the ranges.
        skip: Names of outputs of layers that stay in floats.
        signed: Activations in int8 instead of uint8.
        joint: One scale for both weights of a HetConv2d; else one each.
    """
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    layers = [node for node in graph.node if node.op_type in WEIGHTS and node.output[0] not in skip]
    sums = {node.output[0] for node in graph.node if node.op_type in WEIGHTS}
    names = [layer.input[0] for layer in layers]
    names += [name for node in graph.node if node.op_type == 'Add' for name in node.input if name not in sums]
    names += [node.input[0] for node in graph.node if node.op_type in ('MaxPool', 'AveragePool', 'ReduceMean')]
    names = list(dict.fromkeys(names))
    ranges = _ranges(proto, images, names)
    for node in graph.node:
        if node.op_type == 'MaxPool' and node.output[0] in ranges:
            ranges[node.output[0]] = ranges[node.input[0]]

    nodes = []

    def add(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], name=f'{output}.{op}', **attributes))

    def constant(name, array):
        graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def quantize(name):
        low, high = ranges[name]
        scale = np.float32((high - low) / 255)
        zero_point = np.uint8(round(-low / scale))
        if signed:
            zero_point = np.int8(int(zero_point) - 128)
        parameters = [constant(f'{name}.scale', scale), constant(f'{name}.zero_point', zero_point)]
        add('QuantizeLinear', [name, *parameters], f'{name}.q')
        add('DequantizeLinear', [f'{name}.q', *parameters], f'{name}.dq')

    def quantize_weights(layer):
        places = WEIGHTS[layer.op_type]
        arrays = [constants[layer.input[i]] for i in places]
        largest = [abs(a).reshape(len(a), -1).max(1) for a in arrays]
        if joint:
            largest = [np.max(largest, 0)] * len(arrays)
        for i, array, most in zip(places, arrays, largest):
            scale = (np.where(most > 0, most, 1) / 127).astype(np.float32)
            rounded = np.rint(array / scale.reshape(-1, *[1] * (array.ndim - 1))).astype(np.int8)
            name = f'{layer.output[0]}.weight{i}'
            zeros = constant(f'{name}.zero_point', np.zeros(len(scale), np.int8))
            add('DequantizeLinear', [constant(f'{name}.q', rounded), constant(f'{name}.scale', scale), zeros],
                f'{name}.dq', axis=0)  # fmt: skip
            layer.input[i] = f'{name}.dq'

    for value in graph.input:
        if value.name in ranges:
            quantize(value.name)
    for node in graph.node:
        if node in layers:
            quantize_weights(node)
        if node.op_type in READERS and node.output[0] not in skip:
            for i, name in enumerate(node.input):
                if name in ranges:
                    node.input[i] = f'{name}.dq'
        nodes.append(node)
        for name in node.output:
            if name in ranges:
                quantize(name)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(model)
    return model


def _ranges(proto, images, names):
    """Smallest and largest value of each, zero among them."""
    import onnxruntime

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    inputs = {value.name for value in model.graph.input}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in inputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    values = dict(zip([output.name for output in session.get_outputs()], session.run(None, {name: images})))
    values[name] = images
    return {name: (min(values[name].min(), 0.0), max(values[name].max(), 1e-3)) for name in names}


def reference(proto, images):
    """What ONNX Runtime makes of the graph as it stands: fused, its own kernels saturate on older processors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=['CPUExecutionProvider'])
    return session.run(None, {session.get_inputs()[0].name: images})[0]
