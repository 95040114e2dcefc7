"""An exported model for TensorRT: HetConv2d layers as nodes of our plugin, all else as standard operators.

The parser of TensorRT makes a plugin of a node by its operator's name, the attribute `plugin_namespace`, and the
attributes that the plugin declares (see ../tensorrt/plugin.py).
"""

import math
from typing import TYPE_CHECKING, Any

from ..hetconv_op import DOMAIN, OP_TYPE, PLUGIN_DOMAIN

if TYPE_CHECKING:
    import onnx

__all__ = ['NAMESPACE', 'PLUGINS', 'insert_plugin', 'packed_weights', 'to_tensorrt']

NAMESPACE = 'hetconv'  # of the plugins in TensorRT's registry
PLUGINS = ('HetConv2d', 'HetConv2dResidual')  # a plugin has a fixed number of inputs
# Channels that a pixel must have in whole vectors: TensorRT's HWC8 pads to eight, HWC does not.
VECTOR = {'fp32': 1, 'fp16': 8, 'bf16': 8}
_GEOMETRY = ('kernel_shape', 'strides', 'dilations')


def to_tensorrt(proto: 'onnx.ModelProto', precision: str, sm: int) -> 'onnx.ModelProto':
    """Lower what `export_model` made.

    A residual sum and a ReLU or Clip behind a HetConv2d become part of it. A layer whose channels do not fill the
    vectors of TensorRT's formats stays two convolutions and a sum. One between QuantizeLinear and DequantizeLinear of
    INT8 takes and gives INT8: see tensorrt_int8.py.

    Args:
        proto: HetConv2d nodes and standard operators, float32.
        precision: 'fp32', 'fp16' or 'bf16'.
        sm: Compute capability that the plugin's kernel is compiled for, 86 for 8.6.

    Returns:
        A new model with the same inputs, outputs and metadata.
    """
    import onnx
    import onnx_ir as ir
    from onnxscript import rewriter

    from . import epilogue
    from .portable import to_portable
    from .precision import to_precision
    from .tensorrt_int8 import to_int8_plugins

    model = ir.from_proto(proto)
    model.opset_imports[PLUGIN_DOMAIN] = 1
    chosen = [node for node in model.graph if _is_for_plugin(node, VECTOR[precision])]
    for node in chosen:
        _with_bias(model.graph, node)
        node.domain = PLUGIN_DOMAIN
    rewriter.rewrite(model, pattern_rewrite_rules=epilogue.rules(PLUGIN_DOMAIN))
    for node in [node for node in model.graph if node.domain == PLUGIN_DOMAIN]:
        _to_plugin(model.graph, node, precision, sm)
    to_int8_plugins(model.graph, sm)
    model.opset_imports[PLUGIN_DOMAIN] = 1  # the rewriter takes away what nothing used yet
    used = {value for node in model.graph for value in node.inputs}
    for name, value in list(model.graph.initializers.items()):
        if value not in used:
            del model.graph.initializers[name]
    lowered = to_precision(to_portable(ir.to_proto(model)), precision)
    onnx.checker.check_model(lowered)
    return lowered


def _is_for_plugin(node: Any, vector: int) -> bool:
    import onnx_ir as ir

    if node.domain != DOMAIN or node.op_type != OP_TYPE:
        return False
    weights = [ir.convenience.get_const_tensor(value) for value in node.inputs[1:] if value is not None]
    if any(weight is None for weight in weights):
        return False
    n, m = weights[0].numpy().shape[:2]
    odd = all(size % 2 for size in node.attributes.get_ints('kernel_shape'))
    return odd and n % vector == 0 and m % vector == 0


def _constant(graph: Any, array: Any, name: str) -> Any:
    import onnx_ir as ir

    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
    graph.register_initializer(value)
    return value


def _with_bias(graph: Any, node: Any) -> None:
    """Give a node a bias that has none: the fourth input, after which the residual comes."""
    import numpy as np

    if len(node.inputs) < 4 or node.inputs[3] is None:
        zeros = _constant(graph, np.zeros(node.inputs[1].shape[0], np.float32), f'{node.outputs[0].name}.zero_bias')
        node.resize_inputs(4)
        node.replace_input_with(3, zeros)


