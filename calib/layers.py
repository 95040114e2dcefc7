"""Which nodes of an exported network are quantised, under which name, and which tensors that asks ranges of."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.errors import UserError, unknown
from inference.hetconv_op import DOMAIN, OP_TYPE

if TYPE_CHECKING:
    import onnx

__all__ = ['Layer', 'check_float_graph', 'find_layers', 'means', 'pools', 'residuals', 'select', 'tensors_of']

# Inputs that are weights, by operator.
WEIGHTS = {'Conv': (1,), OP_TYPE: (1, 2), 'Gemm': (1,)}
MIN_OPSET = 13  # QuantizeLinear by channel


@dataclass(frozen=True)
class Layer:
    """A node that can be quantised.

    Attributes:
        name: Of the module that it is of: 'stages.0.0.conv1'.
        node: Its name in the graph.
        op_type: 'Conv', 'HetConv2d', 'Gemm'.
        input: The tensor before it.
        output: The tensor after it.
        weights: Names of its initializers, without the bias.
        macs: Multiply-accumulates an image.
    """

    name: str
    node: str
    op_type: str
    input: str
    output: str
    weights: tuple[str, ...]
    macs: int


def check_float_graph(proto: 'onnx.ModelProto') -> None:
    """Raises UserError for a graph that cannot be quantised: it is so already, or its opset is too old."""
    kinds = {node.op_type for node in proto.graph.node}
    if kinds & {'QuantizeLinear', 'DequantizeLinear', 'QLinearConv', 'QLinearMatMul', 'ConvInteger', 'MatMulInteger'}:
        raise UserError('the model is quantised already; give the file of `hetconv export`')
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ('', 'ai.onnx')), 0)
    if opset < MIN_OPSET:
        raise UserError(f'opset {opset} is too old, INT8 by channel needs {MIN_OPSET}: export the model again')


def find_layers(proto: 'onnx.ModelProto') -> list[Layer]:
    """Layers that can be quantised, in their order.

    Convolutions of squeeze-and-excitation are not among them: they cost next to nothing, and a sigmoid is sensitive.
    A layer that is used twice has two names.

    Raises:
        UserError: There are none.
    """
    shapes = _shapes(proto)
    constants = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    layers: list[Layer] = []
    names: dict[str, int] = {}
    for node in proto.graph.node:
        places = WEIGHTS.get(node.op_type)
        if places is None or (node.op_type == OP_TYPE) != (node.domain == DOMAIN):
            continue
        weights = tuple(node.input[place] for place in places)
        output = shapes.get(node.output[0])
        if not all(weight in constants for weight in weights) or output is None:
            continue
        if node.op_type == 'Gemm':
            if not any(attribute.name == 'transB' and attribute.i for attribute in node.attribute):
                continue  # output channels are the other axis
        elif output[2:] == [1, 1] and _is_gate(node, readers):
            continue
        macs = sum(_size(constants[weight][1:]) for weight in weights) * _size(output[1:])
        if node.op_type == OP_TYPE:  # the centre is in both weights
            macs -= constants[weights[1]][1] * _size(output[1:])
        name = _module(node)
        names[name] = names.get(name, 0) + 1
        name += f'#{names[name]}' * (names[name] > 1)
        layers.append(Layer(name, node.name, node.op_type, node.input[0], node.output[0], weights, macs))
    if not layers:
        raise UserError('the model has no convolution or linear layer with constant weights')
    return layers


def _is_gate(node: Any, readers: dict[str, list[Any]]) -> bool:
    """Does nothing but activations and convolutions stand between a node and a sigmoid?"""
    while len(following := readers.get(node.output[0], [])) == 1:
        node = following[0]
        if node.op_type in ('Sigmoid', 'HardSigmoid'):
            return True
        if node.op_type not in ('Relu', 'Clip', 'Conv', 'HardSwish'):
            return False
    # x * sigmoid(x): an activation that is written as two nodes.
    return any(reader.op_type in ('Sigmoid', 'HardSigmoid') for reader in following) and len(following) == 2


def _module(node: 'onnx.NodeProto') -> str:
    """Of the module that a node is of: of a Conv and a Gemm the weight has it, a HetConv2d is called after it."""
    weight = node.input[1]
    return weight.removesuffix('.weight') if weight.endswith('.weight') and node.op_type != OP_TYPE else node.name


def _shapes(proto: 'onnx.ModelProto') -> dict[str, list[int]]:
    """By tensor; of a dynamic size 0."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
        if value.type.HasField('tensor_type')
    }


