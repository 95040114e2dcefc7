"""Neighbouring operators of `hetconv.nhwc` as one node, which ONNX Runtime enters once instead of once a layer.

A node costs it a few microseconds where its kernel left nothing else in the caches, which is what the layers of a
network do; docs/kernels.md has how much that is. The kernels are the same, and so are the numbers. See `ort_sequence.h`
for the form.
"""

import onnx_ir as ir

from ..hetconv_op import NHWC_DOMAIN as DOMAIN

__all__ = ['join']

_GIVE_BYTES = {'QHetConv2d', 'QConv', 'QMaxPool', 'Quantize'}


def join(model: ir.Model) -> None:
    """Rewrite a model in place; one without neighbours stays as it is."""
    graph = model.graph
    for nodes in _runs(graph):
        while len(nodes) > 1:
            last = _last_of_sequence(nodes)
            if last:
                _replace(graph, nodes[: last + 1])
            nodes = nodes[last + 1 :]


def _runs(graph: ir.Graph) -> list[list[ir.Node]]:
    """Nodes of ours that follow each other in the graph's order, and have all their inputs but the last ones."""
    runs: list[list[ir.Node]] = [[]]
    for node in graph:
        if node.domain == DOMAIN and None not in _inputs(node):
            runs[-1].append(node)
        elif runs[-1]:
            runs.append([])
    return runs


def _inputs(node: ir.Node) -> list[ir.Value | None]:
    """Without those that are left out at the end."""
    values = list(node.inputs)
    while values and values[-1] is None:
        values.pop()
    return values


def _last_of_sequence(nodes: list[ir.Node]) -> int:
    """The last of the nodes up to which nothing else reads anything but its output."""
    last = 0
    for i in range(1, len(nodes)):
        inside = set(nodes[: i + 1])
        if not any(_is_read_outside(node.outputs[0], inside) for node in nodes[:i]):
            last = i
    return last


def _is_read_outside(value: ir.Value, inside: set[ir.Node]) -> bool:
    return value.is_graph_output() or any(use.node not in inside for use in value.uses())


def _replace(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    outputs = {node.outputs[0]: i for i, node in enumerate(nodes)}
    read = [[v for v in _inputs(node) if v is not None] for node in nodes]
    outside = dict.fromkeys(v for values in read for v in values if v not in outputs)
    # The activations first, as the kernel wants them, then the constants.
    inputs = sorted(outside, key=lambda v: v.const_value is not None)
    places = {**{v: i for i, v in enumerate(inputs)}, **{v: -1 - i for v, i in outputs.items()}}
    attributes: dict[str, object] = {'ops': ' '.join(node.op_type for node in nodes)}
    for i, (node, slot) in enumerate(zip(nodes, _slots(nodes, read))):
        attributes |= {f'{i}.{name}': attribute.value for name, attribute in node.attributes.items()}
        attributes |= {f'{i}.name': node.name, f'{i}.inputs': [places[v] for v in read[i]], f'{i}.slot': slot}
    old = nodes[-1].outputs[0]
    op = 'QSequence' if nodes[-1].op_type in _GIVE_BYTES else 'Sequence'
    attrs = [ir.convenience.convert_attribute(name, value) for name, value in attributes.items()]  # type: ignore[arg-type]
    new = ir.Node(DOMAIN, op, inputs, attrs, num_outputs=1, name=f'{nodes[0].name}.{op}')
    graph.insert_before(nodes[0], new)
    y = new.outputs[0]
    y.type, y.shape = old.type, old.shape
    for i, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[i] = y
    ir.convenience.replace_all_uses_with(old, y)
    graph.remove(nodes, safe=True)
    y.name = old.name


def _slots(nodes: list[ir.Node], read: list[list[ir.Value]]) -> list[int]:
    """For each node the part of the sequence's memory that it writes: one that nothing reads any more."""
    last_read = {value: i for i, values in enumerate(read) for value in values}
    slots: list[int] = []
    held: dict[int, ir.Value] = {}
    for i, node in enumerate(nodes):
        held = {slot: value for slot, value in held.items() if last_read.get(value, -1) >= i}
        slot = next(slot for slot in range(len(held) + 1) if slot not in held)
        held[slot] = node.outputs[0]
        slots.append(slot)
    return slots
