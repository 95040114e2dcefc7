"""Convolutions between QuantizeLinear and DequantizeLinear into one quantised operator each, still in NCHW.

    y = Q([Relu]([DQ(z) + ] Conv(DQ(x), DQ(w), b)))  ->  y = QConv(x, w, scale, b, z)

and so HetConv2d, with both of its weights, and Gemm. Without the Q at the end the operator gives floats. Activations
have one scale a tensor and eight bits, weights are int8 with a zero point of 0 and one scale an output channel, the
same for both weights of a HetConv2d. What is not so stays in floats, between the Q and DQ that are there; weights of
such layers become floats here. `nhwc.py` moves the operators to NHWC and to the domain of the kernels.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from ..hetconv_op import DOMAIN as EXPORT_DOMAIN
from .chain import Chain, follow, next_of
from .scaled import Scaled, activation_of, bias_of, describe, fits, floats_of, is_activation, scaled_of, weight_of
from .walk import array_of, ints, rank

__all__ = ['DOMAIN', 'fuse_quantized', 'is_quantized']

DOMAIN = 'hetconv.int8'  # of the operators between this pass and `nhwc.py`


def is_quantized(nodes: Iterable[Any]) -> bool:
    """Whether some of the nodes, of onnx or onnx_ir, quantise values."""
    return any(node.op_type in ('QuantizeLinear', 'DequantizeLinear') for node in nodes)


def fuse_quantized(model: ir.Model) -> None:
    """Rewrite a model in place; one without quantised values stays as it is."""
    graph = model.graph
    if not is_quantized(graph):
        return
    describe(graph)
    _to_unsigned(graph)
    for node in list(graph):
        if rule := _RULES.get((node.domain, node.op_type)):
            rule(graph, node)
    _remove_unused(graph)
    for node in list(graph):
        if node.op_type == 'DequantizeLinear' and array_of(node.inputs[0]) is not None:
            _to_float(graph, node)
    _remove_unused(graph)


def _remove_unused(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if all(not out.uses() and not out.is_graph_output() for out in node.outputs):
            graph.remove(node, safe=True)


def _to_float(graph: ir.Graph, node: Any) -> None:
    """A constant that nothing took in eight bits, the weights of a layer that stays in floats."""
    y, scaled = node.outputs[0], scaled_of(node, node.inputs[0])
    if scaled is None or 'block_size' in node.attributes or y.is_graph_output():
        return
    axis = node.attributes.get_int('axis', 1) % max(rank(node.inputs[0]) or 1, 1)
    floats: Any = floats_of(scaled, axis)  # the caller has seen that it is constant
    ir.convenience.replace_all_uses_with(y, _constant(graph, floats, f'{y.name}.float'))


def _constant(graph: ir.Graph, array: np.ndarray, name: str) -> ir.Value:
    while name in graph.initializers:  # of the file
        name += '_'
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
    graph.register_initializer(value)
    return value


def _to_unsigned(graph: ir.Graph) -> None:
    """Signed activations as unsigned ones: 128 more, and so the zero point. Nothing else changes."""
    for node in list(graph):
        y = node.outputs[0]
        if node.op_type != 'QuantizeLinear' or y.dtype != ir.DataType.INT8 or y.is_graph_output():
            continue
        readers = [use.node for use in y.uses()]
        ends = [node, *readers]
        if any(reader.op_type != 'DequantizeLinear' for reader in readers) or any(len(end.inputs) < 3 for end in ends):
            continue
        zero_points = [array_of(end.inputs[2]) for end in ends]
        if any(zero_point is None for zero_point in zero_points):
            continue
        for end, zero_point in zip(ends, zero_points):
            shifted = (zero_point.astype(np.int16) + 128).astype(np.uint8)
            end.replace_input_with(2, _constant(graph, shifted, f'{end.outputs[0].name}.unsigned_zero_point'))
        node.attributes.pop('output_dtype', None)
        y.dtype = ir.DataType.UINT8


def _emit(
    graph: ir.Graph, op: str, x: Scaled, weights: list[Scaled], bias: np.ndarray, chain: Chain, **attributes: Any
) -> ir.Value:
    """The operator, before the last node that it takes in."""
    y = chain.value
    scale = (np.float64(x.scale) * weights[0].scale.astype(np.float64)).astype(np.float32)
    inputs = [x.value, *(weight.value for weight in weights)]
    inputs += [_constant(graph, scale, f'{y.name}.scale'), _constant(graph, bias, f'{y.name}.bias')]
    inputs += [] if chain.residual is None else [chain.residual]
    attributes = dict(attributes, x_zero_point=x.numbers[1], **chain.attributes)
    name = op if 'y_scale' in chain.attributes else f'{op}Float'
    return _insert(graph, y.producer(), name, inputs, y, **attributes)


def _insert(
    graph: ir.Graph, before: Any, op: str, inputs: list[ir.Value], like: ir.Value, domain: str = DOMAIN, **attributes
) -> ir.Value:
    """A node, and its output with the type and shape of `like`."""
    attrs = [ir.convenience.convert_attribute(key, value) for key, value in attributes.items()]
    node = ir.Node(domain, op, inputs, attrs, num_outputs=1, name=f'{like.name}.{op}')
    graph.insert_before(before, node)
    output = node.outputs[0]
    output.type, output.shape, output.name = like.type, like.shape, node.name
    return output


def _replace(graph: ir.Graph, y: ir.Value, by: ir.Value) -> None:
    """For all who read `y`; what the graph gives keeps its name."""
    for i, value in enumerate(graph.outputs):
        if value is y:
            graph.outputs[i] = by
            y.name, by.name = f'{y.name}.replaced', y.name
    ir.convenience.replace_all_uses_with(y, by)


def _hetconv(graph: ir.Graph, node: Any) -> None:
    x, w, w_kxk = activation_of(node.inputs[0]), weight_of(node.inputs[1]), weight_of(node.inputs[2])
    if x is None or w is None or w_kxk is None or not np.array_equal(w.scale, w_kxk.scale):
        return
    bias = bias_of(node.inputs[3] if len(node.inputs) > 3 else None, len(w.scale))
    chain = follow(node.outputs[0])
    if bias is None or not fits(x, [w, w_kxk], bias, chain.attributes):
        return
    attributes: dict[str, Any] = {
        name: ints(node, name, []) for name in ('kernel_shape', 'strides', 'pads', 'dilations')
    }
    out = _emit(graph, 'QHetConv2d', x, [w, w_kxk], bias, chain, part=node.attributes.get_int('part'), **attributes)
    _replace(graph, chain.value, out)


def _conv(graph: ir.Graph, node: Any) -> None:
    x, w = activation_of(node.inputs[0]), weight_of(node.inputs[1])
    if x is None or w is None or rank(x.value) != 4:
        return
    bias = bias_of(node.inputs[2] if len(node.inputs) > 2 else None, len(w.scale))
    if bias is None or node.attributes.get_string('auto_pad', 'NOTSET') not in ('NOTSET', 'VALID'):
        return
    chain = follow(node.outputs[0])
    if not fits(x, [w], bias, chain.attributes):
        return
    out = _emit(
        graph, 'QConv', x, [w], bias, chain,
        group=node.attributes.get_int('group', 1),
        kernel_shape=list(w.value.shape[2:]),
        strides=ints(node, 'strides', [1, 1]),
        pads=ints(node, 'pads', [0] * 4),
        dilations=ints(node, 'dilations', [1, 1]),
    )  # fmt: skip
    _replace(graph, chain.value, out)


def _gemm(graph: ir.Graph, node: Any) -> None:
    """A fully connected layer, as a 1 x 1 convolution of images of one pixel."""
    x, w, y = activation_of(node.inputs[0]), weight_of(node.inputs[1]), node.outputs[0]
    plain = node.attributes.get_int('transB', 0) == 1 and node.attributes.get_int('transA', 0) == 0
    if x is None or w is None or not plain or rank(x.value) != 2 or rank(y) != 2:
        return
    if node.attributes.get_float('alpha', 1.0) != 1 or node.attributes.get_float('beta', 1.0) != 1:
        return
    bias = bias_of(node.inputs[2] if len(node.inputs) > 2 else None, len(w.scale))
    chain = follow(y)
    if bias is None or not fits(x, [w], bias, chain.attributes):
        return
    last, (n, m) = chain.value.producer(), np.asarray(array_of(w.value)).shape
    image = _as_image(graph, x.value, last, m)
    filters = _constant(graph, np.asarray(array_of(w.value))[:, :, None, None], f'{y.name}.weight')
    x, w = Scaled(image, x.scale, x.zero_point), Scaled(filters, w.scale, w.zero_point)
    ones: dict[str, Any] = dict(kernel_shape=[1, 1], strides=[1, 1], pads=[0] * 4, dilations=[1, 1], group=1)
    pixels = _emit(graph, 'QConv', x, [w], bias, chain, **ones)
    pixels.shape = ir.Shape([*(chain.value.shape or []), 1, 1])
    shape = _constant(graph, np.array([0, n], np.int64), f'{y.name}.flat')
    _replace(graph, chain.value, _insert(graph, last, 'Reshape', [pixels, shape], chain.value, ''))


def _as_image(graph: ir.Graph, x: ir.Value, before: Any, channels: int) -> ir.Value:
    """An activation (B, C) as (B, C, 1, 1): what it was flattened from, quantised likewise; or a Reshape."""
    quantize = x.producer()
    flatten = quantize.inputs[0].producer() if quantize is not None and quantize.op_type == 'QuantizeLinear' else None
    if flatten is not None and flatten.op_type in ('Flatten', 'Reshape'):
        source: Any = flatten.inputs[0]
        if rank(source) == 4 and list(source.shape)[1:] == [channels, 1, 1]:
            image = _insert(graph, before, 'QuantizeLinear', [source, *quantize.inputs[1:]], x, '')
            image.shape = source.shape
            return image
    shape = _constant(graph, np.array([0, channels, 1, 1], np.int64), f'{x.name}.image')
    image = _insert(graph, before, 'Reshape', [x, shape], x, '')
    image.shape = ir.Shape([*(x.shape or []), 1, 1])
    return image


def _max_pool(graph: ir.Graph, node: Any) -> None:
    """Between a DequantizeLinear and a QuantizeLinear of the same scale: the largest byte."""
    x, after, kernel = activation_of(node.inputs[0]), next_of(node.outputs[0]), ints(node, 'kernel_shape', [])
    if x is None or rank(x.value) != 4 or len(node.outputs) != 1 or after is None or after.op_type != 'QuantizeLinear':
        return
    scaled = scaled_of(after, after.outputs[0])
    if not is_activation(scaled) or scaled.numbers != x.numbers:
        return
    pads, plain = ints(node, 'pads', [0] * 4), ints(node, 'dilations', [1, 1]) == [1, 1]
    if not plain or node.attributes.get_int('ceil_mode', 0) or any(p >= k for p, k in zip(pads, kernel * 2)):
        return
    if node.attributes.get_string('auto_pad', 'NOTSET') not in ('NOTSET', 'VALID'):
        return
    attributes: dict[str, Any] = dict(kernel_shape=kernel, strides=ints(node, 'strides', [1, 1]), pads=pads)
    y = after.outputs[0]
    _replace(graph, y, _insert(graph, after, 'QMaxPool', [x.value], y, **attributes))


def _mean(graph: ir.Graph, node: Any) -> None:
    """Over whole images, of bytes to floats."""
    x = activation_of(node.inputs[0])
    if x is None or rank(x.value) != 4:
        return
    if node.op_type == 'ReduceMean':
        axes = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
        over = [] if axes is None else sorted(int(axis) % 4 for axis in axes.ravel())
        if over != [2, 3] or not node.attributes.get_int('keepdims', 1):
            return
    (scale, zero_point), y = x.numbers, node.outputs[0]
    _replace(graph, y, _insert(graph, node, 'QMean', [x.value], y, x_scale=scale, x_zero_point=zero_point))


_RULES: dict[tuple[str, str], Any] = {
    (EXPORT_DOMAIN, 'HetConv2d'): _hetconv,
    ('', 'Conv'): _conv,
    ('', 'Gemm'): _gemm,
    ('', 'MaxPool'): _max_pool,
    ('', 'ReduceMean'): _mean,
    ('', 'GlobalAveragePool'): _mean,
}
