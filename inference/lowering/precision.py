"""A float32 graph in half precision, as a strongly typed network wants it: every type is in the graph.

Weights are cast, and so is everything that is computed from them; the graph's own inputs and outputs stay float32, with
a Cast behind each input and before each output, so that all precisions serve through one interface. What ONNX has in
float32 only (the scales of a Resize), and what such an input alone is computed from, stays float32.

Bfloat16 is in ONNX's Conv and pooling from opset 22 on. The graph keeps its opset all the same: TensorRT's parser takes
bfloat16 in any, and there is no other consumer (ONNX Runtime has no such kernels for a CPU; see `rounded_to_float32`).
"""

from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..hetconv_op import PLUGIN_DOMAIN

if TYPE_CHECKING:
    import onnx

__all__ = ['PRECISIONS', 'rounded_to_float32', 'to_precision']

PRECISIONS = ('fp32', 'fp16', 'bf16')
ONNX_TYPES = {'fp32': 'tensor(float)', 'fp16': 'tensor(float16)', 'bf16': 'tensor(bfloat16)'}
PLUGIN_EPILOGUE = 2  # the input of our TensorRT plugin that is float32 in every precision
# A bound beyond the range of half precision bounds nothing, so it may become the largest value.
SATURATING = {('Clip', 1), ('Clip', 2)}


def to_precision(proto: 'onnx.ModelProto', precision: str) -> 'onnx.ModelProto':
    """Convert a float32 model.

    Args:
        proto: Standard operators, `hetconv::HetConv2d` or others of its domain, all of whose inputs have one type.
        precision: 'fp32' (nothing changes), 'fp16' or 'bf16'.

    Returns:
        A new model with the same inputs, outputs, names and metadata.

    Raises:
        UserError: Unknown precision, a weight beyond the range of fp16, or a node with a graph inside.
    """
    import onnx
    import onnx_ir as ir

    if precision not in PRECISIONS:
        raise UserError(f'unknown precision {precision!r}; there are {", ".join(PRECISIONS)}')
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    if precision != 'fp32':
        _Conversion(model.graph, precision, model.opset_imports['']).run()
    converted = ir.to_proto(model)
    onnx.checker.check_model(converted)
    return converted