def _to_plugin(graph: Any, node: Any, precision: str, sm: int) -> None:
    """A fused HetConv2d node -> x, packed weights, epilogue and residual, with the plugin's attributes."""
    import numpy as np
    import onnx_ir as ir

    from ..kernels.gpu.tiles import ITEM, to_tf32

    x, w, w_kxk, bias, *residual = node.inputs
    arrays = [ir.convenience.get_const_tensor(value).numpy() for value in (w, w_kxk, bias)]
    packed = packed_weights(node, arrays[0], arrays[1], ITEM[precision])
    if precision == 'fp32':
        packed = to_tf32(packed)
    bounds = {key: node.attributes.get_float(key, default) for key, default in (('min', -math.inf), ('max', math.inf))}
    epilogue = arrays[2].reshape(1, -1).astype(np.float32)
    insert_plugin(graph, node, x, packed, epilogue, residual, (bounds['min'], bounds['max']), sm, node.outputs[0])


def packed_weights(node: Any, w: Any, w_kxk: Any, item: int) -> Any:
    """A HetConv2d node's weights as the kernel reads them, see `tiles.pack`; its centre taps go into the 1x1 kernels.

    Args:
        node: With the operator's attributes.
        w, w_kxk: (N, M, 1, 1) and (N, M/P, K, K).
        item: Bytes a value.
    """
    import numpy as np

    from ..kernels.gpu.tiles import Layer, pack

    n, m = w.shape[:2]
    kernel, stride, dilation = (tuple(node.attributes.get_ints(key)) for key in _GEOMETRY)
    layer = Layer(m, n, node.attributes.get_int('part'), kernel, stride, dilation)
    taps = w_kxk.reshape(n, layer.group_in, -1)
    centre = layer.taps // 2
    w_1x1 = w.reshape(n, m).copy()
    for i in range(n):  # the operator may have values at the centre of W_kxk: see hetconv_op.py
        first = i // layer.group_out * layer.group_in
        w_1x1[i, first : first + layer.group_in] += taps[i, :, centre]
    return pack(layer, w_1x1, np.delete(taps, centre, axis=2), item)


def insert_plugin(
    graph: Any, node: Any, x: Any, packed: Any, epilogue: Any, residual: Any, bounds: Any, sm: int, y: Any
) -> None:
    """A plugin node for a HetConv2d node.

    Args:
        graph: Of both.
        node: Gives name, place and geometry; it is removed where nothing reads it any more.
        x: The input.
        packed, epilogue: Arrays, as the kernel reads them.
        residual: A list of one value or none.
        bounds: Of the result.
        sm: Compute capability.
        y: The value in whose place the plugin's output comes.
    """
    import onnx_ir as ir

    inputs = [
        x,
        _constant(graph, packed, f'{y.name}.packed'),
        _constant(graph, epilogue, f'{y.name}.epilogue'),
        *residual,
    ]
    plugin = ir.Node(
        PLUGIN_DOMAIN,
        PLUGINS[bool(residual)],
        inputs,
        [
            ir.AttrString('plugin_namespace', NAMESPACE),
            ir.AttrString('plugin_version', '1'),
            ir.AttrInt64('aot', 1),
            ir.AttrInt64('part', node.attributes.get_int('part')),
            *(ir.AttrInt64s(key, list(node.attributes.get_ints(key))) for key in _GEOMETRY),
            ir.AttrFloat32('low', bounds[0]),
            ir.AttrFloat32('high', bounds[1]),
            ir.AttrInt64('sm', sm),
        ],
        num_outputs=1,
        name=node.name,
    )
    output, last = plugin.outputs[0], y.producer()
    graph.insert_before(last, plugin)  # where the residual is there
    ir.convenience.replace_all_uses_with(y, output, replace_graph_outputs=True)
    output.name, output.type, output.shape = y.name, y.type, y.shape
    y.name = f'{y.name}.replaced'
    graph.remove(last, safe=True)
