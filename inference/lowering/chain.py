"""What follows a convolution in a quantised graph and can become part of it: a sum, an activation, rounding."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from .scaled import activation_of, is_activation, scaled_of
from .walk import array_of, rank

__all__ = ['Chain', 'follow', 'next_of']


@dataclass
class Chain:
    """From a convolution's result on: what its epilogue takes in."""

    value: ir.Value  # the last that it takes in
    attributes: dict[str, Any] = field(default_factory=dict)
    residual: ir.Value | None = None


def next_of(value: ir.Value) -> Any:
    """The only node that reads a value."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    if a.shape is None or b.shape is None or rank(a) != 4:
        return False
    unknown = any(isinstance(size, ir.SymbolicDim) and size.value is None for size in [*a.shape, *b.shape])
    return not unknown and list(a.shape) == list(b.shape)


def follow(value: ir.Value, kind: ir.DataType = ir.DataType.UINT8) -> Chain:
    """What a convolution's result goes through.

    Args:
        value: The result.
        kind: Of bytes, the residual's and those that come out.

    Returns:
        With `min` and `max` where there is an activation; `z_scale` and `z_zero_point` where there is a residual in
        bytes, which `residual` is then, and not what they stand for; `y_scale` and `y_zero_point` where bytes come out.
    """
    chain = Chain(value)
    node = next_of(value)
    if node is not None and node.op_type == 'Add' and node.domain == '':
        other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
        if other is not value and array_of(other) is None and _same_shape(other, value):
            chain.value, chain.residual = node.outputs[0], other
            if (z := activation_of(other, kind)) is not None:
                chain.residual = z.value
                chain.attributes['z_scale'], chain.attributes['z_zero_point'] = z.numbers
            node = next_of(chain.value)
    if node is not None and (bounds := _bounds(node)) is not None:
        chain.value = node.outputs[0]
        chain.attributes |= bounds
        node = next_of(chain.value)
    if node is not None and node.op_type == 'QuantizeLinear' and node.domain == '':
        y = scaled_of(node, node.outputs[0])
        if is_activation(y, kind):
            chain.value = node.outputs[0]
            chain.attributes['y_scale'], chain.attributes['y_zero_point'] = y.numbers
    return chain


def _bounds(node: Any) -> dict[str, float] | None:
    if node.domain != '':
        return None
    if node.op_type == 'Relu':
        return {'min': 0.0}
    if node.op_type != 'Clip' or {'min', 'max'} & set(node.attributes):  # bounds as attributes: before opset 11
        return None
    bounds = {}
    for name, value in zip(('min', 'max'), node.inputs[1:]):
        if value is None:
            continue
        array = array_of(value)
        if array is None:
            return None
        bounds[name] = float(array)
    return bounds if bounds.get('min', -np.inf) <= bounds.get('max', np.inf) else None
