"""The whole graph in NHWC, on the operators of `hetconv.nhwc`, with a transpose only where a foreign one needs NCHW.

One walk over the graph in its order. Every rank-4 value has an NCHW form, an NHWC form, or both; a node takes the form
it wants, and a form that is missing is made by one Transpose, once. Convolutions and pools want NHWC. Element-wise
nodes take what their inputs come in. Everything else stays as it is, in NCHW.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from ..hetconv_op import DOMAIN as EXPORT_DOMAIN
from ..hetconv_op import NHWC_DOMAIN as DOMAIN
from .quantized import DOMAIN as INT8_DOMAIN
from .walk import TO_NCHW, TO_NHWC, Walk, array_of, ints, rank

__all__ = ['VERSION', 'to_nhwc']

VERSION = 1

# One output of the shape of the inputs (broadcast), whatever the order of the axes.
_ELEMENTWISE = {
    'Abs', 'Add', 'Cast', 'Ceil', 'Clip', 'Div', 'Elu', 'Equal', 'Erf', 'Exp', 'Floor', 'Gelu', 'Greater',
    'GreaterOrEqual', 'HardSigmoid', 'HardSwish', 'Identity', 'LeakyRelu', 'Less', 'LessOrEqual', 'Log', 'Max', 'Min',
    'Mish', 'Mul', 'Neg', 'PRelu', 'Pow', 'Reciprocal', 'Relu', 'Round', 'Selu', 'Sigmoid', 'Softplus', 'Softsign',
    'Sqrt', 'Sub', 'Sum', 'Tanh', 'ThresholdedRelu', 'Where',
}  # fmt: skip


def to_nhwc(model: ir.Model) -> ir.Model:
    """Rewrite a model in place, as `export_model` makes it.

    Args:
        model: HetConv2d nodes of the export's domain and standard operators; shapes of its values known.

    Returns:
        The same model, whose inputs and outputs are still NCHW.
    """
    graph = model.graph
    walk = Walk(graph)
    for node in list(graph):
        walk.node = node
        rule = _RULES.get((node.domain, node.op_type))
        if rule is None and node.op_type in _ELEMENTWISE and node.domain == '':
            rule = _elementwise
        if rule is None or not rule(walk, node):
            for value in list(node.inputs):
                walk.to_nchw(value)
            continue
        # Its outputs have other forms now. The node goes when nothing asks for the old ones.
    _finish(walk)
    model.opset_imports[DOMAIN] = VERSION
    return model


def _finish(walk: Walk) -> None:
    graph = walk.graph
    # What the graph gives stays NCHW, and keeps its name.
    for i, output in enumerate(list(graph.outputs)):
        if output not in walk.only_nhwc:
            continue
        last = graph[-1]
        node = ir.Node('', 'Transpose', [walk.nhwc[output]], [ir.AttrInt64s('perm', TO_NCHW)], num_outputs=1)
        graph.insert_after(last, node)
        replacement = node.outputs[0]
        replacement.name, replacement.type, replacement.shape = output.name, output.type, output.shape
        output.name = f'{output.name}.replaced'
        graph.outputs[i] = replacement
    for node in reversed(list(graph)):
        if all(not out.uses() and out not in graph.outputs for out in node.outputs):
            graph.remove(node, safe=True)


def _bias(walk: Walk, node: Any, index: int, channels: int) -> ir.Value | None:
    """The bias input, zeros where the node has none; None where it is not constant."""
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        return walk.constant(np.zeros(channels, np.float32), f'{node.outputs[0].name}.zero_bias')
    return None if array_of(value) is None else value


def _hetconv(walk: Walk, node: Any) -> bool:
    x, w, w_kxk = node.inputs[:3]
    bias = _bias(walk, node, 3, w.shape[0])
    if array_of(w) is None or array_of(w_kxk) is None or bias is None or x.dtype != ir.DataType.FLOAT:
        return False
    y = node.outputs[0]
    attributes = {name: ints(node, name, []) for name in ('kernel_shape', 'strides', 'pads', 'dilations')}
    part = node.attributes.get_int('part')
    out = walk.insert('HetConv2d', [walk.to_nhwc(x), w, w_kxk, bias], y, DOMAIN, part=part, **attributes)
    walk.replace(y, out)
    return True


def _conv(walk: Walk, node: Any) -> bool:
    x, w = node.inputs[:2]
    if rank(x) != 4 or array_of(w) is None or x.dtype != ir.DataType.FLOAT:
        return False
    auto_pad = node.attributes.get_string('auto_pad', 'NOTSET')
    bias = _bias(walk, node, 2, w.shape[0])
    if bias is None or auto_pad not in ('NOTSET', 'VALID'):
        return False
    y = node.outputs[0]
    out = walk.insert(
        'Conv', [walk.to_nhwc(x), w, bias], y, DOMAIN,
        group=node.attributes.get_int('group', 1),
        kernel_shape=list(w.shape[2:]),
        strides=ints(node, 'strides', [1, 1]),
        pads=ints(node, 'pads', [0] * 4),
        dilations=ints(node, 'dilations', [1, 1]),
    )  # fmt: skip
    walk.replace(y, out)
    return True


def _pool(walk: Walk, node: Any) -> bool:
    x, kernel = node.inputs[0], ints(node, 'kernel_shape', [])
    plain = (
        rank(x) == 4
        and x.dtype == ir.DataType.FLOAT
        and len(node.outputs) == 1
        and not node.attributes.get_int('ceil_mode', 0)
        and ints(node, 'dilations', [1, 1]) == [1, 1]
        and node.attributes.get_string('auto_pad', 'NOTSET') in ('NOTSET', 'VALID')
    )
    pads = ints(node, 'pads', [0] * 4)
    if not plain or any(pad >= size for pad, size in zip(pads, kernel * 2)):
        return False
    y = node.outputs[0]
    attributes: dict[str, Any] = dict(kernel_shape=kernel, strides=ints(node, 'strides', [1, 1]), pads=pads)
    if node.op_type == 'AveragePool':
        attributes['count_include_pad'] = node.attributes.get_int('count_include_pad', 0)
    walk.replace(y, walk.insert(node.op_type, [walk.to_nhwc(x)], y, DOMAIN, **attributes))
    return True


def _native(walk: Walk, node: Any) -> bool:
    """An input of this node is there in NHWC already."""
    return any(value in walk.nhwc for value in node.inputs if value is not None)


def _is_scalar(value: Any) -> bool:
    array = array_of(value)
    return value is None or rank(value) == 0 or (array is not None and array.size == 1)


def _broadcasts(value: Any) -> bool:
    """An input of an element-wise node that has an NHWC form."""
    array = array_of(value)
    return _is_scalar(value) or (rank(value) == 4 if array is None else 1 <= array.ndim <= 4)


def _form(walk: Walk, value: Any) -> ir.Value | None:
    array = array_of(value)
    if _is_scalar(value):
        return value
    if array is None:
        return walk.to_nhwc(value)
    moved = array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(TO_NHWC)
    return walk.constant(np.ascontiguousarray(moved), f'{value.name}.nhwc')


def _elementwise(walk: Walk, node: Any) -> bool:
    y = node.outputs[0]
    if not _native(walk, node) or rank(y) != 4 or not all(map(_broadcasts, node.inputs)):
        return False
    attributes = {attr.name: attr.value for attr in node.attributes.values()}
    walk.replace(y, walk.insert(node.op_type, [_form(walk, value) for value in node.inputs], y, **attributes))
    return True


def _linear(walk: Walk, node: Any) -> bool:
    """QuantizeLinear and DequantizeLinear with one scale; else the axis counts."""
    return all(map(_is_scalar, node.inputs[1:])) and (_elementwise(walk, node) or _quantize(walk, node))


def _quantize(walk: Walk, node: Any) -> bool:
    """An image in NCHW, the network's input: quantised and moved at once."""
    x, y, scale = node.inputs[0], node.outputs[0], array_of(node.inputs[1])
    zero_point = array_of(node.inputs[2]) if len(node.inputs) > 2 else np.uint8(0)
    if node.op_type != 'QuantizeLinear' or rank(x) != 4 or y.dtype != ir.DataType.UINT8 or scale is None:
        return False
    if zero_point is None or x.dtype != ir.DataType.FLOAT or scale.dtype != np.float32:
        return False
    attributes = dict(y_scale=float(scale.item()), y_zero_point=int(zero_point.item()))
    walk.replace(y, walk.insert('Quantize', [x], y, DOMAIN, **attributes))
    return True


