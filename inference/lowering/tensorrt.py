"""An exported model for TensorRT: HetConv2d layers as nodes of our plugin, all else as standard operators.

The parser of TensorRT makes a plugin of a node by its operator's name, the attribute `plugin_namespace`, and the
attributes that the plugin declares (see ../tensorrt/plugin.py).
"""

import math
from typing import TYPE_CHECKING, Any

from ..hetconv_op import DOMAIN, OP_TYPE, PLUGIN_DOMAIN
from .tensorrt_plugin import constant, insert_plugin, packed_weights

if TYPE_CHECKING:
    import onnx

__all__ = ['to_tensorrt']

# Channels that a pixel must have in whole vectors: TensorRT's HWC8 pads to eight, HWC does not.
VECTOR = {'fp32': 1, 'fp16': 8, 'bf16': 8}


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


def _with_bias(graph: Any, node: Any) -> None:
    """Give a node a bias that has none: the fourth input, after which the residual comes."""
    import numpy as np

    if len(node.inputs) < 4 or node.inputs[3] is None:
        zeros = constant(graph, np.zeros(node.inputs[1].shape[0], np.float32), f'{node.outputs[0].name}.zero_bias')
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