def _size(sizes: Iterable[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def select(layers: list[Layer], keep_float: Iterable[str]) -> list[Layer]:
    """Those that are quantised.

    Args:
        layers: Of `find_layers`.
        keep_float: Names of layers that are not; 'first' and 'last' are names too.

    Raises:
        UserError: Unknown layer, or none is left.
    """
    names = {layer.name: layer.name for layer in layers}
    names.update(first=layers[0].name, last=layers[-1].name)
    kept = set()
    for name in keep_float:
        if name not in names:
            raise unknown('layer', name, names)
        kept.add(names[name])
    chosen = [layer for layer in layers if layer.name not in kept]
    if not chosen:
        raise UserError('all layers would stay in float: nothing is left to quantise')
    return chosen


def residuals(proto: 'onnx.ModelProto', layers: list[Layer]) -> list[str]:
    """Tensors that are added to a quantised layer's output and are quantised as well: outputs of shortcuts' layers.

    The other addend, the layer's own output, is not: it is added in the accumulator's precision. What is added from
    before a block is an input of its first layer, and has that one's scale.
    """
    outputs = {layer.output for layer in layers}
    order = {name: index for index, layer in enumerate(layers) for name in [layer.output]}
    found = []
    for node in proto.graph.node:
        if node.op_type == 'Add' and set(node.input) <= outputs:
            # The one that is computed first; ready when the other, whose epilogue adds it, ends.
            found.append(min(node.input, key=lambda name: order[name]))
    return found


def pools(proto: 'onnx.ModelProto', layers: list[Layer]) -> dict[str, 'onnx.NodeProto']:
    """MaxPool nodes before quantised layers, by their outputs: of bytes it gives the largest, in the same scale."""
    inputs = {layer.input for layer in layers}
    return {
        node.output[0]: node
        for node in proto.graph.node
        if node.op_type == 'MaxPool' and node.output[0] in inputs and len(node.output) == 1
    }


def means(proto: 'onnx.ModelProto', layers: list[Layer]) -> list['onnx.NodeProto']:
    """Means over whole images that read what a quantised convolution gives, and that a quantised layer reads.

    Bytes are what the convolution then gives, and their sum is exact. Its own residual sum and activation may stand
    between, which it rounds behind; behind the mean a Reshape or Flatten.
    """
    producers = {name: node for node in proto.graph.node for name in node.output}
    inputs = {layer.input for layer in layers}
    outputs = {layer.output for layer in layers if layer.op_type != 'Gemm'}
    added = {name for node in proto.graph.node if node.op_type == 'Add' for name in node.input}
    found = set()
    for name in inputs:
        node = producers.get(name)
        while node is not None and node.op_type in ('Reshape', 'Flatten', 'Squeeze'):
            node = producers.get(node.input[0])
        if node is None or not _is_image_mean(proto, node) or node.input[0] in added:
            continue
        above = producers.get(before := node.input[0])
        while above is not None and above.op_type in ('Relu', 'Clip'):
            above = producers.get(before := above.input[0])
        if outputs & set(above.input if above is not None and above.op_type == 'Add' else [before]):
            found.add(node.output[0])
    return [node for node in proto.graph.node if node.output[0] in found]


def _is_image_mean(proto: 'onnx.ModelProto', node: 'onnx.NodeProto') -> bool:
    """As `lowering/quantized.py` takes it: the axes an input, the image's sizes kept as 1."""
    import onnx

    if node.op_type == 'GlobalAveragePool':
        return True
    kept = all(attribute.i for attribute in node.attribute if attribute.name == 'keepdims')
    axes = [onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name in node.input[1:]]
    return node.op_type == 'ReduceMean' and kept and len(axes) == 1 and sorted(axes[0].ravel() % 4) == [2, 3]


def tensors_of(proto: 'onnx.ModelProto', layers: list[Layer]) -> list[str]:
    """Activations that get a scale, each once; what stands after a max pooling has that of what stands before it."""
    pooled = pools(proto, layers)
    inputs = (pooled[layer.input].input[0] if layer.input in pooled else layer.input for layer in layers)
    return list(dict.fromkeys([*inputs, *residuals(proto, layers), *(node.input[0] for node in means(proto, layers))]))
