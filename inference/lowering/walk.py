"""What the walk of `nhwc.py` keeps: the forms that values have, and where nodes are put."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ['TO_NCHW', 'TO_NHWC', 'Walk', 'array_of', 'ints', 'rank']

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)  # orders of axes for Transpose


class Walk:
    """The state of the walk: the NHWC form of NCHW values, and where the nodes are built."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.nhwc: dict[ir.Value, ir.Value] = {}
        self.only_nhwc: set[ir.Value] = set()  # values whose NCHW form nothing has made yet
        self.node: Any = None

    def insert(
        self, op: str, inputs: Sequence[ir.Value | None], like: ir.Value, domain: str = '', **attributes
    ) -> ir.Value:
        """A node before the current one; its output has the type and, permuted, the shape of an NCHW value."""
        attrs = [ir.convenience.convert_attribute(key, value) for key, value in attributes.items() if value is not None]
        node = ir.Node(domain, op, inputs, attrs, num_outputs=1, name=f'{like.name}.{op}')
        self.graph.insert_before(self.node, node)
        output = node.outputs[0]
        output.name, output.type = f'{like.name}.{op}', like.type
        return output

    def constant(self, array: np.ndarray, name: str) -> ir.Value:
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
        self.graph.register_initializer(value)
        return value

    def to_nhwc(self, value: Any) -> ir.Value:
        if value not in self.nhwc:
            out = self.insert('Transpose', [value], value, perm=TO_NHWC)
            out.name, out.shape = f'{value.name}.nhwc', permuted(value.shape, TO_NHWC)
            self.nhwc[value] = out
        return self.nhwc[value]

    def to_nchw(self, value: ir.Value | None) -> None:
        """Make the NCHW form of a value that has only the other one."""
        if value is None or value not in self.only_nhwc:
            return
        self.only_nhwc.remove(value)
        out = self.insert('Transpose', [self.nhwc[value]], value, perm=TO_NCHW)
        out.name, out.shape = f'{value.name}.nchw', value.shape
        ir.convenience.replace_all_uses_with(value, out)
        for i, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[i] = out
        self.nhwc[out] = self.nhwc[value]

    def replace(self, value: ir.Value, by: ir.Value) -> None:
        """`by` is the NHWC form of an NCHW value whose node goes."""
        by.shape = permuted(value.shape, TO_NHWC)
        self.nhwc[value] = by
        self.only_nhwc.add(value)


def permuted(shape: ir.Shape | None, order: tuple[int, ...]) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[i] for i in order])


def rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def array_of(value: Any) -> np.ndarray | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def ints(node: Any, name: str, default: list[int]) -> list[int]:
    return list(node.attributes.get_ints(name, default)) if name in node.attributes else default