class _Conversion:
    """One conversion of a graph in place: which nodes stay float32, and the casts made so far."""

    def __init__(self, graph: Any, precision: str, opset: int) -> None:
        import onnx
        import onnx_ir as ir

        self.graph, self.precision = graph, precision
        self.half = {'fp16': ir.DataType.FLOAT16, 'bf16': ir.DataType.BFLOAT16}[precision]
        self.float = ir.DataType.FLOAT
        self.opset = opset if precision == 'fp16' else onnx.defs.onnx_opset_version()
        self.kept: set[Any] = set()
        self.casts: dict[tuple[Any, Any], Any] = {}

    def run(self) -> None:
        nodes = list(self.graph)
        for node in nodes:
            self._refuse(node)
        self.kept = self._kept(nodes)
        outputs = [value for node in nodes for value in node.outputs]
        floats = {v for v in [*self.graph.inputs, *self.graph.initializers.values(), *outputs] if v.dtype == self.float}
        halves = {v for node in nodes if node not in self.kept for v in node.outputs if v in floats}
        for node in nodes:
            if node not in self.kept:
                self._attributes(node)
            for index, value in enumerate(node.inputs):
                wanted = self.half if self._wants_half(node, index) else self.float
                if value in floats and wanted != (self.half if value in halves else self.float):
                    node.replace_input_with(index, self._cast(value, wanted))
        for value in halves:
            value.dtype = self.half
        for index, output in enumerate(list(self.graph.outputs)):
            if output in halves:
                name, output.name = output.name, f'{output.name}.{self.precision}'
                self.graph.outputs[index] = self._cast_node(output, self.float, name)

    def _refuse(self, node: Any) -> None:
        import onnx_ir as ir

        if any(attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attr in node.attributes.values()):
            raise UserError(f'{node.op_type} {node.name!r} has a graph inside, which has no {self.precision} form here')
        if any(value.dtype is None and value.name for value in node.outputs):
            raise UserError(f'{node.op_type} {node.name!r}: the type of its output is unknown, so it has no half form')

    def _allows(self, node: Any, parameters: str, index: int) -> bool:
        """ONNX allows the half type for this input or output; other domains take and give what they get."""
        import onnx

        if node.domain == PLUGIN_DOMAIN:
            return parameters != 'inputs' or index != PLUGIN_EPILOGUE
        if node.domain not in ('', 'ai.onnx'):
            return True
        formal = getattr(onnx.defs.get_schema(node.op_type, self.opset, ''), parameters)
        types = formal[min(index, len(formal) - 1)].types
        return ONNX_TYPES[self.precision] in types or ONNX_TYPES['fp32'] not in types

    def _wants_half(self, node: Any, index: int) -> bool:
        return node not in self.kept and self._allows(node, 'inputs', index)

    def _kept(self, nodes: list[Any]) -> set[Any]:
        """Nodes that stay float32: they can nothing else, or only inputs that stay float32 read them."""
        for node in reversed(nodes):
            floats = [value for value in node.outputs if value.dtype == self.float]
            uses = [use for value in floats for use in value.uses()]
            only_float = uses and not any(self._wants_half(*use) for use in uses)
            if any(value.is_graph_output() for value in floats):
                only_float = False
            if only_float or not all(self._allows(node, 'outputs', i) for i in range(len(node.outputs))):
                self.kept.add(node)
        return self.kept

    def _attributes(self, node: Any) -> None:
        """Types and values that a node carries itself."""
        import onnx_ir as ir

        for name, attr in list(node.attributes.items()):
            if name in ('to', 'dtype') and attr.value == self.float:
                node.attributes[name] = ir.AttrInt64(name, int(self.half))
            if node.op_type not in ('Constant', 'ConstantOfShape'):
                continue
            if attr.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
                tensor = ir.tensor(attr.value, dtype=self.float)
            elif attr.type == ir.AttributeType.TENSOR and attr.value.dtype == self.float:
                tensor = attr.value
            else:
                continue
            del node.attributes[name]
            uses = node.outputs[0].uses() if node.op_type == 'Constant' else ()
            node.attributes['value'] = ir.AttrTensor('value', self._half_tensor(tensor, node.name, uses))

    def _cast(self, value: Any, wanted: Any) -> Any:
        """The value in another type: a weight's own copy, or a Cast, made once."""
        import onnx_ir as ir

        if (value, wanted) in self.casts:
            return self.casts[value, wanted]
        name = f'{value.name}.{self.precision if wanted == self.half else "float32"}'
        if value.is_initializer():
            if all(self._wants_half(*use) for use in value.uses()) and not value.is_graph_output():
                # Nothing reads the float32 values any more: their name goes to what they have become.
                spare, name = name, value.name
                self.graph.initializers.pop(name)
                value.name = spare
            tensor = self._half_tensor(value.const_value, name, value.uses())
            cast = ir.Value(name=name, const_value=tensor, type=ir.TensorType(wanted), shape=value.shape)
            self.graph.register_initializer(cast)
        else:
            cast = self._cast_node(value, wanted, name)
        self.casts[value, wanted] = cast
        return cast

    def _cast_node(self, value: Any, wanted: Any, name: str) -> Any:
        import onnx_ir as ir

        node = ir.Node('', 'Cast', [value], [ir.AttrInt64('to', int(wanted))], num_outputs=1, name=f'{name}.cast')
        output = node.outputs[0]
        output.name, output.type, output.shape = name, ir.TensorType(wanted), value.shape
        if value.producer() is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(value.producer(), node)
        return output

    def _half_tensor(self, tensor: Any, name: str | None, uses: Any) -> Any:
        import ml_dtypes
        import numpy as np
        import onnx_ir as ir

        values = tensor.numpy()
        largest = float(ml_dtypes.finfo(self.half.numpy()).max)
        if uses and all((node.op_type, index) in SATURATING for node, index in uses):
            values = np.clip(values, -largest, largest)
        with np.errstate(over='ignore'):
            half = values.astype(self.half.numpy())
        if np.isinf(half).sum() > np.isinf(values).sum():
            worst = float(np.abs(values[np.isfinite(values)]).max())
            others = 'bf16 or fp32' if self.precision == 'fp16' else 'fp32'
            raise UserError(
                f'{name} has values up to {worst:.4g}, beyond the {largest:.4g} of {self.precision}: '
                f'build with --precision {others}'
            )
        return ir.Tensor(half, dtype=self.half, name=name)


def rounded_to_float32(proto: 'onnx.ModelProto') -> 'onnx.ModelProto':
    """A graph of `to_precision` in float32, with every value rounded to half precision where the graph has it.

    That is what hardware with float32 accumulators computes, overflow included, and stock ONNX Runtime runs it on a
    CPU. There it has no operators with bfloat16 but Cast, and leaves out the roundings to float16 between two nodes
    that it computes in float32.
    """
    import numpy as np
    import onnx
    import onnx_ir as ir

    model = ir.from_proto(proto)
    graph, single = model.graph, ir.DataType.FLOAT
    halves = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    for value in graph.initializers.values():
        if value.dtype in halves:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.dtype = single
    for node in list(graph):
        for name, attr in list(node.attributes.items()):
            if attr.type == ir.AttributeType.TENSOR and attr.value.dtype in halves:
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(attr.value.numpy().astype(np.float32)))
        for output in [value for value in node.outputs if value.dtype in halves]:
            uses, half = tuple(output.uses()), ir.DataType(int(output.dtype or single))
            last, value = node, output
            if node.op_type != 'Cast':
                output.dtype = single
            for to in (single,) if node.op_type == 'Cast' else (half, single):
                cast = ir.Node('', 'Cast', [value], [ir.AttrInt64('to', int(to))], num_outputs=1)
                graph.insert_after(last, cast)
                last, value = cast, cast.outputs[0]
                value.name, value.type, value.shape = f'{output.name}.{to.name}', ir.TensorType(to), output.shape
            for user, index in uses:
                user.replace_input_with(index, value)
    widened = ir.to_proto(model)
    onnx.checker.check_model(widened)
    return widened
