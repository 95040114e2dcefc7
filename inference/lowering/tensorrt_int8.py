"""HetConv2d between QuantizeLinear and DequantizeLinear as a node of our TensorRT plugin that takes and gives INT8.

    y = Q([Relu]([DQ(z) + ] HetConv2d(DQ(x), DQ(w), DQ(w_kxk), b)))  ->  y = HetConv2d(x, packed, epilogue, z)

Everything is signed and symmetric, as `hetconv calibrate --preset tensorrt` makes it. What is not so, what gives
floats, or has channels that fill no vectors of 16, stays standard operators with their Q and DQ.
"""

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from ..hetconv_op import DOMAIN, OP_TYPE
from .chain import Chain, follow
from .scaled import Scaled, activation_of, bias_of, describe, fits, weight_of
from .tensorrt_plugin import insert_plugin, packed_weights
from .walk import array_of, ints

__all__ = ['to_int8_plugins']

VECTOR = 16  # channels: TensorRT's HWC16, and half of CHW32


def to_int8_plugins(graph: ir.Graph, sm: int) -> None:
    """Rewrite a graph in place.

    Args:
        graph: Of `hetconv calibrate`; one in float32 stays as it is.
        sm: Compute capability that the plugin's kernel is compiled for, 86 for 8.6.
    """
    if not any(node.op_type == 'QuantizeLinear' for node in graph):
        return
    describe(graph)
    for node in list(graph):
        if node.domain == DOMAIN and node.op_type == OP_TYPE:
            _rewrite(graph, node, sm)
    for node in reversed(list(graph)):  # what only those read
        if all(not out.uses() and not out.is_graph_output() for out in node.outputs):
            graph.remove(node, safe=True)


def _rewrite(graph: ir.Graph, node: Any, sm: int) -> None:
    x = activation_of(node.inputs[0], ir.DataType.INT8)
    weights = [weight for weight in map(weight_of, node.inputs[1:3]) if weight is not None]
    if x is None or len(weights) < 2:
        return
    w, w_kxk = (np.asarray(array_of(weight.value)) for weight in weights)
    n, m = w.shape[:2]
    bias = bias_of(node.inputs[3] if len(node.inputs) > 3 else None, n)
    chain = follow(node.outputs[0], ir.DataType.INT8)
    if bias is None or not _takes(weights, node, w_kxk, chain) or n % VECTOR or m % VECTOR:
        return
    if not fits(x, weights, bias, chain.attributes):
        return
    # In steps of y, in float64 until the end: each is rounded once.
    steps = 1 / np.float64(np.float32(chain.attributes['y_scale']))
    scale = np.float64(x.scale) * weights[0].scale.astype(np.float64) * steps
    z_scale = np.float64(np.float32(chain.attributes.get('z_scale', 0))) * steps
    epilogue = np.stack([scale, bias.astype(np.float64) * steps, np.full(n, z_scale)]).astype(np.float32)
    bounds = [chain.attributes.get('min', -math.inf) * steps, chain.attributes.get('max', math.inf) * steps]
    residual = [] if chain.residual is None else [chain.residual]
    insert_plugin(
        graph, node, x.value, packed_weights(node, w, w_kxk, w.itemsize), epilogue, residual, bounds, sm, chain.value
    )


def _takes(weights: list[Scaled], node: Any, w_kxk: np.ndarray, chain: Chain) -> bool:
    """Whether the kernel can: bytes in and out, one scale for both weights, no values at the centre of the K x K ones,
    which would not fit into the bytes of the 1x1 kernels."""
    kernel = ints(node, 'kernel_shape', [])
    if not all(size % 2 for size in kernel) or w_kxk[:, :, kernel[0] // 2, kernel[1] // 2].any():
        return False
    if 'y_scale' not in chain.attributes or (chain.residual is not None and 'z_scale' not in chain.attributes):
        return False
    return np.array_equal(weights[0].scale, weights[1].scale)