def _int8(walk: Walk, node: Any) -> bool:
    """An operator of `quantized.py`: all its inputs of four axes that are not weights are images."""
    inputs = [walk.to_nhwc(v) if rank(v) == 4 and array_of(v) is None else v for v in node.inputs]
    y, attributes = node.outputs[0], {attr.name: attr.value for attr in node.attributes.values()}
    walk.replace(y, walk.insert(node.op_type, inputs, y, DOMAIN, **attributes))
    return True


def _batch_norm(walk: Walk, node: Any) -> bool:
    """One that no convolution could take in, behind an activation say: a product and a sum."""
    scale, bias, mean, variance = (array_of(value) for value in node.inputs[1:5])
    constant = scale is not None and bias is not None and mean is not None and variance is not None
    if not _native(walk, node) or rank(node.inputs[0]) != 4 or len(node.outputs) != 1 or not constant:
        return False
    factor = scale / np.sqrt(variance + node.attributes.get_float('epsilon', 1e-5))
    y = node.outputs[0]
    product = walk.insert(
        'Mul', [walk.to_nhwc(node.inputs[0]), walk.constant(factor.astype(np.float32), f'{y.name}.factor')], y
    )
    shift = walk.constant((bias - mean * factor).astype(np.float32), f'{y.name}.shift')
    walk.replace(y, walk.insert('Add', [product, shift], y))
    return True


