"""A node of our TensorRT plugin: weights as its kernel reads them, and the attributes that it declares.

The parser of TensorRT makes a plugin of a node by its operator's name, the attribute `plugin_namespace`, and these
attributes (see ../tensorrt/plugin.py).
"""

from typing import Any

from ..hetconv_op import PLUGIN_DOMAIN

__all__ = ['NAMESPACE', 'PLUGINS', 'constant', 'insert_plugin', 'packed_weights']

NAMESPACE = 'hetconv'  # of the plugins in TensorRT's registry
PLUGINS = ('HetConv2d', 'HetConv2dResidual')  # a plugin has a fixed number of inputs
_GEOMETRY = ('kernel_shape', 'strides', 'dilations')


def constant(graph: Any, array: Any, name: str) -> Any:
    """An array as an initializer of a graph."""
    import onnx_ir as ir

    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
    graph.register_initializer(value)
    return value


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
        constant(graph, packed, f'{y.name}.packed'),
        constant(graph, epilogue, f'{y.name}.epilogue'),
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