def _reduce(walk: Walk, node: Any) -> bool:
    if not _native(walk, node) or len(node.inputs) < 2 or not node.attributes.get_int('keepdims', 1):
        return False
    axes = array_of(node.inputs[1])
    if axes is None or axes.size == 0 or rank(node.inputs[0]) != 4:
        return False
    moved = np.array(sorted(TO_NHWC.index(int(axis) % 4) for axis in axes), np.int64)
    y, name = node.outputs[0], 'axes.' + '_'.join(map(str, moved))
    walk.replace(
        y, walk.insert(node.op_type, [walk.to_nhwc(node.inputs[0]), walk.constant(moved, name)], y, keepdims=1)
    )
    return True


def _global_average_pool(walk: Walk, node: Any) -> bool:
    if not _native(walk, node) or rank(node.inputs[0]) != 4:
        return False
    y, axes = node.outputs[0], walk.constant(np.array([1, 2], np.int64), 'axes.1_2')
    walk.replace(y, walk.insert('ReduceMean', [walk.to_nhwc(node.inputs[0]), axes], y, keepdims=1))
    return True


def _concat(walk: Walk, node: Any) -> bool:
    if not _native(walk, node) or any(rank(value) != 4 or array_of(value) is not None for value in node.inputs):
        return False
    axis, y = TO_NHWC.index(node.attributes.get_int('axis') % 4), node.outputs[0]
    walk.replace(y, walk.insert('Concat', [walk.to_nhwc(value) for value in node.inputs], y, axis=axis))
    return True


def _pad(walk: Walk, node: Any) -> bool:
    pads = array_of(node.inputs[1])
    has_axes = len(node.inputs) > 3 and node.inputs[3] is not None
    if not _native(walk, node) or pads is None or pads.size != 8 or has_axes:
        return False
    moved = np.concatenate([pads[:4][list(TO_NHWC)], pads[4:][list(TO_NHWC)]]).astype(np.int64)
    value = node.inputs[2] if len(node.inputs) > 2 else None
    y = node.outputs[0]
    inputs = [walk.to_nhwc(node.inputs[0]), walk.constant(moved, f'{y.name}.pads'), *([value] if value else [])]
    walk.replace(y, walk.insert('Pad', inputs, y, mode=node.attributes.get_string('mode', 'constant')))
    return True


def _flatten(walk: Walk, node: Any) -> bool:
    """(B, C, 1, 1) to (B, C): the same numbers in the same order in both forms."""
    x, y = node.inputs[0], node.outputs[0]
    if not _native(walk, node) or rank(x) != 4 or rank(y) != 2 or list(x.shape[2:]) != [1, 1]:
        return False
    if node.op_type == 'Flatten' and node.attributes.get_int('axis', 1) != 1:
        return False
    node.replace_input_with(0, walk.to_nhwc(x))
    return True


_RULES: dict[tuple[str, str], Callable[[Walk, Any], bool]] = {
    (EXPORT_DOMAIN, 'HetConv2d'): _hetconv,
    ('', 'Conv'): _conv,
    ('', 'QuantizeLinear'): _linear,
    ('', 'DequantizeLinear'): _linear,
    **{
        (INT8_DOMAIN, op): _int8 for op in ('QHetConv2d', 'QConv', 'QHetConv2dFloat', 'QConvFloat', 'QMaxPool', 'QMean')
    },
    ('', 'MaxPool'): _pool,
    ('', 'AveragePool'): _pool,
    ('', 'BatchNormalization'): _batch_norm,
    ('', 'GlobalAveragePool'): _global_average_pool,
    ('', 'ReduceMean'): _reduce,
    ('', 'ReduceMax'): _reduce,
    ('', 'ReduceSum'): _reduce,
    ('', 'Concat'): _concat,
    ('', 'Pad'): _pad,
    ('', 'Reshape'): _flatten,
    ('', 'Flatten'): _flatten,
}
